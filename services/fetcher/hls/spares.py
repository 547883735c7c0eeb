"""Which other rendition of a stream may be heard while the chosen one can't, and when the way back is tried.

Pure but for the clock; who loads playlists is playlist_loader.py. Start at `Spares.order`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.fetcher.hls.rendition import Candidate

FAILURES_BEFORE_ANY = 3
"""Loads in a row that fail before a rendition of other content, or another bit rate, is taken."""
FIRST_WAY_BACK_S, LONGEST_WAY_BACK_S = 60.0, 600.0


@dataclass
class Spares:
    """The other renditions.

    Attributes:
        home: number of the candidate that was chosen.
        rejected: numbers of those that can't be decoded.
        avoided: why the present one will be left at the next load.
        failures: loads of the present one that failed in a row.
    """

    home: int = 0
    rejected: set[int] = field(default_factory=set)
    avoided: str = ""
    failures: int = 0
    clock: Callable[[], float] = time.monotonic
    _back_at: float = 0.0
    _wait_s: float = field(default_factory=lambda: FIRST_WAY_BACK_S)

    def order(self, candidates: Sequence[Candidate], present: int) -> list[int]:
        """Return the candidates to try, best first: those that stand in for the present one before any other."""
        others = [n for n in range(len(candidates)) if n != present and n not in self.rejected]
        same = [n for n in others if candidates[n].stands_in_for(candidates[present])]
        any_other = self.failures >= FAILURES_BEFORE_ANY or bool(self.avoided)
        return same + [n for n in others if n not in same and any_other]

    def left(self) -> None:
        """Note that another one was taken."""
        self.avoided, self.failures = "", 0
        self._back_at = self.clock() + self._wait_s

    def due(self, present: int) -> bool:
        """Say whether it is time to try the way back; each try without success doubles the wait."""
        if present == self.home or self.home in self.rejected or self.clock() < self._back_at:
            return False
        self._wait_s = min(2 * self._wait_s, LONGEST_WAY_BACK_S)
        self._back_at = self.clock() + self._wait_s
        return True

    def came_back(self) -> None:
        """Note that the chosen one is heard again."""
        self.avoided, self.failures = "", 0
