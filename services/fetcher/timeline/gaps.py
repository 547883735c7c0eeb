"""What could not be heard, until its length is known; then gaps on the timeline.

A missing segment's EXTINF is an estimate; the timestamps of the next segment tell the truth. Pure. Start at
`PendingGap`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.fetcher.events import Gap
from services.fetcher.media.timestamps import missing_s, samples_of, shares

MOST_STRETCHES = 1_000
"""Of different causes in a row; what comes then is counted with the last one."""


@dataclass
class Missing:
    """A stretch that could not be heard, as long as its segments say.

    Attributes:
        detail: of its first segment.
        latest: of its last one.
        more: how many segments follow the first.
    """

    duration_s: float
    cause: str
    detail: str
    latest: str
    more: int = 0


@dataclass
class PendingGap:
    """Stretches that are missing one after another, before the next audio."""

    stretches: list[Missing] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Say whether something is missing."""
        return bool(self.stretches)

    def add(self, duration_s: float, cause: str, detail: str) -> None:
        """Note one more stretch."""
        last = self.stretches[-1] if self.stretches else None
        if last is None or (last.cause != cause and len(self.stretches) < MOST_STRETCHES):
            self.stretches.append(Missing(max(duration_s, 0.0), cause, detail, detail))
            return
        last.duration_s += max(duration_s, 0.0)
        last.more += last.latest != detail
        last.latest = detail

    def settle(self, position: int, jump_s: float | None) -> list[Gap]:
        """Empty it: one gap for each run of the same cause, together as long as the timestamps say.

        Args:
            position: timeline position where the first gap begins.
            jump_s: by how much the timestamps jump across it; None where they don't tell.
        """
        lengths = [missing.duration_s for missing in self.stretches]
        total = samples_of(missing_s(jump_s, sum(lengths)))
        gaps = []
        for missing, samples in zip(self.stretches, shares(total, lengths), strict=True):
            if samples:
                more = f" (and {missing.more} more)" if missing.more else ""
                gaps.append(Gap(position, samples, missing.cause, missing.detail + more))
                position += samples
        self.stretches = []
        return gaps
