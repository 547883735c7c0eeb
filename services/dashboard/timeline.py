"""Runs for drawing: as many as a screen has pixels, whatever the history holds. Pure; start at `drawn`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from services.dashboard.runs import Run

Drawn = list[list[object]]
"""[start, end, genre, confidence] by time; times in seconds after the beginning of the stretch."""


def drawn(runs: Iterable[Run], begin: float, end: float, steps: int) -> dict[str, Drawn]:
    """Return each stream's runs at a resolution of `steps` steps.

    In a step that several genres share, the one that played longest is drawn; equal neighbours are joined where their
    confidence differs by less than a tenth.
    """
    step = (end - begin) / steps
    cells: dict[str, dict[int, dict[str | None, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        first, last = max(run.start, begin), min(run.end, end)
        cell = int((first - begin) / step)
        while first < last:
            until = min(last, begin + (cell + 1) * step)
            seconds = until - first
            if seconds > 0:
                entry = cells[run.stream][cell].setdefault(run.genre, [0.0, 0.0])
                entry[0] += seconds
                entry[1] += seconds * run.confidence
            first, cell = until, cell + 1
    return {stream: _joined(by_cell, step) for stream, by_cell in sorted(cells.items())}


def _joined(by_cell: dict[int, dict[str | None, list[float]]], step: float) -> Drawn:
    out: Drawn = []
    before: tuple[int, str | None, float] | None = None
    for cell in sorted(by_cell):
        genres = by_cell[cell]
        genre = max(genres, key=lambda name: genres[name][0])
        confidence = genres[genre][1] / genres[genre][0]
        if before and before[:2] == (cell - 1, genre) and abs(before[2] - confidence) < 0.1:
            out[-1][1] = round((cell + 1) * step, 1)
            before = (cell, genre, before[2])
            continue
        out.append([round(cell * step, 1), round((cell + 1) * step, 1), genre, round(confidence, 2)])
        before = (cell, genre, confidence)
    return out
