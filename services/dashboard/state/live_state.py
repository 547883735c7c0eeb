"""What the page shows right now: each stream, each part, what is wrong. Values only; no bus, no HTTP, no file.

Every change gets a number, so that a browser asks for what changed since the last one it saw and nobody keeps a queue
for it. Start at `LiveState`; `stream_state.py` is one stream, `alarms.py` what is wrong, `json_view.py` what
the page gets.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, Literal

from services.contract.messages import Event, Ledger, Now, Result, Status
from services.contract.smoothing import Judging
from services.dashboard.state import alarms, json_view
from services.dashboard.state.alarms import Alarm
from services.dashboard.state.genre_segments import GenreSegment, moved
from services.dashboard.state.stream_state import Glimpse, State, StreamState
from services.monitor.fleet import Fleet
from services.settings.schema import Stream
from services.text import utc

MOST_STREAMS = 2_000
MOST_PARTS = 2_000
MOST_EVENTS = 200
MOST_UNKEPT = 100_000
"""Runs and events that wait for the history; where it can't be written, the newest are not kept."""
FORGET_S = 600.0
"""A stream that is not in the configuration and gave nothing for this long is no longer shown."""
NowState = Literal["playing", "silent", "stopped", "ended", "waiting", "paused"]
NOW_STATES: dict[State, NowState] = {
    "playing": "playing", "unsure": "playing", "silent": "silent", "stopped": "stopped", "failed": "stopped",
    "ended": "ended", "waiting": "waiting", "paused": "paused",
}  # fmt: skip
"""What the page says of a stream, and the word for it in `now`."""
FITS_S = 2.0
"""An event this close to the clock as it was just set came after that: it is looked at once a second."""
REMOVED_S = 5.0
"""One that was taken out of the configuration goes this long after its last result."""


