"""What the page shows right now: each stream, each part, what is wrong. Values only; no bus, no HTTP, no file.

Every change gets a number, so that a browser asks for what changed since the last one it saw and nobody keeps a queue
for it. Start at `Board`; `StreamView` is one stream.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from services.contract import SAMPLE_RATE, Event, Ledger, Now, Result, Status, utc
from services.dashboard.runs import Run, extended, moment
from services.dashboard.smoothing import SILENCE, SPAN_S, Judging, Verdict, smoothed
from services.settings import Stream

RECENT = 20
MOST_STREAMS = 2_000
MOST_PARTS = 2_000
MOST_EVENTS = 200
FORGET_S = 600.0
"""A stream that is not in the configuration and gave nothing for this long is no longer shown."""
REMOVED_S = 5.0
"""One that was taken out of the configuration goes this long after its last result."""
MISSED_S = 120.0
"""How long the page says that seconds went missing, after the last that did."""
NEEDED = ("fetcher", "featurizer", "inference")
State = Literal["waiting", "playing", "unsure", "silent", "stopped", "failed", "paused", "ended"]


@dataclass
class StreamView:
    """One stream as seen so far.

    Attributes:
        heard_at: monotonic time of its last result; 0 where there was none.
        seen_at: monotonic time at which it became known.
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


@dataclass(frozen=True)
class Alarm:
    """Something a person should look at.

    Attributes:
        level: "alarm" where results are missing or wrong, "note" where all still works.
        since: Unix time it began, where that is known; kept out of the text, which would change all the time.
    """

    level: Literal["alarm", "note"]
    text: str
    stream: str = ""
    since: float | None = None


