"""How good a model's probabilities are: accuracy with its interval, confusion, calibration. One definition for all.

Numbers in, numbers out; no model, no files. Start at `measure`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from services.contract.smoothing import pooled

BINS = 15
_RESAMPLINGS = 1_000

Scores = NDArray[np.float32]
Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Measured:
    """Everything that is reported of one model on one set of clips; shares are in 0..1."""

    clip_accuracy: float
    clip_interval: tuple[float, float]
    window_accuracy: float
    window_interval: tuple[float, float]
    n_clips: int
    n_windows: int
    ece: float
    clip_ece: float
    per_genre: dict[str, float]
    confusion: list[list[int]]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def measure(scores: Scores, clip_of: Ints, clip_labels: Ints, genres: Sequence[str], correlation: float) -> Measured:
    """Measure probabilities of windows, and of clips pooled from them as the service pools 30 s.

    Args:
        scores: calibrated probabilities, [windows, genres].
        clip_of: number of each window's clip, [windows].
        clip_labels: genre of each clip, [clips]; every clip has a window.
        correlation: the card's window_correlation.
    """
    labels = clip_labels[clip_of]
    right = scores.argmax(axis=1) == labels
    clip_scores = pool_clips(scores, clip_of, len(clip_labels), correlation)
    guess = clip_scores.argmax(axis=1)
    clip_right = guess == clip_labels
    confusion = np.zeros((len(genres), len(genres)), int)
    np.add.at(confusion, (clip_labels, guess), 1)
    per_genre = {
        genre: round(float(confusion[place, place] / confusion[place].sum()), 4)
        for place, genre in enumerate(genres)
        if confusion[place].sum()
    }
    return Measured(
        clip_accuracy=round(float(clip_right.mean()), 4),
        clip_interval=wilson(int(clip_right.sum()), len(clip_right)),
        window_accuracy=round(float(right.mean()), 4),
        window_interval=by_clip(right, clip_of, len(clip_labels)),
        n_clips=len(clip_labels),
        n_windows=len(scores),
        ece=round(expected_calibration_error(scores, labels), 4),
        clip_ece=round(expected_calibration_error(clip_scores, clip_labels), 4),
        per_genre=per_genre,
        confusion=confusion.tolist(),
    )


def pool_clips(scores: Scores, clip_of: Ints, clips: int, correlation: float) -> Scores:
    """Return the pooled probabilities of each clip, [clips, genres]."""
    order = np.argsort(clip_of, kind="stable")
    parts = np.split(scores[order], np.cumsum(np.bincount(clip_of, minlength=clips))[:-1])
    return np.stack([pooled(part, correlation) for part in parts])


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    interval = binomtest(right, count).proportion_ci(method="wilson")
    return round(float(interval.low), 4), round(float(interval.high), 4)


def by_clip(right: NDArray[np.bool_], clip_of: Ints, clips: int) -> tuple[float, float]:
    """Return a 95 % interval of the windows' accuracy; whole clips are drawn, for windows of one clip err together."""
    hits = np.bincount(clip_of, right, minlength=clips)
    sizes = np.bincount(clip_of, minlength=clips)
    drawn = np.random.default_rng(0).integers(0, clips, (_RESAMPLINGS, clips))
    shares = hits[drawn].sum(axis=1) / np.maximum(sizes[drawn].sum(axis=1), 1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return round(float(low), 4), round(float(high), 4)


def expected_calibration_error(scores: Scores, labels: Ints) -> float:
    """Return the mean distance of confidence from accuracy over 15 equal-width bins (Guo et al. 2017)."""
    confidence = scores.max(axis=1)
    right = scores.argmax(axis=1) == labels
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    total = np.bincount(place, minlength=BINS)
    gap = np.bincount(place, right, minlength=BINS) - np.bincount(place, confidence, minlength=BINS)
    return float(np.abs(gap).sum() / max(int(total.sum()), 1))


def ece_if_calibrated(scores: Scores, clip_of: Ints, clips: int, correlation: float) -> float:
    """Return the error that clips of exactly these confidences would show if each were true: what chance alone makes.

    With few clips the bins are small, and even a perfectly calibrated model is far from 0: about 0.04 with 443 clips.
    """
    confidence = pool_clips(scores, clip_of, clips, correlation).max(axis=1)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    drawn = np.random.default_rng(0).random((_RESAMPLINGS, clips)) < confidence
    gaps = np.stack([drawn[:, place == bin_].sum(axis=1) - confidence[place == bin_].sum() for bin_ in range(BINS)])
    return round(float(np.abs(gaps).sum(axis=0).mean() / clips), 4)


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return log-probabilities of logits over the last axis."""
    return np.asarray(special.log_softmax(np.asarray(logits, np.float64), axis=-1))


def softmax(logits: NDArray[np.floating]) -> Scores:
    """Return probabilities of logits over the last axis."""
    return np.asarray(np.exp(log_softmax(logits)), np.float32)


def fit_temperature(logits: NDArray[np.floating], labels: Ints) -> float:
    """Return the temperature with the least cross-entropy; logits must be of windows that were not trained on."""

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature))[np.arange(len(labels)), labels].mean())

    return round(float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)), 4)


def fit_correlation(scores: Scores, clip_of: Ints, clip_labels: Ints) -> float:
    """Return the window correlation with the least cross-entropy of pooled clips."""

    def loss(correlation: float) -> float:
        clips = pool_clips(scores, clip_of, len(clip_labels), correlation)
        return -float(np.log(np.maximum(clips[np.arange(len(clips)), clip_labels], 1e-9)).mean())

    return round(float(minimize_scalar(loss, bounds=(0, 1), method="bounded").x), 3)
