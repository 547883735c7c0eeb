"""What a model's answer means: is there music at all, and what do the windows of a clip say together.

Pure functions of an answer, levels and the card; no model, no message. The rule for many windows is the one of
services/contract/smoothing.py. Start at `decide_window` for one window, `decide_clip` for many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from services.contract.smoothing import SILENCE, Judging, Verdict, smoothed
from services.inference.answer import Answer
from services.inference.card import Card

MOST_SOUNDS = 5
LEAST_SOUND = 0.1


def judging(card: Card) -> Judging:
    """Return how a card says that windows are judged."""
    return Judging(card.window_correlation, card.unsure_below)


def decide_windows(answer: Answer, levels_dbfs: Sequence[float] | NDArray[np.floating], card: Card) -> list[Verdict]:
    """Judge windows, each by itself.

    Args:
        levels_dbfs: RMS level of each window as it was heard.
        card: says below which level a window is silent and below which probability a genre is unsure.
    """
    return [
        decide_window(answer.scores[i], float(level), card, None if answer.kinds is None else answer.kinds[i])
        for i, level in enumerate(levels_dbfs)
    ]


def decide_window(
    scores: NDArray[np.float32], level_dbfs: float, card: Card, kinds: NDArray[np.float32] | None = None
) -> Verdict:
    """Judge one window.

    Args:
        scores: calibrated probabilities, shape [labels].
        kinds: probability of music, speech and other, shape [3]; None where the model can't tell.
    """
    if level_dbfs < card.silent_dbfs:
        return SILENCE
    named = None if kinds is None else _named(card.kinds or (), kinds)
    return smoothed([Verdict(None, 0.0, "music", _named(card.labels, scores), named)], judging(card))


def decide_clip(windows: Sequence[Verdict], card: Card) -> Verdict:
    """Judge a stretch of windows together, such as a clip; silent ones have no vote.

    Args:
        windows: from `decide_windows`.
        card: holds the correlation of windows, fitted so that the verdict's confidence is calibrated.
    """
    return smoothed(windows, judging(card))


def loudest_sounds(card: Card, sounds: NDArray[np.float32] | None) -> dict[str, float] | None:
    """Return the few most probable classes of sound of one window, the most probable first; None without a network.

    Args:
        sounds: probability of each class of the card, shape [sounds].
    """
    if sounds is None or card.sounds is None:
        return None
    order = np.argsort(-sounds, kind="stable")[:MOST_SOUNDS]
    return {card.sounds[i]: round(min(1.0, float(sounds[i])), 4) for i in order if sounds[i] >= LEAST_SOUND}


def _named(names: Sequence[str], values: NDArray[np.float32]) -> Mapping[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}
