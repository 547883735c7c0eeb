"""How a reproduction of the paper is judged and told: accuracy with intervals, what the data allows, the table.

Values in, values out; nothing is trained here. Start at `judge`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.gtzan import GENRES, Skipped
from training.metrics import by_clip, expected_calibration_error, wilson
from training.splits import GET_LISTS, Lists

if TYPE_CHECKING:
    from training.vgg16_arrays import Windowed

PAPER = 97.02
"""Validation accuracy in per cent that the paper states."""
WHOLE_SET = 950
"""From so many clips of about 19 windows on, a folder counts as the whole of GTZAN."""


def judge(scores: NDArray[np.float32], labels: NDArray[np.intp], clip: NDArray[np.intp]) -> dict[str, Any]:
    """Return accuracy of windows and of clips (mean log-probability of their windows), with 95 % intervals.

    Args:
        scores: probabilities, shape [windows, 10].
        labels, clip: genre and clip of each window.
    """
    answers = scores.argmax(axis=1)
    right = answers == labels
    names, place = np.unique(clip, return_inverse=True)
    pooled = np.zeros((len(names), scores.shape[1]))
    np.add.at(pooled, place, np.log(np.maximum(scores, 1e-7)))
    clip_label = np.zeros(len(names), np.intp)
    clip_label[place] = labels
    clip_right = pooled.argmax(axis=1) == clip_label
    confusion = np.zeros((len(GENRES), len(GENRES)), int)
    np.add.at(confusion, (labels, answers), 1)
    per_genre = {genre: float(right[labels == at].mean()) for at, genre in enumerate(GENRES) if (labels == at).any()}
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
    }


def describe(windowed: Windowed, skipped: list[Skipped], lists: Lists | None) -> dict[str, Any]:
    """Return what there is to say of the data, and of what it can't show."""
    windows, clips = len(windowed.labels), len(windowed.clips)
    whole = clips >= WHOLE_SET and windows >= 18 * clips
    return {
        "whole_set": whole,
        "note": "" if whole else f"{clips} clips can't confirm or refute that: it takes all 1,000, of 19 windows each.",
        "data": {
            "clips": clips,
            "windows": windows,
            "windows_by_genre": dict(
                zip(GENRES, np.bincount(windowed.labels, minlength=len(GENRES)).tolist(), strict=True)
            ),
            "shape": list(windowed.features.shape),
            "features": f"work/{windowed.file.name}",
            "padded_clips": int(windowed.padded.sum()),
            "one_window_clips": int((np.bincount(windowed.clip) == 1).sum()),
            "skipped": [asdict(item) for item in [*skipped, *windowed.skipped]],
            "lists_found": lists is not None,
        },
    }


def table(result: Mapping[str, Any], out: Path) -> str:
    """Return the result for a person."""
    data = result["data"]
    lines = [
        f"{data['clips']} clips, {data['windows']} windows, {data['padded_clips']} clips shorter than one (repeated)"
    ]
    lines += [f"skipped {item['file']}: {item['reason']}" for item in data["skipped"]]
    lines += ["", f"{'validation accuracy':<26}{'windows':>25}{'n':>7}{'clips':>24}{'n':>6}"]

    def row(title: str, told: Mapping[str, Any]) -> str:
        windows, clips = _percent(told, "window"), _percent(told, "clip")
        return f"{title:<26}{windows:>25}{told['n_windows']:>7}{clips:>24}{told['n_clips']:>6}"

    for run in result["protocols"].values():
        lines.append(row(run["title"], run))
        if run["test"]:
            lines.append(row("  official test clips", run["test"]))
    leak = result["protocols"]["random"]["songs_on_both_sides"]
    lines += [
        "",
        f"random segments: {leak:.0%} of the validation windows are of a song trained on too: that is the leak.",
    ]
    lines.append(f"artists separated: {result['protocols']['artist']['protocol']}.")
    if result["note"]:
        lines.append(f"The paper: {PAPER} % of randomly chosen segments. {result['note']}")
    if not data["lists_found"]:
        lines.append(f"No fault-filtered lists were found beside the data; {GET_LISTS} and give --splits.")
    lines.append(f"Everything else: {out / 'reproduce.json'}, figures and networks beside it.")
    return "\n".join(lines)


def _percent(told: Mapping[str, Any], kind: str) -> str:
    """Return an accuracy with its interval."""
    low, high = told[f"{kind}_interval"]
    return f"{100 * told[f'{kind}_accuracy']:.1f} % ({100 * low:.1f}-{100 * high:.1f})"
