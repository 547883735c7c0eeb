"""Segments for drawing: as many as a screen has pixels, whatever the history holds. Pure; start at `drawn`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import groupby

from services.dashboard.state.genre_segments import GenreSegment

MOST_CELLS = 400_000
"""Streams times steps of one answer: some 20 MB at the very worst."""
LEAST_STEPS = 10

Drawn = list[list[object]]
"""[start, end, genre, confidence, kind] by time; times in seconds after the beginning of the stretch."""
Sound = tuple[str | None, str]
"""Genre and kind."""


def steps_for(streams: int, wanted: int) -> int:
    """Return how many steps each of so many streams gets."""
    return max(LEAST_STEPS, min(wanted, MOST_CELLS // max(1, streams)))


def drawn(segments: Iterable[GenreSegment], begin: float, end: float, steps: int) -> dict[str, Drawn]:
    """Return each stream's segments at a resolution of `steps` steps.

    In a step that several sounds share, the one that played longest is drawn; equal neighbours are joined where their
    confidence differs by less than a tenth.

    Args:
        segments: one stream after the other; one stream's cells are held at a time.
    """
    step = (end - begin) / steps
    return {
        stream: _joined(_cells(of_stream, begin, end, step), step)
        for stream, of_stream in groupby(segments, lambda segment: segment.stream)
    }


def _cells(
    segments: Iterable[GenreSegment], begin: float, end: float, step: float
) -> dict[int, dict[Sound, list[float]]]:
    """Return by step, genre and kind: seconds, and seconds weighted by confidence."""
    cells: dict[int, dict[Sound, list[float]]] = defaultdict(dict)
    for segment in segments:
        first, last = max(segment.start, begin), min(segment.end, end)
        cell = int((first - begin) / step)
        while first < last:
            until = min(last, begin + (cell + 1) * step)
            seconds = until - first
            if seconds > 0:
                entry = cells[cell].setdefault((segment.genre, segment.kind), [0.0, 0.0])
                entry[0] += seconds
                entry[1] += seconds * segment.confidence
            first, cell = until, cell + 1
    return cells


def _joined(by_cell: dict[int, dict[Sound, list[float]]], step: float) -> Drawn:
    out: Drawn = []
    before: tuple[int, Sound, float] | None = None
    for cell in sorted(by_cell):
        sounds = by_cell[cell]
        sound = max(sounds, key=lambda name: sounds[name][0])
        confidence = sounds[sound][1] / sounds[sound][0]
        if before and before[:2] == (cell - 1, sound) and abs(before[2] - confidence) < 0.1:
            out[-1][1] = round((cell + 1) * step, 1)
            before = (cell, sound, before[2])
            continue
        out.append([round(cell * step, 1), round((cell + 1) * step, 1), sound[0], round(confidence, 2), sound[1]])
        before = (cell, sound, confidence)
    return out
