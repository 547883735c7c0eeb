"""`genre train evaluate`: what models are worth on sounds that you name, from audio or from taggrams.

Audio takes the service's own path: windows, features, engine, decision. Not a split: keeping the sounds apart from
training is up to whoever names them. Start at `evaluate`; training/data/sounds.py reads the sounds, training/report.py
says it to a person.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError, UsageError
from services.featurizer.features import Featurizer
from services.featurizer.levels import levels
from services.inference.answer import Answer
from services.inference.card import KINDS, Card, load_card, model_names
from services.inference.onnx_backend import OnnxBackend, session
from services.settings import schema
from training import metrics, report
from training.data import taggrams
from training.data.gtzan import NO_GENRE
from training.data.sounds import Sounds, read_sounds
from training.degradations import ROBUSTNESS, Pcm, over
from training.folder import REFERENCE_FILE, TAG_HEAD_FILE, command, known_clips, models_folder

Scores = NDArray[np.float32]
TALK_DB = (-12.0, -6.0)
"""How loud talk over music is tried, against the music."""


@click.command()
@click.option("--model", help="Model to measure.  [default: the one that services use]")
@click.option("--all", "every", is_flag=True, help="Measure every model of the folder, one line each.")
@click.option(
    "--audio", type=click.Path(path_type=Path), help="Folder of audio files: one folder a genre, or with --index."
)
@click.option(
    "--index", type=click.Path(path_type=Path),
    help="CSV file with the columns file, genre; speech, other, music and silence may stand for a genre.",
)  # fmt: skip
@click.option("--robustness", is_flag=True, help="Also at other levels, through codecs, and with talk over the music.")
@click.option("--tags", type=click.Path(path_type=Path), help="Taggrams instead of audio (.npz with X, Y, IDS).")
@click.option("--models", type=click.Path(path_type=Path), help="Folder of models.  [default: models]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def evaluate(
    model: str | None, every: bool, audio: Path | None, index: Path | None, robustness: bool, tags: Path | None,
    models: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure a model's accuracy by clip and by window, its kinds, its confusions and its calibration.

    \b
    Example: genre train evaluate --model vgg16 --audio clips --index clips/index.csv
    Example: genre train evaluate --all --audio clips --index clips/index.csv
    Example: genre train evaluate --robustness --audio clips --index clips/index.csv
    Example: genre train evaluate --tags test.npz --json
    """
    if (tags is None) == (audio is None) or (index is not None and audio is None):
        raise UsageError("train evaluate", "needs clips", "give --audio DIR, perhaps with --index FILE, or --tags FILE")
    if (tags and (robustness or every)) or (every and model):
        raise UsageError(
            "train evaluate", "these options exclude each other", "give --robustness and --all with --audio"
        )
    defaults = schema.Inference()
    folder = models or models_folder(defaults.models_dir, "" if every else model or defaults.model)
    given = [("--audio", audio), ("--index", index), ("--tags", tags)]
    words = [word for option, path in given if path for word in (option, path)]
    one = defaults.model if model is None else model
    if tags is not None:
        card = load_card(folder, one)
        found = {"command": command("evaluate", "--model", card.name, *words, "--json"), **of_tags(card, tags)}
        click.echo(json.dumps(found) if as_json else report.table(found))
        return
    assert audio is not None
    cards = [load_card(folder, name) for name in (model_names(folder) if every else [one])]
    if not cards:
        raise GenreError(str(folder), "holds no model", "give --models the folder of models")
    heard = read_sounds(audio, index)
    left = read_sounds(audio, index, channel=0) if robustness else None
    words += ["--robustness"] if robustness else []
    reports = [
        {
            "command": command("evaluate", "--model", card.name, *words, "--json"),
            **of_audio(card, heard, left),
        }
        for card in cards
    ]
    if as_json:
        click.echo(json.dumps({"models": reports} if every else reports[0]))
    else:
        click.echo(report.of_models(reports) if every else report.table(reports[0]))


