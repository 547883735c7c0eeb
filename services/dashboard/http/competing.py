"""Which kinds, genres and sounds compete on a stream over the last minutes. Pure; start at `competing`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from services.dashboard.state.stream_state import Glimpse

STEP_S = 10.0
STEPS = 30
MOST_ROWS = 6
LEAST = 0.05
"""A name that never had a mean of more than this competed with nothing."""


def competing(windows: Iterable[Glimpse], now: float) -> dict[str, Any]:
    """Return kinds and the strongest genres and sounds, each with its mean by step of time; null where none was heard.

    Of a kind the mean is its share of the windows. Steps are oldest first.

    Args:
        now: monotonic time, as the windows' own.
    """
    groups = ("kinds", "genres", "sounds")
    cells: dict[str, dict[str, dict[int, list[float]]]] = {group: defaultdict(dict) for group in groups}
    heard: dict[int, int] = defaultdict(int)
    for window in windows:
        step = STEPS - 1 - int((now - window.at) / STEP_S)
        if step < 0:
            continue
        heard[step] += 1
        for what, scores in zip(groups, ({window.kind: 1.0}, window.genres, window.sounds), strict=True):
            for name, score in scores.items():
                cells[what][name].setdefault(step, []).append(score)
    out: dict[str, Any] = {"step_s": STEP_S}
    for what, by_name in cells.items():
        # A sound that a window does not name was too weak to be named: it counts as none there.
        means = {
            name: [round(sum(steps.get(n, ())) / heard[n], 3) if n in heard else None for n in range(STEPS)]
            for name, steps in by_name.items()
        }
        competed = [name for name, values in means.items() if max(value or 0.0 for value in values) > LEAST]
        strongest = sorted(competed, key=lambda name: -sum(value or 0.0 for value in means[name]))[:MOST_ROWS]
        out[what] = [[name, means[name]] for name in strongest]
    return out
