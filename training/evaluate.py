"""`genre train evaluate`: what a model is worth on clips that you name, from audio or from taggrams.

Audio takes the service's own path: windows, features, engine, verdict. Not a split: keeping the clips apart from
training is up to whoever names them. Start at `evaluate`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from services import settings
from services.errors import GenreError, UsageError
from services.featurizer.features import Featurizer
from services.featurizer.windows import levels
from services.inference.card import Card, load_card
from services.inference.onnx_backend import OnnxBackend, session
from training import gtzan, metrics, taggrams
from training.folder import REFERENCE_FILE, TAG_HEAD_FILE

Scores = NDArray[np.float32]


@click.command()
@click.option("--model", help="Model to measure.  [default: the one that services use]")
@click.option("--audio", type=click.Path(path_type=Path), help="Folder of audio files; needs --index.")
@click.option("--index", type=click.Path(path_type=Path), help="CSV file with the columns file, genre.")
@click.option("--tags", type=click.Path(path_type=Path), help="Taggrams instead of audio (.npz with X, Y, IDS).")
@click.option("--models", type=click.Path(path_type=Path), help="Folder of models.  [default: models]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def evaluate(
    model: str | None, audio: Path | None, index: Path | None, tags: Path | None, models: Path | None, as_json: bool
) -> None:
    """Measure a model's accuracy by clip and by window, its confusions and its calibration.

    \b
    Example: genre train evaluate --model musicnn --audio clips --index clips/index.csv
    Example: genre train evaluate --tags test.npz --json
    """
    if (tags is None) == (audio is None) or (audio is None) != (index is None):
        raise UsageError("train evaluate", "needs clips", "give --audio DIR with --index FILE, or --tags FILE")
    defaults = settings.Inference()
    card = load_card(models or models_folder(defaults.models_dir), model or defaults.model)
    if tags is not None:
        report = of_tags(card, tags)
    else:
        assert audio is not None and index is not None
        report = of_audio(card, audio, index)
    click.echo(json.dumps(report) if as_json else table(card, report))


def models_folder(default: Path) -> Path:
    """Return the folder of models: here, or else the project's own."""
    return default if default.is_dir() else Path(__file__).resolve().parents[1] / default


def of_tags(card: Card, path: Path) -> dict[str, Any]:
    """Measure a model's tag head on a taggram file.

    Raises:
        GenreError: for a model without a tag head, or a file that is no taggram.
    """
    if not card.has(TAG_HEAD_FILE):
        raise GenreError(f"model {card.name!r}", "has no tag head", "measure it with --audio")
    data = taggrams.load(path)
    head = session(card.path(TAG_HEAD_FILE))
    (scores,) = head.run(["scores"], {"tags": data.tags})
    numbers = metrics.measure(scores, data.clip_of, data.clip_labels, card.labels, card.window_correlation)
    # The head is float32 in every export, so what is deployed is what was trained.
    chance = metrics.ece_if_calibrated(scores, data.clip_of, len(data.clips), card.window_correlation)
    return _report(card, "tags", numbers, numbers, {"deployed_form": "fp32", "clip_ece_if_calibrated": chance})