class LiveState:
    """Everything the page shows; safe to call from several threads.

    Args:
        stopped_after_s: no result for this long is an alarm.
    """

    def __init__(self, stopped_after_s: float) -> None:
        self.stopped_after_s = stopped_after_s
        self._lock = threading.RLock()
        self._version = 0
        self._streams: dict[str, StreamState] = {}
        self._gone: dict[str, int] = {}
        self._parts: dict[str, Status] = {}
        self._restarts: dict[str, int] = {}
        self._boots: dict[str, str] = {}
        self._parts_version = 0
        self._earlier: list[tuple[float, Event]] = []
        self._events: deque[tuple[float, Event]] = deque(maxlen=MOST_EVENTS)
        self._events_version = 0
        self._closed: list[GenreSegment] = []
        self._new_events: list[tuple[float, Event]] = []
        self._judging = Judging()
        self._configured: dict[str, Stream] | None = None
        self._rate: deque[float] = deque(maxlen=2_000)
        self.connected = False
        self.lost_since = time.time()
        self.broker_problem = ""
        self.history_problems: tuple[str, ...] = ()
        self.duplicates = 0
        self.latencies_s: dict[str, float] = {}
        self.fleet: Fleet | None = None

    # --- what comes in ---------------------------------------------------------------------------------------------

    def result(self, result: Result, now: float, clock: float) -> None:
        """Take one window.

        Args:
            now: Unix time.
            clock: the clock that says so (`clock_steps.apart`).
        """
        with self._lock:
            view = self._view(result.stream)
            if view is None:
                return
            if result.id in view.ids:
                self.duplicates += 1
                return
            self._rate.append(time.monotonic())
            closed = view.process(result, now, self._judging, clock)
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
            self._earlier = list(events)
            self._events_version = self._next()

    def ledger(self, ledger: Ledger) -> None:
        """Take a ledger."""
        with self._lock:
            if (
                self._configured is not None
                and ledger.stream not in self._configured
                and ledger.stream not in self._streams
            ):
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
                self._judging = Judging.of(status.details)
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

    def clock_stepped(self, seconds: float, now: float, clock: float) -> None:
        """Move what this machine's clock dated wrongly, before it was set by so many seconds.

        Args:
            now: Unix time by the clock as it is now.
            clock: that clock (`clock_steps.apart`).
        """
        with self._lock:
            for view in self._streams.values():
                view.clock_stepped(seconds, now, clock)
                self._changed(view)
            self._closed = [moved(segment, clock) for segment in self._closed]
            for dated in (self._events, self._new_events):
                for number, (at, event) in enumerate(dated):
                    if abs(at - now) > FITS_S:
                        dated[number] = (at + seconds, event)
            self._events_version = self._next()
            self.lost_since += seconds

    def take_history(self) -> tuple[list[GenreSegment], list[tuple[float, Event]]]:
        """Hand over what the history is to keep: closed runs, the open ones as they are, and new events."""
        with self._lock:
            closed, self._closed = self._closed, []
            events, self._new_events = self._new_events, []
            return [*closed, *(view.run for view in self._streams.values() if view.run is not None)], events

    def _view(self, name: str) -> StreamState | None:
        view = self._streams.get(name)
        if view is None and len(self._streams) < MOST_STREAMS:
            view = self._streams[name] = StreamState(name, time.monotonic())
            view.configured = (self._configured or {}).get(name)
            self._gone.pop(name, None)
            self._changed(view)
        return view

    def _changed(self, view: StreamState) -> int:
        view.version = self._next()
        return view.version

    def _next(self) -> int:
        self._version += 1
        return self._version

    # --- what it means ---------------------------------------------------------------------------------------------

    def state(self, view: StreamState) -> State:
        """Return a stream's state in one word."""
        return view.state(self.stopped_after_s)

    def alarms(self) -> list[Alarm]:
        """Return what a person should look at, worst first."""
        with self._lock:
            of_broker = alarms.of_broker(self.connected, self.lost_since, self.broker_problem)
            out = [*of_broker, *alarms.of_parts(self._parts.values())]
            of_streams = (alarms.of_stream(view, self.state(view)) for view in self._streams.values())
            out += [alarm for alarm in of_streams if alarm is not None]
            if self.fleet is not None:
                out += alarms.of_boxes(self.fleet.boxes(), self.stopped_after_s)
            out += [Alarm("note", problem) for problem in self.history_problems]
            return sorted(out, key=lambda alarm: (alarm.level != "alarm", alarm.stream))

    def now(self, view: StreamState) -> Now:
        """Return what is retained at streams/<stream>/now."""
        word = NOW_STATES[self.state(view)]
        since = view.in_state(word, time.time())
        verdict = view.verdict if word in ("playing", "silent") else None
        return Now(
            stream=view.name,
            genre=verdict.genre if verdict else None,
            confidence=round(verdict.confidence, 4) if verdict else 0.0,
            kind=verdict.kind if verdict else None,
            since=utc(view.since if word == "playing" else since),
            title=view.track[0] if word not in ("ended", "paused") else "",
            artist=view.track[1] if word not in ("ended", "paused") else "",
            state=word,
            updated_at=utc(time.time()),
        )

    def views(self) -> list[StreamState]:
        """Return the streams, by name."""
        with self._lock:
            return [self._streams[name] for name in sorted(self._streams)]

    def glimpses(self, stream: str) -> list[Glimpse] | None:
        """Return what a stream's windows of the last minutes said; None where there is no such stream."""
        with self._lock:
            view = self._streams.get(stream)
            return list(view.glimpses) if view is not None else None

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
                "streams": [json_view.stream(view) for view in changed],
                "states": {view.name: self.state(view) for view in self._streams.values()},
                "alarms": [vars(alarm) for alarm in self.alarms()],
            }
            gone = [name for name, at in self._gone.items() if at > version]
            if gone:
                out["gone"] = gone
            if self._parts_version > version:
                out["parts"] = [{**part.model_dump(), "restarts": restarts} for part, restarts in self.parts()]
            if self._events_version > version:
                out["events"] = json_view.events([*self._earlier, *self._events])
            return out
