"""`half`: tensors as float16 on the bus (`featurizer.dtype`): what it saves, and what it does to the answers.

The answers are compared on windows of music, without the bus; the cost is the services' own, float32 and float16 in
turns. Start at `run`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bench_models
from benchmarks.accounting import Spread, spread
from benchmarks.material import RECORDINGS, Material
from benchmarks.pipeline import Stage
from benchmarks.report import Report
from services.classify.audio_file import Heard
from services.classify.decode import pieces
from services.classify.pipeline import windowed
from services.errors import GenreError
from services.featurizer.features import Featurizer
from services.inference.card import load_card
from services.inference.onnx_backend import OnnxBackend
from services.origin.packager import music_files

FORMS = ("float32", "float16")


def answers(models: Path, model: str, files: list[Path], hop: int) -> dict[str, float]:
    """Compare the scores of float16 features with those of float32 ones, window by window."""
    card = load_card(models, model)
    featurizer, engine = Featurizer(card.recipe), OnnxBackend(card)
    count = same = 0
    furthest = 0.0
    for file in files:
        try:
            pcm = np.stack([window for _, _, window in windowed(pieces(file, Heard()), hop)])
        except (GenreError, ValueError):  # nothing to hear in it
            continue
        views = featurizer.views(pcm)
        halves = {name: view.astype(np.float16).astype(np.float32) for name, view in views.items()}
        whole, half = engine.answer(views).scores, engine.answer(halves).scores
        count += len(whole)
        same += int((whole.argmax(axis=1) == half.argmax(axis=1)).sum())
        furthest = max(furthest, float(np.abs(whole - half).max()))
    if not count:
        raise GenreError("the music", "holds no window", "name a folder of music with --music")
    return {"windows": count, "agreement": same / count, "largest_difference": furthest}


def run(
    out: Path, models_dir: Path, music: Path | None, model: str, repeats: int, scale: float, say: Callable[[str], None]
) -> Path:
    """Measure both and write the report; return its folder."""
    material = Material.made(out / "material", music)
    repository = bench_models.made(out / "material", models_dir, material.hls)
    report = Report(f"half-{model}", out, {"model": model, "repeats": repeats, "scale": scale})
    files = music_files(music or RECORDINGS)
    found = answers(repository, model, files, 33_000)
    stage = Stage(material, repository, out / "material" / bench_models.KERAS_FILE, scale)
    costs: dict[str, list[dict[str, Any]]] = {form: [] for form in FORMS}
    try:
        excerpt = stage.excerpt(model)
        for _ in range(repeats):
            for form in FORMS:
                costs[form].append(stage.services(excerpt, model, "onnx", {"featurizer": {"dtype": form}}))
    finally:
        stage.close()
    report.values |= {"answers": found, "costs": costs}

    def of(form: str, what: str) -> Spread:
        return spread([one[what] for one in costs[form]])

    rows = [
        [form, of(form, "cpu_ms_per_audio_s"), f"{costs[form][-1]['mqtt_bytes'] / excerpt.seconds / 1000:.0f}"]
        for form in FORMS
    ]
    say(report.table(f"{model}: tensors on the bus", ["", "CPU-ms per audio-s", "MQTT kB/s"], rows))
    rows = [[found["windows"], f"{found['agreement']:.2%}", f"{found['largest_difference']:.2g}"]]
    say(report.table("Answers from float16 against float32", ["windows", "same genre", "largest difference"], rows))
    return report.save()
