"""`genre train export-vgg16`: the reproduced network becomes models/vgg16/, with what its form costs in its card.

Reads the folder that `genre train reproduce` wrote and trains nothing. The artist-separated network is the one that
is exported, because its accuracy means something. Start at `export_vgg16`; training/vgg16_onnx.py makes the graphs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError
from services.featurizer.recipe import load_recipe
from services.inference.card import MODEL_FILE, Card
from training import cost, folder, metrics, triton_config, winograd
from training.gtzan import GENRES
from training.reproduce import WINDOWS
from training.terminal import quiet

LEAST_AGREEMENT = 0.99
"""Share of real windows on which the deployed form must give the genre that plain float32 gives."""
PRECISIONS = {"int8": ("int8", "int8 static QDQ"), "fp32": (winograd.PRECISION, winograd.PRECISION)}
"""What can be asked for -> its name and how the card puts it. A GPU takes plain float32 whatever a CPU takes."""
INGREDIENTS = [
    {
        "name": "VGG16 convolutions trained on ImageNet",
        "licence": "CC BY 4.0",
        "source": "Visual Geometry Group, Oxford",
    },
    {
        "name": "GTZAN clips of the fault-filtered training and validation lists",
        "licence": "research material; no audio is contained in the model",
        "source": "GTZAN (Tzanetakis and Cook), lists of Kereliuk et al. 2015",
    },
]
SUBSET = "Trained on a subset of GTZAN, most of it pieces of 2 to 3 s by few artists: far from the paper's 97 %."
WHOLE = "The paper's 97 % is of randomly chosen segments, where pieces of a song are on both sides."
FAULTS = [
    "GTZAN's ten genres (recorded before 2002) are all it knows: other music is given the nearest of them.",
    "It costs more than any other model here and is less accurate: take it to compare, not to serve.",
]


@dataclass(frozen=True)
class Reproduced:
    """What the export needs of a run: its result, the network's weights, its windows and who they belong to."""

    result: dict[str, Any]
    weights: Any
    features: NDArray[np.float32]
    train: NDArray[np.intp]
    valid: NDArray[np.intp]
    labels: NDArray[np.intp]
    clip: NDArray[np.intp]


@click.command("export-vgg16")
@click.option(
    "--reproduced",
    type=click.Path(path_type=Path),
    default=Path("reproduce"),
    show_default=True,
    help="Folder that 'genre train reproduce' wrote.",
)
@click.option("--models", type=click.Path(path_type=Path), default=Path("models"), show_default=True)
@click.option("--version", "model_version", default="1", show_default=True, help="Version written into the card.")
@click.option(
    "--calibration",
    type=click.IntRange(16, 10_000),
    default=256,
    show_default=True,
    help="Training windows that set the int8 ranges.",
)
@click.option("--target", type=click.Choice(triton_config.TARGETS), default="cpu", show_default=True)
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    default="int8",
    show_default=True,
    help="Of the form that a CPU runs; fp32 is Winograd's, a fifth cheaper there than plain float32.",
)
def export_vgg16(
    reproduced: Path, models: Path, model_version: str, calibration: int, target: str, precision: str
) -> None:
    """Write models/vgg16/ (int8) from a reproduced VGG16, and its float32 form beside it as fp32.onnx.

    \b
    Example: genre train export-vgg16 --reproduced reproduce
    """  # fmt: skip
    found = read(reproduced)
    card = write(found, models, model_version, calibration, target, precision)
    told = next(line for line in card.costs if line.agreement is not None)
    assert told.agreement is not None
    click.echo(
        f"wrote {card.folder} ({sum(file.bytes for file in card.files) / 1e6:.1f} MB) for {target}: the same genre as "
        f"float32 in {told.agreement:.2%} of {told.agreement_windows} windows, {told.cpu_ms:.1f} CPU-ms a window"
    )


def read(reproduced: Path) -> Reproduced:
    """Read back a run of `genre train reproduce`.

    Raises:
        GenreError: for a folder that holds none, or whose parts do not fit each other.
    """
    with quiet():
        import keras

        from training.vgg16 import INPUT, read_weights
    try:
        result = json.loads((reproduced / "reproduce.json").read_text(encoding="utf-8"))
        shape = tuple(result["data"]["shape"])
        features = np.memmap(reproduced / result["data"]["features"], np.float32, "r", shape=shape)
        with np.load(reproduced / "work" / "artist" / WINDOWS) as windows:
            parts = {name: windows[name] for name in ("train", "valid", "labels", "clip")}
        weights = read_weights(keras.models.load_model(reproduced / "vgg16-artist.keras", compile=False))
        if shape[1:] != INPUT or len(parts["labels"]) != len(features):
            raise ValueError(f"features of shape {shape} for {len(parts['labels'])} windows")
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "run 'genre train reproduce' again with the same --out"
        raise GenreError(
            str(reproduced), f"holds no whole run ({' '.join(str(error).split())[:200]})", remedy
        ) from error
    return Reproduced(result, weights, features[..., 0], **parts)


