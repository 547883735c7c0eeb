"""Turns windows into runs: stretches of wall clock over which a stream's smoothed genre and title stay the same.

Runs are what the history keeps and the timeline draws: some thousand a day instead of 57,600 windows a stream.
Pure; start at `extended`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone

from services.contract import Result
from services.dashboard.smoothing import Verdict

LONGEST_S = 60.0
"""A run is closed after this long even if nothing changes, so that its confidence says something about its time."""
BREAK_S = 3.0
"""Windows further apart than this are not one run: there was a gap."""
_BELIEVED_S = 3600.0


@dataclass(frozen=True)
class Run:
    """One genre for a while.

    Attributes:
        start, end: Unix time.
        confidence: mean over its windows.
    """

    stream: str
    start: float
    end: float
    genre: str | None
    confidence: float
    title: str
    artist: str
    windows: int = 1


def moment(result: Result, now: float) -> float:
    """Return the wall clock of a window's start.

    What the stream says of itself is believed within an hour of now; a recording that is played again, or a wrong
    clock at the source, counts as heard now.
    """
    try:
        observed = datetime.fromisoformat(result.observed_at.replace("Z", "+00:00"))
    except ValueError:
        return now
    if observed.tzinfo is None:
        observed = observed.replace(tzinfo=timezone.utc)
    at = observed.timestamp()
    return at if abs(at - now) < _BELIEVED_S else now


def extended(run: Run | None, result: Result, verdict: Verdict, at: float) -> tuple[Run | None, Run | None]:
    """Add one window to the open run.

    Args:
        run: the open run, or None.
        verdict: the smoothed verdict as of this window.
        at: wall clock of the window's start.

    Returns:
        The run that this closes, if any, and the one that is open now. A window older than the open run changes
        nothing: it came late.
    """
    end = at + max(0.0, min(60.0, result.end_s - result.start_s))
    new = Run(result.stream, at, end, verdict.genre, verdict.confidence, result.title, result.artist)
    if run is None:
        return None, new
    if at < run.start:
        return None, run
    same = (run.genre, run.title, run.artist) == (new.genre, new.title, new.artist)
    if same and at <= run.end + BREAK_S and end - run.start <= LONGEST_S:
        mean = (run.confidence * run.windows + new.confidence) / (run.windows + 1)
        return None, replace(run, end=max(run.end, end), confidence=mean, windows=run.windows + 1)
    if at <= run.end + BREAK_S:
        if at <= run.start:
            return None, replace(new, start=run.start, windows=run.windows + 1)
        return replace(run, end=at), new
    return run, new
