"""One stream as the dashboard has seen it so far, and its state in one word. Values only; start at `StreamState`."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from services.contract.messages import Event, Ledger, Result
from services.contract.smoothing import SILENCE, Judging, Verdict, lately, smoothed
from services.dashboard.state.genre_segments import GenreSegment, extended, moment, moved
from services.settings.schema import Stream

RECENT = 20
MOST_GLIMPSES = 240
"""Five minutes, and some that come twice as fast."""
State = Literal["waiting", "playing", "unsure", "silent", "stopped", "failed", "paused", "ended"]


@dataclass(frozen=True)
class Glimpse:
    """What one window said, to be looked back on for some minutes.

    Attributes:
        at: monotonic time at which it came.
        genres: its scores; none where it was no music.
        sounds: its sounds, where the model names any.
        kind: what it was: "music" (unsure or not), "speech", "silence" and so on.
    """

    at: float
    genres: dict[str, float]
    sounds: dict[str, float]
    kind: str = "music"


@dataclass
class StreamState:
    """One stream as seen so far.

    Attributes:
        seen_at: monotonic time at which it became known.
        version: of the live state, when it last changed.
        heard_at: monotonic time of its last result; 0 where there was none.
        failed: why the fetcher can't hear it.
        removed: it was in the configuration and was taken out of it.
        missed: by place of the ledger ("lost", "gap"), when it last grew (monotonic) and by which cause.
        told: its state as `now` says it, and since when (Unix time).
    """

    name: str
    seen_at: float
    version: int = 0
    recent: deque[Result] = field(default_factory=lambda: deque(maxlen=RECENT))
    ids: deque[str] = field(default_factory=lambda: deque(maxlen=4 * RECENT))
    verdict: Verdict = SILENCE
    since: float = 0.0
    run: GenreSegment | None = None
    ledger: Ledger | None = None
    heard_at: float = 0.0
    failed: str = ""
    silent_stage: str = ""
    configured: Stream | None = None
    removed: bool = False
    results: int = 0
    missed: dict[str, tuple[float, str]] = field(default_factory=dict)
    track: tuple[str, str] = ("", "")
    told: tuple[str, float] = ("", 0.0)
    glimpses: deque[Glimpse] = field(default_factory=lambda: deque(maxlen=MOST_GLIMPSES))

    def process(self, result: Result, now: float, judging: Judging, clock: float) -> GenreSegment | None:
        """Take one window that is new; return the run that it closes, if any.

        Args:
            now: Unix time.
            clock: the clock that says so (`clock_steps.apart`).
        """
        self.ids.append(result.id)
        self.results += 1
        self.heard_at, self.failed, self.silent_stage = time.monotonic(), "", ""
        if self.recent and result.timeline != self.recent[-1].timeline:
            self.recent.clear()  # another timeline counts from 0 again: what was before is not later than this
        late = bool(self.recent) and result.epoch == self.recent[-1].epoch and result.start_s < self.recent[-1].start_s
        self.recent.append(result)
        if late:
            ordered = sorted(self.recent, key=lambda each: (each.epoch, each.start_s))
            self.recent.clear()
            self.recent.extend(ordered)
        kind = "music" if result.kind == "unsure" else result.kind
        genres = result.scores if kind == "music" else {}
        self.glimpses.append(Glimpse(self.heard_at, genres, result.sounds or {}, kind))
        last = self.recent[-1]
        before = self.verdict
        self.verdict = smoothed(lately(self.recent), judging)
        at, dated_here = moment(result, now)
        if not self.since or (before.genre, _sound(before)) != (self.verdict.genre, _sound(self.verdict)):
            self.since = at
        closed, self.run = extended(self.run, result, self.verdict, at, late, clock if dated_here else None)
        self.track = (last.title, last.artist)
        return closed

    def clock_stepped(self, seconds: float, now: float, clock: float) -> None:
        """Move what the clock dated wrongly, before it was set by so many seconds.

        Args:
            now: Unix time by the clock as it is now.
            clock: that clock.
        """
        if self.run is not None:
            self.run = moved(self.run, clock)
        self.told = (self.told[0], self.told[1] + seconds)
        if self.since > now or self.since + seconds <= now:
            self.since += seconds

    def in_state(self, word: str, now: float) -> float:
        """Return since when its state is this word, Unix time."""
        if self.told[0] != word:
            self.told = (word, now)
        return self.told[1]

    def happen(self, event: Event) -> None:
        """Take one event."""
        if event.kind == "error":
            self.failed = event.reason or event.cause or "failed"
        elif event.kind == "silent":
            self.silent_stage = event.stage or "source"
        elif event.kind in ("started", "resumed", "ended"):
            self.failed, self.silent_stage = "", ""
        elif event.kind == "track":
            self.track = (event.title, event.artist)

    def account(self, ledger: Ledger) -> bool:
        """Take a ledger; return whether it says anything new."""
        if self.ledger == ledger:
            return False
        for place in ("lost", "gap"):
            if self.ledger is not None and getattr(ledger, place) > getattr(self.ledger, place):
                self.missed[place] = (time.monotonic(), _grown(self.ledger, ledger))
        self.ledger = ledger
        if ledger.failed:  # retained, so it comes even where the event was missed
            self.failed = ledger.failed
        return True

    def configure(self, stream: Stream | None) -> bool:
        """Learn what the configuration says of it, None where it says nothing; return whether that changed."""
        if self.configured == stream:
            return False
        if stream is not None and not stream.paused:
            self.seen_at = time.monotonic()  # resumed: give it time to begin
            self.failed = ""
        self.removed = stream is None
        self.configured = stream
        return True

    def state(self, stopped_after_s: float) -> State:
        """Return its state in one word.

        Args:
            stopped_after_s: no result for this long means stopped.
        """
        if self.configured is not None and self.configured.paused:
            return "paused"
        if self.ledger is not None and self.ledger.ended:
            return "ended"
        if self.failed:
            return "failed"
        quiet = time.monotonic() - (self.heard_at or self.seen_at)
        if self.silent_stage or quiet > stopped_after_s:
            return "stopped"
        if not self.recent:
            return "waiting"
        words: dict[str, State] = {"silence": "silent", "unsure": "unsure"}
        return words.get(self.verdict.kind, "playing")


def _sound(verdict: Verdict) -> str:
    """Return the kind of sound; music stays music while its genre becomes sure or unsure."""
    return "music" if verdict.kind == "unsure" else verdict.kind


def _grown(before: Ledger, after: Ledger) -> str:
    """Return the cause that grew most between two ledgers."""
    grown = {cause: samples - before.causes.get(cause, 0) for cause, samples in after.causes.items()}
    return max(grown, key=lambda cause: grown[cause]) if grown else ""