def write(
    found: Reproduced, models: Path, version: str, calibration: int, target: str = "cpu", precision: str = "int8"
) -> Card:
    """Make both forms, compare them on the validation windows, and write the model's folder.

    Args:
        precision: of `PRECISIONS`, the form that is deployed; the other is plain float32.

    Raises:
        GenreError: where the two disagree on more than one window in a hundred; nothing is written then.
    """
    from training import vgg16_onnx

    valid = np.sort(found.valid)
    heard, labels = np.asarray(found.features[valid]), found.labels[valid]
    names, clip_of = np.unique(found.clip[valid], return_inverse=True)
    clip_labels = np.zeros(len(names), np.intp)
    clip_labels[clip_of] = labels

    plain = vgg16_onnx.scores(vgg16_onnx.float_model(found.weights), heard, 2)
    temperature = metrics.fit_temperature(np.log(np.maximum(plain, 1e-9)), labels)
    whole = vgg16_onnx.float_model(found.weights, temperature)
    (form, form_in_card), made = PRECISIONS[precision], {}
    if precision == "int8":
        chosen = np.random.default_rng(0).permutation(found.train)[:calibration]
        deployed = vgg16_onnx.int8_model(whole, np.asarray(found.features[np.sort(chosen)]))
        windows = f"MinMax of {len(chosen)} training windows"
        made["int8"] = f"{windows}, 7-bit weights by channel, first and last layers float"
    else:
        deployed = vgg16_onnx.float_model(found.weights, temperature, winograd=True)
    calibrated = metrics.softmax(np.log(np.maximum(plain, 1e-9)) / temperature)
    answers = vgg16_onnx.scores(deployed, heard, 2)
    agreement = vgg16_onnx.agreement(calibrated, answers)
    if agreement < LEAST_AGREEMENT:
        reason = f"{form} gives another genre than float32 in {1 - agreement:.2%} of {len(valid)} windows"
        raise GenreError("vgg16", reason, "give more --calibration windows")

    correlation = metrics.fit_correlation(answers, clip_of, clip_labels)
    artist, recipe = found.result["protocols"]["artist"], load_recipe("vgg16")
    protocol = f"{artist['protocol']}; the temperature is fitted on the same {len(valid)} windows, so ece flatters"
    evaluations = [
        {
            "protocol": protocol,
            "command": "genre train export-vgg16",
            "precision": name,
            **{
                key: value
                for key, value in metrics.measure(part, clip_of, clip_labels, GENRES, correlation).as_dict().items()
                if key != "confusion"
            },
        }
        for name, part in ((form, answers), ("fp32", calibrated))
    ]
    contents = deployed.SerializeToString(), whole.SerializeToString()
    costs = [_cost(name, content, recipe.shape) for name, content in zip((form, "fp32"), contents, strict=True)]
    costs[0] |= {"agreement": round(agreement, 4), "agreement_windows": len(valid)}
    settings = found.result["settings"]
    values = {
        "name": "vgg16",
        "version": version,
        "summary": "The paper's network, for comparison: the heaviest, and the least accurate on new artists.",
        "labels": GENRES,
        "recipe": recipe,
        "recipe_digest": recipe.digest,
        "max_batch": 8,
        "precision": form_in_card,
        "gpu_precision": "fp32",
        "parameters": settings["parameters"],
        "opset": vgg16_onnx.OPSET,
        "temperature": temperature,
        "unsure_below": 0.3,
        "window_correlation": correlation,
        "training": {
            "data": f"{artist['n_train_windows']} windows of 66,000 samples; {artist['protocol']}",
            "method": f"the last {settings['train_blocks']} of 5 blocks and the head, {len(artist['history'])} epochs, "
            + ", ".join(f"{name} {settings[name]}" for name in ("learning_rate", "decay", "momentum", "batch", "seed")),
            **made,
            "time": f"{artist['seconds']:.0f} s",
        },
        "evaluations": evaluations,
        "costs": costs,
        "ingredients": INGREDIENTS,
        "faults": [WHOLE if found.result["whole_set"] else SUBSET, *FAULTS],
    }
    # The float form is no file of the card: 60 MB that the services do not need, made again by this command.
    return folder.write(
        models, values, {MODEL_FILE: (contents[0], "answers in the service", form)}, target, contents[1]
    )


def _cost(form: str, content: bytes, shape: tuple[int, int]) -> dict[str, Any]:
    """Measure one form."""
    cpu_ms, mib = cost.of(content, shape)
    told = {"form": f"ONNX Runtime {form}", "machine": cost.machine(), "cpu_ms": cpu_ms, "memory_mib": mib}
    return {**told, "command": "genre train export-vgg16"}
