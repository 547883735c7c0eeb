"""What could not be heard, until its length is known; then gaps on the timeline.

A missing segment's EXTINF is an estimate; the timestamps of the next segment tell the truth. Pure. Start at `Hole`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.fetcher.heard import Gap
from services.fetcher.timestamps import missing_s, samples_of, shares


@dataclass(frozen=True)
class Missing:
    """A stretch that could not be heard, as long as its segments say."""

    duration_s: float
    cause: str
    detail: str


@dataclass
class Hole:
    """Stretches that are missing one after another, before the next audio."""

    stretches: list[Missing] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Say whether something is missing."""
        return bool(self.stretches)

    def add(self, duration_s: float, cause: str, detail: str) -> None:
        """Note one more stretch."""
        self.stretches.append(Missing(max(duration_s, 0.0), cause, detail))

    def settle(self, position: int, jump_s: float | None) -> list[Gap]:
        """Empty the hole: one gap for each run of the same cause, together as long as the timestamps say.

        Args:
            position: timeline position where the first gap begins.
            jump_s: by how much the timestamps jump across the hole; None where they don't tell.
        """
        runs: list[list[Missing]] = []
        for stretch in self.stretches:
            if runs and runs[-1][0].cause == stretch.cause:
                runs[-1].append(stretch)
            else:
                runs.append([stretch])
        lengths = [sum(stretch.duration_s for stretch in run) for run in runs]
        total = samples_of(missing_s(jump_s, sum(lengths)))
        self.stretches = []
        gaps = []
        for run, samples in zip(runs, shares(total, lengths), strict=True):
            if samples:
                more = f" (and {len(run) - 1} more)" if len(run) > 1 else ""
                gaps.append(Gap(position, samples, run[0].cause, run[0].detail + more))
                position += samples
        return gaps
