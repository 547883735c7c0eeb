"""Notices that this machine's wall clock was set: by NTP after a start at 1970, by a person, after a wrong guess.

A machine that slept is no such case: the clock compared with goes on in sleep. Start at `ClockSteps.step`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LEAST_S = 60.0
"""Smaller corrections move nothing: a segment of the history is as long as this."""
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def apart() -> float:
    """Return Unix time less a clock that nobody can set: it names the wall clock as it is set now."""
    return time.time() - time.clock_gettime(_STEADY)


def shift(before: float, now: float) -> float:
    """Return by how many seconds the wall clock was set between two values of `apart`; 0 where by a little."""
    return now - before if abs(now - before) >= LEAST_S else 0.0


class ClockSteps:
    """Watches the wall clock.

    Attributes:
        now: the clock as of the last call of `step`, as `apart` says it.
    """

    def __init__(self, apart: Callable[[], float] = apart) -> None:
        self._apart = apart
        self.now = apart()

    def step(self) -> float:
        """Return by how many seconds the wall clock was set since the last call; 0 where it was not, or by a little."""
        before, self.now = self.now, self._apart()
        return shift(before, self.now)
