"""What a model's scores mean: is there a genre at all, and what do 30 seconds of windows say together.

Pure functions of scores and levels; no model, no message. Start at `judge` for one window, `pool` for many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from services.inference.card import Card

Kind = Literal["music", "silence", "unsure"]


@dataclass(frozen=True)
class Verdict:
    """A genre with its confidence, or the reason why there is none.

    Attributes:
        genre: None where kind is "silence"; the best guess where it is "unsure".
        confidence: calibrated probability of genre; 0 where it is None.
        kind: "silence" (nothing to hear), "unsure" (too weak to act on: between genres, speech, noise) or "music".
        scores: probability of each label, float32 [labels]; all zeros where kind is "silence".
        windows: how many windows that were not silent it rests on.
    """

    genre: str | None
    confidence: float
    kind: Kind
    scores: NDArray[np.float32]
    windows: int


def judge(scores: NDArray[np.float32], level_dbfs: float, card: Card) -> Verdict:
    """Judge one window.

    Args:
        scores: calibrated probabilities, shape [labels].
        level_dbfs: RMS level of the window.
        card: says below which level a window is silent and below which probability a guess is unsure.
    """
    if level_dbfs < card.silent_dbfs:
        return _silence(card)
    return _best(np.asarray(scores, np.float32), 1, card)


def pool(scores: NDArray[np.float32], levels_dbfs: NDArray[np.float32], card: Card) -> Verdict:
    """Judge a stretch of windows together, such as the last 30 s of a stream or a clip; silent ones have no vote.

    Windows are averaged, not multiplied: one window that is wrong and sure of it then can't outvote the rest (over
    GTZAN's training clips the average is right on 1 % more of them). An average is too timid, for many witnesses say
    more than one: it is raised to the power n / (1 + (n - 1) r), Kish's effective number of n witnesses whose errors
    have correlation r. One window alone is judged as by `judge`.

    Args:
        scores: calibrated probabilities, shape [windows, labels].
        levels_dbfs: RMS level of each window, shape [windows].
        card: also holds r, fitted so that the verdict's confidence is calibrated.
    """
    heard = np.asarray(scores, np.float64)[np.asarray(levels_dbfs) >= card.silent_dbfs]
    if not len(heard):
        return _silence(card)
    return _best(pooled(heard, card.window_correlation), len(heard), card)


def pooled(scores: NDArray[np.floating], correlation: float) -> NDArray[np.float32]:
    """Return the probabilities of several windows pooled as in `pool`: [windows, labels] -> [labels]."""
    count = len(scores)
    effective = count / (1 + (count - 1) * correlation)
    mean = np.asarray(scores, np.float64).mean(axis=0)
    evidence = (mean / mean.max()) ** effective
    return np.asarray(evidence / evidence.sum(), np.float32)


def _best(scores: NDArray[np.float32], windows: int, card: Card) -> Verdict:
    """Return the verdict for the most probable label."""
    place = int(scores.argmax())
    confidence = min(1.0, float(scores[place]))
    return Verdict(
        card.labels[place], confidence, "unsure" if confidence < card.unsure_below else "music", scores, windows
    )


def _silence(card: Card) -> Verdict:
    """Return the verdict on silence."""
    return Verdict(None, 0.0, "silence", np.zeros(len(card.labels), np.float32), 0)
