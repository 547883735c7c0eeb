"""Judges a student against its teacher, by artist and on the same windows, and fits the genre head of the one to ship.

Each half of the pieces is judged by a student and a head that know nothing of its artists. Start at `compare`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError
from training import heads, metrics, splits
from training.gtzan import GENRES, Clip
from training.taggrams import Taggrams

Tags = NDArray[np.float32]
Ints = NDArray[np.intp]
_RESAMPLINGS = 2_000


@dataclass(frozen=True)
class Pieces:
    """Pieces of music with their genre.

    Attributes:
        clips: the pieces.
        clip_of: number of each window's piece, [windows].
        half: which half each piece belongs to, [pieces]; no artist is in both.
        teacher: tags of each window, [windows, 50].
        student: the same, by the student that was not taught with the piece's half.
    """

    clips: list[Clip]
    clip_of: Ints
    half: Ints
    teacher: Tags
    student: Tags

    @property
    def labels(self) -> Ints:
        """Genre of each piece."""
        return np.array([clip.label for clip in self.clips], np.intp)


@dataclass(frozen=True)
class Compared:
    """What 2-fold cross-validation by artist found.

    Attributes:
        student, teacher: accuracy and calibration of each.
        clip_gap, window_gap: the teacher's accuracy less the student's, each with its 95 % interval (pieces drawn).
        agreement: share of windows to which both give the same genre.
    """

    student: metrics.Measured
    teacher: metrics.Measured
    clip_gap: tuple[float, float, float]
    window_gap: tuple[float, float, float]
    agreement: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**vars(self), "student": self.student.as_dict(), "teacher": self.teacher.as_dict()}


def compare(data: Taggrams, pieces: Pieces, fitter: heads.Fitter) -> tuple[heads.Head, Compared]:
    """Judge both networks by artist, and fit the head to ship.

    One head serves both: fitted on the teacher's taggrams, without every clip of the artists that are judged. Each
    network has its own temperature.

    Raises:
        GenreError: for a half that leaves no clip of a genre, or a fit that ends in values that are not finite.
    """
    labels, windows = pieces.labels, pieces.labels[pieces.clip_of]
    groups = splits.groups([*data.clips, *pieces.clips])
    of_data, of_pieces = np.array(groups[: len(data.clips)]), np.array(groups[len(data.clips) :])
    logits = {who: np.zeros((len(windows), len(GENRES))) for who in ("student", "teacher")}
    for half in np.unique(pieces.half):
        away = set(of_pieces[pieces.half == half])
        rows = ~np.isin(of_data, list(away))[data.clip_of]
        judged = (pieces.half == half)[pieces.clip_of]
        if len(np.unique(data.labels[rows])) < len(GENRES):
            raise GenreError("cross-validation", "a half lacks a genre", "add clips of other artists")
        head = fitter(data.tags[rows], data.labels[rows], data.clip_of[rows], groups)
        logits["student"][judged] = head.logits(pieces.student[judged])
        logits["teacher"][judged] = head.logits(pieces.teacher[judged])
    if not all(np.isfinite(part).all() for part in logits.values()):
        raise GenreError("the head", "ended in values that are not finite", "check the taggrams")
    temperature = {who: metrics.fit_temperature(part, windows) for who, part in logits.items()}
    scores = {who: metrics.softmax(part / temperature[who]) for who, part in logits.items()}
    correlation = metrics.fit_correlation(scores["student"], pieces.clip_of, labels)
    head = fitter(data.tags, data.labels, data.clip_of, groups)
    found = _compared(pieces, scores["student"], scores["teacher"], correlation)
    return heads.Head(head, temperature["student"], correlation), found


def _compared(pieces: Pieces, student: Tags, teacher: Tags, correlation: float) -> Compared:
    """Measure both."""
    labels, clips, clip_of = pieces.labels, len(pieces.clips), pieces.clip_of
    right = [metrics.pool_clips(s, clip_of, clips, correlation).argmax(axis=1) == labels for s in (student, teacher)]
    hits = [np.bincount(clip_of, s.argmax(axis=1) == labels[clip_of], clips) for s in (student, teacher)]
    drawn = np.random.default_rng(0).integers(0, clips, (_RESAMPLINGS, clips))
    sizes = np.bincount(clip_of, minlength=clips)
    by_clip = right[1].astype(float) - right[0]
    by_window = hits[1] - hits[0]
    return Compared(
        metrics.measure(student, clip_of, labels, GENRES, correlation),
        metrics.measure(teacher, clip_of, labels, GENRES, correlation),
        _interval(by_clip.mean(), by_clip[drawn].mean(axis=1)),
        _interval(by_window.sum() / sizes.sum(), by_window[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)),
        round(float((student.argmax(axis=1) == teacher.argmax(axis=1)).mean()), 4),
    )


def _interval(value: float, drawn: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return a value with its 95 % interval."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return round(float(value), 4), round(float(low), 4), round(float(high), 4)
