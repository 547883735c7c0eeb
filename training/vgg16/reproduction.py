"""How a reproduction of the paper is judged and told: accuracy with intervals, what the data allows, the table.

Values in, values out; nothing is trained here. Start at `judge`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.data.data_set import Skipped
from training.data.data_set import told as told_skipped
from training.data.gtzan import GENRES
from training.data.splits import GET_LISTS, Lists
from training.figures import PAPER
from training.metrics import by_clip, expected_calibration_error, wilson

if TYPE_CHECKING:
    from training.vgg16.arrays import Windowed

WHOLE_SET = 950
"""From so many clips of about 19 windows on, a folder counts as the whole of GTZAN."""


def judge(
    scores: NDArray[np.float32], labels: NDArray[np.intp], clip: NDArray[np.intp], genres: Sequence[str] = GENRES
) -> dict[str, Any]:
    """Return accuracy of windows and of clips (mean log-probability of their windows), with 95 % intervals.

    Args:
        scores: probabilities, shape [windows, genres].
        labels, clip: genre and clip of each window.
        genres: what the labels stand for.
    """
    answers = scores.argmax(axis=1)
    right = answers == labels
    names, place = np.unique(clip, return_inverse=True)
    pooled = np.zeros((len(names), scores.shape[1]))
    np.add.at(pooled, place, np.log(np.maximum(scores, 1e-7)))
    clip_label = np.zeros(len(names), np.intp)
    clip_label[place] = labels
    clip_right = pooled.argmax(axis=1) == clip_label
    clip_confusion = np.zeros((len(genres), len(genres)), int)
    np.add.at(clip_confusion, (clip_label, pooled.argmax(axis=1)), 1)
    confusion = np.zeros((len(genres), len(genres)), int)
    np.add.at(confusion, (labels, answers), 1)
    per_genre = {genre: float(right[labels == at].mean()) for at, genre in enumerate(genres) if (labels == at).any()}
    return {
        "window_accuracy": float(right.mean()),
        "window_interval": list(by_clip(right, place, len(names))),
        "n_windows": len(labels),
        "clip_accuracy": float(clip_right.mean()),
        "clip_interval": list(wilson(int(clip_right.sum()), len(names))),
        "n_clips": len(names),
        "ece": expected_calibration_error(scores, labels),
        "per_genre": per_genre,
        "genre_mean": float(np.mean(list(per_genre.values()))),
        "confusion": confusion.tolist(),
        "clip_confusion": clip_confusion.tolist(),
    }


def describe(windowed: Windowed, skipped: list[Skipped], lists: Lists | None) -> dict[str, Any]:
    """Return what there is to say of the data, and of what it can't show."""
    windows, clips = len(windowed.labels), len(windowed.clips)
    of_paper = set(windowed.genres) <= set(GENRES)
    whole = windowed.genres == GENRES and clips >= WHOLE_SET and windows >= 18 * clips
    note = f"{clips} clips can't confirm or refute that: it takes all 1,000, of 19 windows each."
    if whole or not of_paper:
        note = ""
    return {
        "genres": list(windowed.genres),
        "whole_set": whole,
        "note": note,
        "data": {
            "clips": clips,
            "windows": windows,
            "windows_by_genre": dict(
                zip(windowed.genres, np.bincount(windowed.labels, minlength=len(windowed.genres)).tolist(), strict=True)
            ),
            "shape": list(windowed.features.shape),
            "features": f"work/{windowed.file.name}",
            "padded_clips": int(windowed.padded.sum()),
            "one_window_clips": int((np.bincount(windowed.clip) == 1).sum()),
            "skipped": [asdict(item) for item in [*skipped, *windowed.skipped]],
            "lists_found": lists is not None and lists.source == Lists.source,
        },
    }


def repeated(each: Sequence[Mapping[str, Any]], folds: int, seeds: int) -> dict[str, Any] | None:
    """Return what several trainings have in common: mean and standard deviation of their accuracies; None for none."""
    if not each:
        return None
    made: dict[str, Any] = {"folds": folds, "seeds": seeds, "each": list(each)}
    for kind in ("window", "clip"):
        values = [run[f"{kind}_accuracy"] for run in each]
        made[f"{kind}_mean"] = float(np.mean(values))
        made[f"{kind}_spread"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return made


def table(result: Mapping[str, Any], out: Path) -> str:
    """Return the result for a person."""
    data = result["data"]
    lines = [
        f"{data['clips']} clips, {data['windows']} windows, {data['padded_clips']} clips shorter than one (repeated)"
    ]
    lines += told_skipped([Skipped(**item) for item in data["skipped"]])
    lines += ["", f"{'validation accuracy':<26}{'windows':>25}{'n':>7}{'clips':>24}{'n':>6}"]

    def row(title: str, told: Mapping[str, Any]) -> str:
        windows, clips = _percent(told, "window"), _percent(told, "clip")
        return f"{title:<26}{windows:>25}{told['n_windows']:>7}{clips:>24}{told['n_clips']:>6}"

    for run in result["protocols"].values():
        lines.append(row(run["title"], run))
        if run["test"]:
            lines.append(row("  official test clips", run["test"]))
    if again := result.get("repeats"):
        what = f"{again['folds']} folds by artist" if again["folds"] else "the artist split"
        told = ", ".join(_spread(again, kind) for kind in ("window", "clip"))
        lines += [
            "",
            f"{what}, {again['seeds']} seeds: {told}; mean and standard deviation of {len(again['each'])} runs",
        ]
    leak = result["protocols"]["random"]["songs_on_both_sides"]
    lines += [
        "",
        f"random segments: {leak:.0%} of the validation windows are of a song trained on too: that is the leak.",
    ]
    lines.append(f"artists separated: {result['protocols']['artist']['protocol']}.")
    if result["note"]:
        lines.append(f"The paper: {PAPER} % of randomly chosen segments. {result['note']}")
    if not data["lists_found"] and set(result["genres"]) <= set(GENRES):
        lines.append(
            f"No fault-filtered lists were taken (with --index none are looked for): {GET_LISTS} and give --splits."
        )
    lines.append(f"Everything else: {out / 'reproduce.json'}, figures and networks beside it.")
    return "\n".join(lines)


def _spread(again: Mapping[str, Any], kind: str) -> str:
    """Return a mean accuracy with its standard deviation."""
    spread = again[f"{kind}_spread"]
    return f"{kind}s {100 * again[f'{kind}_mean']:.1f} %" + ("" if spread is None else f" ± {100 * spread:.1f}")


def _percent(told: Mapping[str, Any], kind: str) -> str:
    """Return an accuracy with its interval."""
    low, high = told[f"{kind}_interval"]
    return f"{100 * told[f'{kind}_accuracy']:.1f} % ({100 * low:.1f}-{100 * high:.1f})"