def of_tags(card: Card, path: Path) -> dict[str, Any]:
    """Measure a model's tag head on a taggram file.

    Raises:
        GenreError: for a model without a tag head, or a file that is no taggram.
    """
    if not card.has(TAG_HEAD_FILE):
        raise GenreError(f"model {card.name!r}", "has no tag head", "measure it with --audio")
    data = taggrams.load(path, genres=card.labels)
    head = session(card.path(TAG_HEAD_FILE))
    (scores,) = head.run(["scores"], {"tags": data.tags})
    numbers = metrics.measure(scores, data.clip_of, data.clip_labels, card.labels, card.window_correlation)
    # The head is float32 in every export, so what is deployed is what was trained.
    chance = metrics.ece_if_calibrated(scores, data.clip_of, len(data.clips), card.window_correlation)
    extra = {"deployed_form": "fp32", "clip_ece_if_calibrated": chance}
    return {**_about(card, "tags"), **numbers.as_dict(), **extra, "fp32": numbers.as_dict()}


def of_audio(card: Card, sounds: Sounds, left: Sounds | None = None) -> dict[str, Any]:
    """Measure a model on sounds, as the service hears them.

    Args:
        left: the same of the first channel alone; where it is given, robustness is measured too.

    Returns:
        The deployed form's numbers; the float form's under "fp32" (null: no such file here); null numbers where no
        sound has a genre. "kinds" (null: the model tells none), and "robustness" where `left` is given.
    """
    unknown = sorted({clip.genre for clip in sounds.clips} - set(card.labels) - set(NO_GENRE))
    if unknown:
        raise GenreError(
            "--index", f"genre {unknown[0]!r} is not one of {card.name}'s", f"use {', '.join(card.labels)}"
        )
    engine = OnnxBackend(card)
    answer, loud = _hear(engine, card, sounds.pcm)
    seen = known_clips(card) & {clip.name for clip in sounds.clips}
    if seen:
        what = f"{len(seen)} of {len(sounds.clips)} clips are of those it learnt from or was chosen by"
        click.echo(f"warning: {card.name}: {what}: these figures flatter it", err=True)
    made: dict[str, Any] = {
        **_about(card, "audio"),
        "n_known_clips": len(seen),
        "skipped": sounds.skipped,
        "n_silent": int((~loud).sum()),
    }
    made |= {"deployed_form": card.precision, "fp32": None}
    music = _Music.of(card, sounds, loud)
    if music is not None:
        made |= music.measure(answer.scores)
        if (reference := card.path(REFERENCE_FILE)).is_file():
            floats, _ = _hear(OnnxBackend(card, path=reference), card, sounds.pcm)
            made["fp32"] = music.measure(floats.scores)
            same = floats.scores.argmax(axis=1) == answer.scores.argmax(axis=1)
            made["agreement_with_fp32"] = round(float(same.mean()), 4)
        elif card.precision == "fp32":
            made |= {"fp32": music.measure(answer.scores), "agreement_with_fp32": 1.0}
    made["kinds"] = _kinds(card, sounds, answer, loud)
    if left is not None:
        made["robustness"] = _robustness(card, engine, sounds, left, music)
    return made


@dataclass(frozen=True)
class _Music:
    """The windows that have a genre, and how they are counted."""

    card: Card
    rows: NDArray[np.intp]
    clip_of: NDArray[np.intp]
    labels: NDArray[np.intp]

    @classmethod
    def of(cls, card: Card, sounds: Sounds, loud: NDArray[np.bool_]) -> _Music | None:
        """Return them; None where there are none."""
        wanted = [clip.genre in card.labels for clip in sounds.clips]
        if not any(wanted):
            return None
        rows, clip_of = sounds.of(wanted)
        labels = np.array([card.labels.index(c.genre) for c, keep in zip(sounds.clips, wanted, strict=True) if keep])
        heard = loud[rows].copy()
        for clip in range(len(labels)):
            # A clip that is silent all through is still one to be right or wrong about.
            if not heard[clip_of == clip].any():
                heard[clip_of == clip] = True
        return cls(card, np.flatnonzero(rows)[heard], clip_of[heard], labels.astype(np.intp))

    def measure(self, scores: Scores) -> dict[str, Any]:
        """Return the numbers of some scores of all windows."""
        own, correlation = scores[self.rows], self.card.window_correlation
        numbers = metrics.measure(own, self.clip_of, self.labels, self.card.labels, correlation)
        chance = metrics.ece_if_calibrated(own, self.clip_of, len(self.labels), correlation)
        return {**numbers.as_dict(), "clip_ece_if_calibrated": chance}


