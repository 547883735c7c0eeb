"""What the page shows right now: each stream, each part, what is wrong. Values only; no bus, no HTTP, no file.

Every change gets a number, so that a browser asks for what changed since the last one it saw and nobody keeps a queue
for it. Start at `Board`; `stream_view.py` is one stream, `alarms.py` what is wrong, `shown.py` what the page gets.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, Literal

from services.contract import Event, Ledger, Now, Result, Status, utc
from services.dashboard import alarms, shown
from services.dashboard.alarms import Alarm
from services.dashboard.runs import Run
from services.dashboard.smoothing import SILENCE, Judging
from services.dashboard.stream_view import State, StreamView
from services.fleet import Fleet
from services.settings import Stream

MOST_STREAMS = 2_000
MOST_PARTS = 2_000
MOST_EVENTS = 200
MOST_UNKEPT = 100_000
"""Runs and events that wait for the history; where it can't be written, the newest are not kept."""
FORGET_S = 600.0
"""A stream that is not in the configuration and gave nothing for this long is no longer shown."""
REMOVED_S = 5.0
"""One that was taken out of the configuration goes this long after its last result."""


class Board:
    """Everything the page shows; safe to call from several threads.

    Args:
        stopped_after_s: no result for this long is an alarm.
    """

    def __init__(self, stopped_after_s: float) -> None:
        self.stopped_after_s = stopped_after_s
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
        self.fleet: Fleet | None = None

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
            self._rate.append(time.monotonic())
            closed = view.hear(result, now, self._judging)
            if closed is not None and len(self._closed) < MOST_UNKEPT:
                self._closed.append(closed)
            self.latencies_s[result.stream] = result.latency_ms / 1000
            self._changed(view)

    def event(self, event: Event, now: float) -> None:
        """Take one event."""
        with self._lock:
            view = self._view(event.stream)
            if view is None:
                return
            view.happen(event)
            self._events.append((now, event))
            if len(self._new_events) < MOST_UNKEPT:
                self._new_events.append((now, event))
            self._events_version = self._changed(view)

    def recall(self, events: list[tuple[float, Event]]) -> None:
        """Take events of earlier days, to be shown only: what they told of a stream may be over."""
        with self._lock:
            self._events.extendleft(reversed(events))
            self._events_version = self._next()

    def ledger(self, ledger: Ledger) -> None:
        """Take a ledger."""
        with self._lock:
            if self._configured and ledger.stream not in self._configured and ledger.stream not in self._streams:
                return  # what a stream of earlier days left behind, retained; one that lives shows by its results
            view = self._view(ledger.stream)
            if view is not None and view.account(ledger):
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
                if view.configure(self._configured.get(name)):
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
        return view.state(self.stopped_after_s)

    def alarms(self) -> list[Alarm]:
        """Return what a person should look at, worst first."""
        with self._lock:
            out = [*alarms.of_broker(self.connected, self.lost_since), *alarms.of_parts(self._parts.values())]
            of_streams = (alarms.of_stream(view, self.state(view)) for view in self._streams.values())
            out += [alarm for alarm in of_streams if alarm is not None]
            if self.fleet is not None:
                out += alarms.of_boxes(self.fleet.boxes(), self.stopped_after_s)
            out += [Alarm("note", problem) for problem in self.history_problems]
            return sorted(out, key=lambda alarm: (alarm.level != "alarm", alarm.stream))

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
                "streams": [shown.stream(view) for view in changed],
                "states": {view.name: self.state(view) for view in self._streams.values()},
                "alarms": [vars(alarm) for alarm in self.alarms()],
            }
            gone = [name for name, at in self._gone.items() if at > version]
            if gone:
                out["gone"] = gone
            if self._parts_version > version:
                out["parts"] = [{**part.model_dump(), "restarts": restarts} for part, restarts in self.parts()]
            if self._events_version > version:
                out["events"] = shown.events(self._events)
            return out


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