class Board:
    """Everything the page shows; safe to call from several threads.

    Args:
        stopped_after_s: no result for this long is an alarm.
    """

    def __init__(self, stopped_after_s: float) -> None:
        self._stopped_after_s = stopped_after_s
        self._lock = threading.RLock()
        self._version = 0
        self._streams: dict[str, StreamView] = {}
        self._gone: dict[str, int] = {}
        self._parts: dict[str, Status] = {}
        self._restarts: dict[str, int] = {}
        self._boots: dict[str, str] = {}
        self._parts_version = 0
        self._events: deque[tuple[float, Event]] = deque(maxlen=MOST_EVENTS)
        self._events_version = 0
        self._closed: list[Run] = []
        self._new_events: list[tuple[float, Event]] = []
        self._judging = Judging()
        self._configured: dict[str, Stream] | None = None
        self._rate: deque[float] = deque(maxlen=2_000)
        self.connected = False
        self.lost_since = time.time()
        self.history_problems: tuple[str, ...] = ()
        self.duplicates = 0
        self.latencies_s: dict[str, float] = {}

    # --- what comes in ---------------------------------------------------------------------------------------------

    def result(self, result: Result, now: float) -> None:
        """Take one window."""
        with self._lock:
            view = self._view(result.stream)
            if view is None:
                return
            if result.id in view.ids:
                self.duplicates += 1
                return
            view.ids.append(result.id)
            view.results += 1
            self._rate.append(time.monotonic())
            view.heard_at, view.failed, view.silent_stage = time.monotonic(), "", ""
            late = (
                bool(view.recent) and result.epoch == view.recent[-1].epoch and result.start_s < view.recent[-1].start_s
            )
            view.recent.append(result)
            if late:
                ordered = sorted(view.recent, key=lambda each: (each.epoch, each.start_s))
                view.recent.clear()
                view.recent.extend(ordered)
            last = view.recent[-1]
            # 30 s back within the same epoch: across a break, old windows say nothing about now.
            span = [each for each in view.recent if each.epoch == last.epoch and each.start_s > last.start_s - SPAN_S]
            before = view.verdict
            view.verdict = smoothed(span, self._judging)
            at = moment(result, now)
            if not view.since or before.genre != view.verdict.genre:
                view.since = at
            closed, view.run = extended(view.run, result, view.verdict, at)
            if closed is not None and len(self._closed) < 100_000:
                self._closed.append(closed)
            view.track = (last.title, last.artist)
            self.latencies_s[result.stream] = result.latency_ms / 1000
            self._changed(view)

    def event(self, event: Event, now: float) -> None:
        """Take one event."""
        with self._lock:
            view = self._view(event.stream)
            if view is None:
                return
            if event.kind == "error":
                view.failed = event.reason or event.cause or "failed"
            elif event.kind == "silent":
                view.silent_stage = event.stage or "source"
            elif event.kind in ("started", "resumed", "ended"):
                view.failed, view.silent_stage = "", ""
            elif event.kind == "track":
                view.track = (event.title, event.artist)
            self._events.append((now, event))
            if len(self._new_events) < 100_000:
                self._new_events.append((now, event))
            self._events_version = self._changed(view)

    def ledger(self, ledger: Ledger) -> None:
        """Take a ledger."""
        with self._lock:
            if self._configured and ledger.stream not in self._configured and ledger.stream not in self._streams:
                return  # what a stream of earlier days left behind, retained; one that lives shows by its results
            view = self._view(ledger.stream)
            if view is not None and view.ledger != ledger:
                for place in ("lost", "gap"):
                    if view.ledger is not None and getattr(ledger, place) > getattr(view.ledger, place):
                        view.missed[place] = (time.monotonic(), _grown(view.ledger, ledger))
                view.ledger = ledger
                self._changed(view)

    def status(self, status: Status) -> None:
        """Take a part's status; a new boot id is a restart."""
        with self._lock:
            key = f"{status.service}/{status.instance}"
            if key not in self._parts and len(self._parts) >= MOST_PARTS:
                return
            if status.state == "online" and self._boots.get(key, status.boot_id) != status.boot_id:
                self._restarts[key] = self._restarts.get(key, 0) + 1
            self._boots[key] = status.boot_id
            self._parts[key] = status
            if status.service == "inference":
                self._judging = _judging(status)
            self._parts_version = self._next()

    def forget_part(self, service: str, instance: str) -> None:
        """Take a part off the page: its retained status was cleared."""
        with self._lock:
            self._parts.pop(f"{service}/{instance}", None)
            self._parts_version = self._next()

    def configured(self, streams: tuple[Stream, ...]) -> None:
        """Learn which streams there should be."""
        with self._lock:
            self._configured = {stream.name: stream for stream in streams}
            for name in self._configured:
                self._view(name)
            for name, view in self._streams.items():
                stream = self._configured.get(name)
                if view.configured != stream:
                    if stream is not None and not stream.paused:
                        view.seen_at = time.monotonic()  # resumed: give it time to begin
                        view.failed = ""
                    view.removed = stream is None
                    view.configured = stream
                    self._changed(view)

    def turn(self) -> None:
        """Forget streams that are neither configured nor heard; call it about every second."""
        with self._lock:
            now = time.monotonic()
            for name, view in list(self._streams.items()):
                if view.configured is not None:
                    continue
                quiet = now - max(view.heard_at, view.seen_at)
                over = view.ledger is not None and view.ledger.ended
                if quiet > (REMOVED_S if view.removed else FORGET_S) and (view.removed or not over):
                    if view.run is not None:
                        self._closed.append(view.run)
                    del self._streams[name]
                    self.latencies_s.pop(name, None)
                    self._gone[name] = self._next()
                    while len(self._gone) > MOST_STREAMS:
                        del self._gone[next(iter(self._gone))]

    def take_history(self) -> tuple[list[Run], list[tuple[float, Event]]]:
        """Hand over what the history is to keep: closed runs, the open ones as they are, and new events."""
        with self._lock:
            closed, self._closed = self._closed, []
            events, self._new_events = self._new_events, []
            return [*closed, *(view.run for view in self._streams.values() if view.run is not None)], events

    def _view(self, name: str) -> StreamView | None:
        view = self._streams.get(name)
        if view is None and len(self._streams) < MOST_STREAMS:
            view = self._streams[name] = StreamView(name, time.monotonic())
            view.configured = (self._configured or {}).get(name)
            self._gone.pop(name, None)
            self._changed(view)
        return view

    def _changed(self, view: StreamView) -> int:
        view.version = self._next()
        return view.version

    def _next(self) -> int:
        self._version += 1
        return self._version

    # --- what it means ---------------------------------------------------------------------------------------------

    def state(self, view: StreamView) -> State:
        """Return a stream's state in one word."""
        if view.configured is not None and view.configured.paused:
            return "paused"
        if view.ledger is not None and view.ledger.ended:
            return "ended"
        if view.failed:
            return "failed"
        quiet = time.monotonic() - (view.heard_at or view.seen_at)
        if view.silent_stage or quiet > self._stopped_after_s:
            return "stopped"
        if not view.recent:
            return "waiting"
        return {"silence": "silent", "unsure": "unsure", "music": "playing"}[view.verdict.kind]  # type: ignore[return-value]

    def alarms(self) -> list[Alarm]:
        """Return what a person should look at, worst first."""
        with self._lock:
            out: list[Alarm] = []
            if not self.connected:
                text = "No connection to the MQTT broker: what is shown is old."
                out.append(Alarm("alarm", text, since=self.lost_since))
            for service in NEEDED:
                parts = [part for part in self._parts.values() if part.service == service]
                online = sum(part.state == "online" for part in parts)
                if parts and not online:
                    out.append(Alarm("alarm", f"No {service} is running."))
            for view in self._streams.values():
                alarm = self._stream_alarm(view)
                if alarm is not None:
                    out.append(alarm)
            out += [Alarm("note", problem) for problem in self.history_problems]
            return sorted(out, key=lambda alarm: (alarm.level != "alarm", alarm.stream))

    def _stream_alarm(self, view: StreamView) -> Alarm | None:
        if view.ledger is not None and not view.ledger.adds_up:
            return Alarm("alarm", "Its ledger does not add up: seconds went missing without a reason.", view.name)
        state = self.state(view)
        if state == "failed":
            return Alarm("alarm", f"It can't be heard: {view.failed}", view.name)
        if state == "stopped":
            where = f" It stops at the {view.silent_stage}." if view.silent_stage else ""
            if not view.heard_at:
                return Alarm("alarm", f"It has given no result yet.{where}", view.name)
            since = round(time.time() - (time.monotonic() - view.heard_at))
            return Alarm("alarm", f"Results have stopped.{where}", view.name, since)
        for place, level, text in (
            ("lost", "alarm", "Seconds of it are being given up ({}): this machine is too slow or a part is stuck."),
            ("gap", "note", "Its source leaves gaps ({})."),
        ):
            at, cause = view.missed.get(place, (0.0, ""))
            if at and time.monotonic() - at < MISSED_S:
                return Alarm(cast(Literal["alarm", "note"], level), text.format(cause or "no cause given"), view.name)
        return None

    def now(self, view: StreamView) -> Now:
        """Return what is retained at streams/<stream>/now."""
        state = self.state(view)
        word: Literal["playing", "silent", "stopped", "ended"] = "playing"
        if state == "ended":
            word = "ended"
        elif state in ("stopped", "failed", "paused", "waiting"):
            word = "stopped"
        elif state == "silent":
            word = "silent"
        verdict = view.verdict if word == "playing" else SILENCE
        return Now(
            stream=view.name,
            genre=verdict.genre,
            confidence=round(verdict.confidence, 4),
            since=utc(view.since or time.time()),
            title=view.track[0] if word != "ended" else "",
            artist=view.track[1] if word != "ended" else "",
            state=word,
            updated_at=utc(time.time()),
        )

    def views(self) -> list[StreamView]:
        """Return the streams, by name."""
        with self._lock:
            return [self._streams[name] for name in sorted(self._streams)]

    def parts(self) -> list[tuple[Status, int]]:
        """Return the parts by name, each with its restarts seen."""
        with self._lock:
            return [(self._parts[key], self._restarts.get(key, 0)) for key in sorted(self._parts)]

    def rate(self) -> float:
        """Return results a second, over the last 10 s."""
        now = time.monotonic()
        return sum(now - at < 10 for at in self._rate.copy()) / 10

    # --- what goes out ---------------------------------------------------------------------------------------------

    def since(self, version: int) -> dict[str, Any]:
        """Return what changed after a version (0: everything), as JSON values for the page."""
        with self._lock:
            changed = [view for view in self._streams.values() if view.version > version]
            out: dict[str, Any] = {
                "version": self._version,
                "full": version == 0,
                "now": time.time(),
                "connected": self.connected,
                "rate": self.rate(),
                "streams": [self.shown(view) for view in changed],
                "states": {view.name: self.state(view) for view in self._streams.values()},
                "alarms": [vars(alarm) for alarm in self.alarms()],
            }
            gone = [name for name, at in self._gone.items() if at > version]
            if gone:
                out["gone"] = gone
            if self._parts_version > version:
                out["parts"] = [{**part.model_dump(), "restarts": restarts} for part, restarts in self.parts()]
            if self._events_version > version:
                out["events"] = [
                    {"at": at, "stream": e.stream, "kind": e.kind, "seconds": e.seconds, "cause": e.cause,
                     "reason": e.reason or " - ".join(x for x in (e.artist, e.title) if x)}
                    for at, e in list(self._events)[-50:]
                ]  # fmt: skip
            return out

    def shown(self, view: StreamView) -> dict[str, Any]:
        """Return one stream as JSON values for the page."""
        last = view.recent[-1] if view.recent else None
        ledger, run = view.ledger, view.run
        return {
            "name": view.name,
            "genre": view.verdict.genre,
            "confidence": round(view.verdict.confidence, 3),
            "kind": view.verdict.kind,
            "scores": {label: round(score, 4) for label, score in view.verdict.scores.items()},
            "since": view.since,
            "title": view.track[0],
            "artist": view.track[1],
            "configured": view.configured is not None,
            "recent": [[each.genre, round(each.confidence, 2)] for each in view.recent],
            "run": [run.start, run.end, run.genre, round(run.confidence, 2)] if run else None,
            "window": last and {
                "genre": last.genre, "confidence": last.confidence, "kind": last.kind, "scores": last.scores,
                "start_s": last.start_s, "end_s": last.end_s, "level_dbfs": last.level_dbfs,
                "latency_ms": last.latency_ms, "model": last.model, "model_version": last.model_version,
            },
            "ledger": ledger and {
                **{place: round(getattr(ledger, place) / SAMPLE_RATE, 1)
                   for place in ("timeline", "classified", "gap", "lost", "short", "in_flight")},
                "windows": ledger.windows,
                "causes": {cause: round(samples / SAMPLE_RATE, 1) for cause, samples in ledger.causes.items()},
                "adds_up": ledger.adds_up,
            },
            "results": view.results,
        }  # fmt: skip


def _grown(before: Ledger, after: Ledger) -> str:
    """Return the cause that grew most between two ledgers."""
    grown = {cause: samples - before.causes.get(cause, 0) for cause, samples in after.causes.items()}
    return max(grown, key=lambda cause: grown[cause]) if grown else ""


def _judging(status: Status) -> Judging:
    """Read what an inference service says of its model; what can't be read stays as is by default."""
    values = {}
    for name in ("window_correlation", "unsure_below"):
        try:
            value = float(status.details[name])
        except (KeyError, ValueError):
            continue
        if 0.0 <= value <= 1.0:
            values[name] = value
    return Judging(**values)
