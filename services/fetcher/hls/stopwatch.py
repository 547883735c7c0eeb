"""Seconds that the origin has been silent, without the time that the consumer of what is heard took.

The reader is a generator and stands still in each `yield`: while the broker is away for an hour, nobody asked the
origin for anything, and nothing may be concluded from its silence. Start at `Stopwatch`.
"""

from __future__ import annotations

import time

from services.errors import GenreError
from services.fetcher.http.client import Origin
from services.fetcher.http.urls import shown


class Stopwatch:
    """Monotonic seconds since it was last restarted."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the restart, without what was left out."""
        return time.monotonic() - self._since

    def restart(self) -> None:
        """Begin again at 0."""
        self._since = time.monotonic()

    def leave_out(self, seconds: float) -> None:
        """Take off time in which the origin was not asked."""
        self._since = min(self._since + seconds, time.monotonic())

    def check(self, origin: Origin, last: str = "") -> None:
        """Fail where the origin was silent for too long; only its own word ends a stream.

        Args:
            last: what it said last.

        Raises:
            GenreError: it was.
        """
        limit_s = origin.hls.dead_after_s
        if self.seconds > limit_s:
            reason = f"nothing new came for {limit_s:g} s"
            remedy = "see that the station is on the air; it is tried again until it is"
            raise GenreError(shown(origin.stream.url), f"{reason} ({last})" if last else reason, remedy)