def _hear(engine: OnnxBackend, card: Card, pcm: Pcm) -> tuple[Answer, NDArray[np.bool_]]:
    """Return a model's answer to windows, and which are loud enough to be judged."""
    featurizer, parts = Featurizer(card.recipe), []
    with click.progressbar(range(len(pcm)), label=card.name, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        for place in bar:
            parts.append(engine.answer(featurizer.views(pcm[place : place + 1])))

    def joined(name: str) -> Scores | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    scores = joined("scores")
    assert scores is not None
    return Answer(scores, joined("kinds"), joined("sounds")), levels(pcm).rms_dbfs >= card.silent_dbfs


def _kinds(card: Card, sounds: Sounds, answer: Answer, loud: NDArray[np.bool_]) -> dict[str, Any] | None:
    """Return how many windows of each kind are told as what, or None for a model that tells no kinds."""
    if answer.kinds is None:
        return None
    told = np.where(loud, np.array(KINDS)[answer.kinds.argmax(axis=1)], "silence")
    true = np.array([clip.kind for clip in sounds.clips])[sounds.clip_of]
    genres = np.array([clip.genre for clip in sounds.clips])[sounds.clip_of]
    names = [name for name in dict.fromkeys(NO_GENRE) if (true == name).any()]
    counts = {name: {each: int((told[true == name] == each).sum()) for each in (*KINDS, "silence")} for name in names}
    rows = loud & np.isin(true, KINDS)
    error = 0.0
    if rows.any():
        labels = np.array([KINDS.index(kind) for kind in true[rows]], np.intp)
        error = metrics.expected_calibration_error(answer.kinds[rows], labels)
    music = {
        genre: round(float(np.isin(told[genres == genre], ("speech", "other")).mean()), 4)
        for genre in card.labels
        if (genres == genre).any()
    }
    return {"told": counts, "music_called_speech_or_other": music, "ece": round(error, 4)}


def _robustness(card: Card, engine: OnnxBackend, sounds: Sounds, left: Sounds, music: _Music | None) -> dict[str, Any]:
    """Return the numbers under each degradation: share of genres right by clip and window, and of kinds."""
    kinds = np.array([clip.kind for clip in sounds.clips])[sounds.clip_of]
    talk, random = sounds.pcm[kinds == "speech"], np.random.default_rng(0)
    changed = {name: np.stack([change(window) for window in sounds.pcm]) for name, change in ROBUSTNESS.items()}
    if len(left.pcm) == len(sounds.pcm):
        changed["one channel"] = left.pcm
    if len(talk) and music is not None:
        for db in TALK_DB:
            laid = sounds.pcm.copy()
            for place in np.flatnonzero(kinds == "music"):
                laid[place] = over(talk[int(random.integers(len(talk)))], sounds.pcm[place], db)
            changed[f"talk at {db:+g} dB"] = laid
    found: dict[str, Any] = {}
    for name, pcm in {"as it is": sounds.pcm, **changed}.items():
        answer, loud = _hear(engine, card, pcm)
        row: dict[str, Any] = {"clip_accuracy": None, "window_accuracy": None}
        if music is not None:
            numbers = music.measure(answer.scores)
            row = {key: numbers[key] for key in row}
        counted = _kinds(card, sounds, answer, loud)
        row["kinds"] = _shares(counted["told"]) if counted else None
        found[name] = row
    return found


def _shares(told: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """Return the share of each kind's windows that are told as it; silence is never wrong of other sounds."""
    right = {"other": ("other", "silence")}
    return {
        kind: round(sum(row[each] for each in right.get(kind, (kind,))) / max(1, sum(row.values())), 4)
        for kind, row in told.items()
    }


def _about(card: Card, source: str) -> dict[str, Any]:
    """Return what every report begins with."""
    return {"model": card.name, "model_version": card.version, "source": source, "labels": list(card.labels)}