def of_audio(card: Card, audio: Path, index: Path) -> dict[str, Any]:
    """Measure a model on audio files, as the service hears them.

    Raises:
        GenreError: for an index that is none, or no file that can be read; single files that can't are skipped.
    """
    clips = gtzan.from_index(audio, index)
    unknown = sorted({clip.genre for clip in clips} - set(card.labels))
    if unknown:
        raise GenreError(str(index), f"genre {unknown[0]!r} is not one of the model's", f"use {', '.join(card.labels)}")
    engines = {"deployed": OnnxBackend(card)}
    if card.path(REFERENCE_FILE).is_file():
        engines["fp32"] = OnnxBackend(card, path=card.path(REFERENCE_FILE))
    featurizer = Featurizer(card.recipe)
    scores: dict[str, list[Scores]] = {form: [] for form in engines}
    clip_of: list[int] = []
    heard: list[Any] = []
    used: list[gtzan.Clip] = []
    skipped: list[dict[str, str]] = []
    with click.progressbar(clips, label="clips", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        for clip in bar:
            try:
                pcm = gtzan.windows(gtzan.read(clip.path)).pcm
            except GenreError as error:
                skipped.append({"file": error.thing, "reason": error.reason})
                continue
            tensors = featurizer.features(pcm)
            for form, engine in engines.items():
                scores[form].append(engine.scores(tensors))
            loud = levels(pcm).rms_dbfs >= card.silent_dbfs
            # A clip that is silent all through is still one to be right or wrong about.
            heard.append(loud if loud.any() else np.ones(len(pcm), bool))
            clip_of += [len(used)] * len(pcm)
            used.append(clip)
    for skip in skipped:
        click.echo(f"skipped {skip['file']}: {skip['reason']}", err=True)
    if not used:
        raise GenreError(str(audio), "has no clip that can be read", "see the lines above")
    kept = np.concatenate(heard)
    clip_labels = np.array([card.labels.index(clip.genre) for clip in used], np.intp)
    everything = {form: np.concatenate(parts) for form, parts in scores.items()}
    measured = {
        form: metrics.measure(
            part[kept], np.array(clip_of, np.intp)[kept], clip_labels, card.labels, card.window_correlation
        )
        for form, part in everything.items()
    }
    chance = metrics.ece_if_calibrated(
        everything["deployed"][kept], np.array(clip_of, np.intp)[kept], len(used), card.window_correlation
    )
    extra: dict[str, Any] = {
        "clip_ece_if_calibrated": chance,
        "n_silent": int((~kept).sum()),
        "skipped": skipped,
        "deployed_form": card.precision,
    }
    float_form = "fp32" if "fp32" in everything else "deployed" if card.precision == "fp32" else None
    if float_form:
        same = everything["deployed"].argmax(axis=1) == everything[float_form].argmax(axis=1)
        extra["agreement_with_fp32"] = round(float(same.mean()), 4)
    return _report(card, "audio", measured["deployed"], measured[float_form] if float_form else None, extra)


def _report(
    card: Card, source: str, deployed: metrics.Measured, fp32: metrics.Measured | None, extra: dict[str, Any]
) -> dict[str, Any]:
    """Return the report: the deployed precision's numbers at the top, fp32's under "fp32" (null: no such file here)."""
    return {
        "model": card.name,
        "model_version": card.version,
        "source": source,
        **deployed.as_dict(),
        **extra,
        "labels": list(card.labels),
        "fp32": fp32.as_dict() if fp32 else None,
    }


def table(card: Card, report: dict[str, Any]) -> str:
    """Return a report as a person reads it."""
    lines = [f"{report['model']} {report['model_version']} from {report['source']}, {report['deployed_form']}:"]
    shown = [("deployed", report)] + ([("fp32", report["fp32"])] if report["fp32"] else [])
    for form, part in shown:
        lines.append(
            f"  {form:<9} clips {_share(part['clip_accuracy'], part['clip_interval'])} of {part['n_clips']}, "
            f"windows {_share(part['window_accuracy'], part['window_interval'])} of {part['n_windows']}, "
            f"ECE {part['ece']:.3f} (clips {part['clip_ece']:.3f})"
        )
    chance = report["clip_ece_if_calibrated"]
    lines.append(f"  so few clips would show an ECE of {chance:.3f} if each confidence were true")
    if "agreement_with_fp32" in report:
        lines.append(f"  the same genre as fp32 in {report['agreement_with_fp32']:.2%} of windows")
    return "\n".join([*lines, "", *_confusion(card.labels, report)])


def _confusion(labels: Sequence[str], report: dict[str, Any]) -> list[str]:
    """Return the confusion matrix of clips as lines: rows are true genres, columns the model's."""
    lines = [" " * 10 + "".join(f"{label[:5]:>6}" for label in labels) + "  accuracy"]
    for label, row in zip(labels, report["confusion"], strict=True):
        if sum(row):
            share = f"{report['per_genre'][label]:>9.1%}"
            lines.append(f"{label:<10}" + "".join(f"{count or '.':>6}" for count in row) + share)
    return lines


def _share(value: float, interval: Sequence[float]) -> str:
    """Return a share with its 95 % interval."""
    return f"{value:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"
