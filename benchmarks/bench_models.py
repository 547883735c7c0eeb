"""Models that only benchmarks need: VGG16 for Keras and in float32, too large to track, and one that costs nothing.

The weights are random (seed 0): a convolution costs the same whatever it multiplies. A shipped int8 VGG16 is taken.
Keras is imported here, so it runs as a process of its own: `python -m benchmarks.bench_models OUT HLS`.
Start at `made`, which starts that process where something is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError
from training.vgg16 import winograd

KERAS_FILE = "vgg16.keras"
FLOAT_MODEL = "vgg16_fp32"
INT8_MODEL = "vgg16"
NO_MODEL = "nothing"
"""The mean of each band and one dense layer: what is left is the cost of the pipeline itself."""
OWN = (FLOAT_MODEL, INT8_MODEL, NO_MODEL)
_CALIBRATION_WINDOWS = 32


def made(folder: Path, models_dir: Path, hls: Path) -> Path:
    """Return a models folder with every shipped model and those of this page; the Keras file lies beside it.

    Args:
        folder: where it is made, once.
        models_dir: the shipped models; their folders are linked, not copied.
        hls: music that int8 ranges are calibrated on, where no int8 VGG16 is shipped.

    Raises:
        GenreError: Keras is not installed, or the files could not be made.
    """
    repository = folder / "models"
    repository.mkdir(parents=True, exist_ok=True)
    if repository.resolve() == models_dir.resolve():
        return repository
    for link in repository.iterdir():
        if link.is_symlink():
            link.unlink()
    for model in sorted(models_dir.iterdir()) if models_dir.is_dir() else []:
        if not (model / "card.json").is_file():
            continue
        place = repository / model.name
        if place.is_dir():  # one of ours, made while nothing was shipped
            shutil.rmtree(place)
        place.symlink_to(model.resolve())
    cards = [repository / name / "card.json" for name in (INT8_MODEL, NO_MODEL)]
    if not (_has_float(repository) and all(file.exists() for file in (folder / KERAS_FILE, *cards))):
        argv = [sys.executable, "-m", "benchmarks.bench_models", str(folder), str(hls)]
        env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, env=env, cwd=Path(__file__).resolve().parents[1]
        )
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise GenreError(
                "the models of the benchmarks", f"can't be made ({said})", "run 'make test' once: it installs Keras"
            )
    return repository


def _has_float(repository: Path) -> bool:
    """Whether the float32 model is there in the form that `genre train export-vgg16 --precision fp32` writes today."""
    try:
        card = json.loads((repository / FLOAT_MODEL / "card.json").read_bytes())
    except (OSError, ValueError):
        return False
    return bool(card.get("precision") == winograd.PRECISION)


def _make(folder: Path, hls: Path) -> None:
    """Write what is missing."""
    import keras
    import onnx

    from services.contract.recipe import load_recipe
    from services.inference.card import MODEL_FILE
    from training.data.gtzan import GENRES
    from training.folder import write
    from training.onnx_graph import Graph
    from training.vgg16.network import network, read_weights
    from training.vgg16.onnx_graph import OPSET, float_model, int8_model

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / KERAS_FILE
    if file.exists():
        model: Any = keras.models.load_model(file)
    else:
        keras.utils.set_random_seed(0)
        model = network()
        model.save(file)
    recipe = load_recipe("vgg16")
    weights = read_weights(model)
    graph = float_model(weights)
    card: dict[str, Any] = {
        "version": "0",
        "summary": "A model of the benchmarks: its cost is real, its answers are not.",
        "labels": GENRES,
        "recipe": recipe,
        "recipe_digest": recipe.digest,
        "parameters": int(model.count_params()),
        "opset": OPSET,
        "temperature": 1.0,
        "unsure_below": 0.0,
        "training": {"weights": "random, seed 0"},
        "ingredients": [{"name": "random numbers", "licence": "none", "source": "benchmarks/bench_models.py"}],
        "faults": ["It knows no music."],
    }
    repository = folder / "models"
    repository.mkdir(exist_ok=True)
    if not _has_float(repository):
        fast = float_model(weights, winograd=True)
        content = {MODEL_FILE: (fast.SerializeToString(), "benchmark", winograd.PRECISION)}
        write(repository, {**card, "name": FLOAT_MODEL, "precision": winograd.PRECISION}, content)
    if not (repository / INT8_MODEL).exists():
        small: onnx.ModelProto = int8_model(graph, _features(hls), "MinMax")
        content = {MODEL_FILE: (small.SerializeToString(), "benchmark", "int8 static QDQ")}
        write(repository, {**card, "name": INT8_MODEL, "precision": "int8 static QDQ"}, content)

    if not (repository / NO_MODEL).exists():
        empty = Graph()
        mean = empty.add("ReduceMean", "features", axes=[1], keepdims=0)
        layer = np.random.default_rng(0).normal(0, 0.01, (recipe.view.bands, len(GENRES)))
        logits = empty.add("Gemm", mean, empty.weight(layer), empty.weight(np.zeros(len(GENRES))))
        empty.add("Softmax", logits, name="scores", axis=1)
        nothing = empty.model({"features": recipe.shape}, {"scores": [len(GENRES)]})
        content = {MODEL_FILE: (nothing.SerializeToString(), "benchmark", "fp32")}
        write(repository, {**card, "name": NO_MODEL, "precision": "fp32"}, content)


def _features(hls: Path) -> NDArray[np.float32]:
    """Return some windows of the music."""
    import av

    from services.contract.recipe import load_recipe
    from services.featurizer.features import Featurizer

    recipe = load_recipe("vgg16")
    pieces = []
    for segment in sorted((hls / "radio" / "128k").glob("*.ts"))[::4]:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=22_050)
        with av.open(str(segment)) as container:
            frames = [ready for frame in container.decode(audio=0) for ready in resampler.resample(frame)]
        pieces.append(np.concatenate([frame.to_ndarray()[0] for frame in frames])[: recipe.window])
    windows = np.stack([piece for piece in pieces if piece.size == recipe.window][:_CALIBRATION_WINDOWS])
    return Featurizer(recipe).features(windows)


if __name__ == "__main__":
    try:
        _make(Path(sys.argv[1]), Path(sys.argv[2]))
    except GenreError as error:
        sys.exit(str(error))
