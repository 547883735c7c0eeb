"""One stream as the dashboard has seen it so far, and its state in one word. Values only; start at `StreamView`."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from services.contract import Event, Ledger, Result
from services.dashboard.runs import Run, extended, moment
from services.dashboard.smoothing import SILENCE, SPAN_S, Judging, Verdict, smoothed
from services.settings import Stream

RECENT = 20
State = Literal["waiting", "playing", "unsure", "silent", "stopped", "failed", "paused", "ended"]


@dataclass
class StreamView:
    """One stream as seen so far.

    Attributes:
        seen_at: monotonic time at which it became known.
        version: of the board, when it last changed.
        heard_at: monotonic time of its last result; 0 where there was none.
        failed: why the fetcher can't hear it.
        removed: it was in the configuration and was taken out of it.
        missed: by place of the ledger ("lost", "gap"), when it last grew (monotonic) and by which cause.
    """

    name: str
    seen_at: float
    version: int = 0
    recent: deque[Result] = field(default_factory=lambda: deque(maxlen=RECENT))
    ids: deque[str] = field(default_factory=lambda: deque(maxlen=4 * RECENT))
    verdict: Verdict = SILENCE
    since: float = 0.0
    run: Run | None = None
    ledger: Ledger | None = None
    heard_at: float = 0.0
    failed: str = ""
    silent_stage: str = ""
    configured: Stream | None = None
    removed: bool = False
    results: int = 0
    missed: dict[str, tuple[float, str]] = field(default_factory=dict)
    track: tuple[str, str] = ("", "")

    def hear(self, result: Result, now: float, judging: Judging) -> Run | None:
        """Take one window that is new; return the run that it closes, if any.

        Args:
            now: Unix time.
        """
        self.ids.append(result.id)
        self.results += 1
        self.heard_at, self.failed, self.silent_stage = time.monotonic(), "", ""
        late = bool(self.recent) and result.epoch == self.recent[-1].epoch and result.start_s < self.recent[-1].start_s
        self.recent.append(result)
        if late:
            ordered = sorted(self.recent, key=lambda each: (each.epoch, each.start_s))
            self.recent.clear()
            self.recent.extend(ordered)
        last = self.recent[-1]
        # 30 s back within the same epoch: across a break, old windows say nothing about now.
        span = [each for each in self.recent if each.epoch == last.epoch and each.start_s > last.start_s - SPAN_S]
        before = self.verdict
        self.verdict = smoothed(span, judging)
        at = moment(result, now)
        if not self.since or before.genre != self.verdict.genre:
            self.since = at
        closed, self.run = extended(self.run, result, self.verdict, at)
        self.track = (last.title, last.artist)
        return closed

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
        words: dict[str, State] = {"silence": "silent", "unsure": "unsure", "music": "playing"}
        return words[self.verdict.kind]


def _grown(before: Ledger, after: Ledger) -> str:
    """Return the cause that grew most between two ledgers."""
    grown = {cause: samples - before.causes.get(cause, 0) for cause, samples in after.causes.items()}
    return max(grown, key=lambda cause: grown[cause]) if grown else ""
