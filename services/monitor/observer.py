"""What `genre up` and `genre watch` see on the bus: results, ledgers, events, health; a reader like any dashboard.

It keeps values only (who reads decides how to show them) and bounds each of them. Start at `Observer`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from services.contract.messages import ContractError, Event, Ledger, Result, Status, parse
from services.contract.smoothing import Judging
from services.contract.topics import Topics
from services.mqtt.client import MqttClient
from services.mqtt.reader import read, with_payload

RECENT = 20
"""Windows of a stream that are kept: 30 s at a hop of 1.5 s."""
MOST_STREAMS = 1_000
MOST_PARTS = 1_000
MOST_IDS = 100_000
"""The last ids, by which a copy is known; copies come within minutes: of 200 streams this holds 12, in 15 MB."""


@dataclass
class Seen:
    """What was seen of one stream.

    Attributes:
        heard_at: monotonic time of its last result; 0 where there was none.
    """

    recent: deque[Result] = field(default_factory=lambda: deque(maxlen=RECENT))
    results: int = 0
    duplicates: int = 0
    ledger: Ledger | None = None
    last_event: Event | None = None
    failed: str = ""
    heard_at: float = 0.0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=1000))


class Observer:
    """Reads results, events, ledgers and status, and keeps what a person wants to see.

    Args:
        mqtt: a client that is not started yet.
        on_result: called with each first result of an id and its payload, from the network thread.
        on_event: called with each event.
    """

    def __init__(
        self,
        mqtt: MqttClient,
        *,
        on_result: Callable[[Result, bytes], None] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.mqtt, self._topics = mqtt, Topics(mqtt.broker.root)
        self._on_result, self._on_event = on_result, on_event
        self._ids: dict[str, None] = {}
        self._lock = threading.Lock()
        self.streams: dict[str, Seen] = {}
        self.status: dict[str, Status] = {}
        self.judging = Judging()

    def start(self) -> None:
        """Subscribe and connect."""
        for topic_filter, take in (
            (self._topics.results, self._result),
            (self._topics.events, self._event),
            (self._topics.ledger("+"), self._ledger),
            (self._topics.status("+", "+"), self._status),
        ):
            read(self.mqtt, topic_filter, with_payload(take))
        self.mqtt.start()

    def stop(self) -> None:
        """Disconnect."""
        self.mqtt.stop()

    def seen(self) -> dict[str, Seen]:
        """Return the streams seen so far, by name."""
        with self._lock:
            return dict(sorted(self.streams.items()))

    def _stream(self, name: str) -> Seen:
        with self._lock:
            if name not in self.streams and len(self.streams) >= MOST_STREAMS:
                raise ContractError(f"more than {MOST_STREAMS} streams")
            return self.streams.setdefault(name, Seen())

    def _result(self, payload: bytes) -> None:
        result = parse(Result, payload)
        seen = self._stream(result.stream)
        if result.id in self._ids:
            seen.duplicates += 1
            return
        self._ids[result.id] = None
        if len(self._ids) > MOST_IDS:
            del self._ids[next(iter(self._ids))]
        seen.results += 1
        seen.recent.append(result)
        seen.heard_at = time.monotonic()
        seen.latencies_ms.append(result.latency_ms)
        if self._on_result is not None:
            self._on_result(result, payload)

    def _event(self, payload: bytes) -> None:
        event = parse(Event, payload)
        seen = self._stream(event.stream)
        seen.last_event = event
        if event.kind in ("error", "started", "resumed"):
            seen.failed = event.reason if event.kind == "error" else ""
        if self._on_event is not None:
            self._on_event(event)

    def _ledger(self, payload: bytes) -> None:
        ledger = parse(Ledger, payload)
        seen = self._stream(ledger.stream)
        seen.ledger = ledger
        if ledger.failed:  # retained, so it comes even where the event was missed
            seen.failed = ledger.failed

    def _status(self, payload: bytes) -> None:
        status = parse(Status, payload)
        part = f"{status.service}/{status.instance}"
        if part in self.status or len(self.status) < MOST_PARTS:
            self.status[part] = status
        if status.service == "inference":
            self.judging = Judging.of(status.details)

    def ledgers(self) -> dict[str, dict[str, object]]:
        """Return each stream's ledger with the results seen here, as `--json` prints it."""
        out: dict[str, dict[str, object]] = {}
        for name, seen in self.seen().items():
            ledger = seen.ledger or Ledger(stream=name)
            values = ledger.model_dump(exclude={"stream", "in_flight", "ended", "failed"})
            causes = values.pop("causes")
            out[name] = {**values, "results": seen.results, "duplicates": seen.duplicates, "causes": causes}
        return out
