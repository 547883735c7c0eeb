"""What a careful reader of results would have: every result by id, every copy compared, ledgers, dead letters.

It speaks to the broker directly and no fault touches it: it is the witness. Start at `Recorder`.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from services.contract.messages import Dead, Event, Ledger, Result, parse
from services.contract.topics import Topics
from services.mqtt.subscriptions import Delivery
from services.process.lifecycle import ServiceProcess
from services.settings.schema import Broker

TIMESTAMPS = ("published_at", "latency_ms", "observed_at")
"""observed_at is one where the stream has no EXT-X-PROGRAM-DATE-TIME: then it says when the audio arrived."""

RECORDER = "recorder"


class Recorder:
    """Reads everything that is promised to users, and keeps it."""

    def __init__(self, broker: Broker, *, writes: bool = True) -> None:
        topics = Topics(broker.root)
        self.results: dict[str, dict[str, Any]] = {}
        self.differing: list[tuple[str, dict[str, tuple[Any, Any]]]] = []
        self.duplicates = 0
        self.ledgers: dict[str, Ledger] = {}
        self.dead: list[Dead] = []
        self.events: Counter[str] = Counter()
        self.strange: list[str] = []
        self.timelines: dict[str, set[str]] = {}
        self.most_timelines = 1
        self._lock = threading.Lock()
        # Its status, where it may write one, tells inference that the reader of results is there.
        recording = ServiceProcess("supervisor", RECORDER, broker.root, broker, writes=writes)
        self.mqtt = recording.connect(durable=True, receive_maximum=1000)
        for topic, take in (
            (topics.results, self._result),
            (topics.ledger("+"), self._ledger),
            (topics.dead, self._dead),
            (topics.events, self._event),
        ):
            self.mqtt.subscribe(topic, self._acking(take))

    def start(self) -> None:
        """Connect and subscribe."""
        self.mqtt.start()
        self.mqtt.wait_connected(20)

    def _acking(self, take: Any) -> Any:
        def handler(delivery: Delivery) -> None:
            try:
                with self._lock:
                    take(delivery.message.payload)
            except Exception as error:
                self.strange.append(f"{delivery.message.topic}: {error}")
            finally:
                self.mqtt.ack(delivery)

        return handler

    def _result(self, payload: bytes) -> None:
        result = parse(Result, payload)
        values = result.model_dump(exclude=set(TIMESTAMPS))
        # Runs are compared, and each run's timelines have identities of their own.
        values["id"] = "/".join([result.stream, *result.id.rsplit("/", 3)[1:]])
        known = self.timelines.setdefault(result.stream, set())
        if result.timeline not in known and len(known) >= self.most_timelines:
            self.strange.append(f"timeline {len(known) + 1} of {result.stream}: {result.timeline}")
        known.add(result.timeline)
        first = self.results.setdefault(values["id"], values)
        if first is not values:
            self.duplicates += 1
            if first != values:
                changed = {name: (first[name], value) for name, value in values.items() if first[name] != value}
                self.differing.append((values["id"], changed))

    def _ledger(self, payload: bytes) -> None:
        ledger = parse(Ledger, payload)
        if not ledger.adds_up:
            self.strange.append(f"a ledger that does not add up: {ledger}")
        self.ledgers[ledger.stream] = ledger

    def _dead(self, payload: bytes) -> None:
        self.dead.append(parse(Dead, payload))

    def _event(self, payload: bytes) -> None:
        self.events[parse(Event, payload).kind] += 1

    def all_ended(self, streams: int) -> bool:
        """Whether every stream is over and accounted for."""
        return len(self.ledgers) == streams and all(ledger.ended for ledger in self.ledgers.values())
