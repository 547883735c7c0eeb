"""Turns windows into segments: stretches of wall clock over which a stream's smoothed genre and title stay the same.

Segments are what the history keeps and the timeline draws: some thousand a day instead of 57,600 windows a stream.
Pure; start at `extended`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from services.contract.messages import Result
from services.contract.smoothing import Verdict
from services.dashboard.state.clock_steps import shift

LONGEST_S = 60.0
"""A run is closed after this long even if nothing changes, so that its confidence says something about its time."""
BREAK_S = 3.0
"""Windows further apart than this are not one run: there was a gap."""
_BELIEVED_S = 3600.0
DATED_HERE_S = 120.0
"""A window this near to now has its date from this machine's clock: the fetcher's, or a source's that agrees."""


@dataclass(frozen=True)
class GenreSegment:
    """One genre for a while.

    Attributes:
        start, end: Unix time.
        confidence: mean over its windows.
        kind: of the smoothed verdict: "music", "silence" and so on; '' where that was not kept.
        clock: this machine's clock as it was when it dated this (`clock_steps.apart`); None where the source dated it.
    """

    stream: str
    start: float
    end: float
    genre: str | None
    confidence: float
    title: str
    artist: str
    kind: str = ""
    windows: int = 1
    clock: float | None = field(default=None, compare=False)

    @property
    def key(self) -> tuple[str, float]:
        """Stream and start: a longer one of the same key replaces it."""
        return self.stream, self.start


def moment(result: Result, now: float) -> tuple[float, bool]:
    """Return the wall clock of a window's start, and whether it is this machine's clock that says so.

    What the stream says of itself is believed within an hour of now; a recording that is played again, or a wrong
    clock at the source, counts as heard now.
    """
    try:
        observed = datetime.fromisoformat(result.observed_at.replace("Z", "+00:00"))
    except ValueError:
        return now, True
    if observed.tzinfo is None:
        observed = observed.replace(tzinfo=timezone.utc)
    at = observed.timestamp()
    off_s = abs(at - now)
    return (at, off_s < DATED_HERE_S) if off_s < _BELIEVED_S else (now, True)


def extended(
    run: GenreSegment | None,
    result: Result,
    verdict: Verdict,
    at: float,
    late: bool = False,
    clock: float | None = None,
) -> tuple[GenreSegment | None, GenreSegment | None]:
    """Add one window to the open segment.

    Args:
        run: the open segment, or None.
        verdict: the smoothed verdict as of this window.
        at: wall clock of the window's start.
        late: the stream has already given a later window; this one changes nothing then.
        clock: what dated it, as of `GenreSegment.clock`.

    Returns:
        The segment that this closes, if any, and the one that is open now.
    """
    end = at + max(0.0, min(60.0, result.end_s - result.start_s))
    new = GenreSegment(
        result.stream,
        at,
        end,
        verdict.genre,
        verdict.confidence,
        result.title,
        result.artist,
        verdict.kind,
        clock=clock,
    )
    if run is None:
        return None, new
    if late:
        return None, run
    if at < run.start:
        return run, new  # not late, and yet before it: the clock was set back
    same = _what(run) == _what(new)
    if same and at <= run.end + BREAK_S and end - run.start <= LONGEST_S:
        mean = (run.confidence * run.windows + new.confidence) / (run.windows + 1)
        return None, replace(run, end=max(run.end, end), confidence=mean, windows=run.windows + 1)
    if at <= run.end + BREAK_S:
        if at <= run.start:
            return None, replace(new, start=run.start, windows=run.windows + 1)
        return replace(run, end=at), new
    return run, new


def moved(run: GenreSegment, clock: float) -> GenreSegment:
    """Return a segment under the date that this machine's clock, as it is now, would have given it.

    By the clock that dated it, not by how well it fits: an old segment must go back by as much as it once moved.

    Args:
        clock: the clock as it is now (`clock_steps.apart`).
    """
    seconds = 0.0 if run.clock is None else shift(run.clock, clock)
    if not seconds:
        return run
    return replace(run, start=run.start + seconds, end=run.end + seconds, clock=clock)


def _what(run: GenreSegment) -> tuple[str | None, str, str, str]:
    """Return what must stay the same within one segment."""
    return run.genre, run.kind, run.title, run.artist
