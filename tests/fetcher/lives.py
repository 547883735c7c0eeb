"""One stream's task against a real origin, life after life over one state folder; its sender settles at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.contract.messages import Event, Ledger
from services.fetcher.delivery.checkpoint import Checkpoints
from services.fetcher.delivery.in_flight import InFlightChunk
from services.fetcher.stream import StreamTask
from services.settings.schema import Fetcher, Retry, Settings, Stream
from tests.broker.mosquitto import wait_for
from tests.fetcher.builders import hls


class Sender:
    """Settles every chunk at once, or kills its task's thread after so many."""

    def __init__(self, most: int) -> None:
        self.reply_to = "genre/acks/1"
        self.task: StreamTask | None = None
        self.chunks: list[InFlightChunk] = []
        self._most = most

    def send(self, in_flight: InFlightChunk, stop: threading.Event) -> None:
        if len(self.chunks) >= self._most:
            stop.set()
            return
        self.chunks.append(in_flight)
        assert self.task is not None
        self.task.settled(in_flight, None)

    def outstanding(self, stream: str) -> int:
        return 0


class Life:
    """One life of a stream's task."""

    def __init__(self, state: Path, stream: Stream, most: int = 10**9, **changes: Any) -> None:
        fetcher = {key: changes.pop(key) for key in list(changes) if key in Fetcher.model_fields}
        quick = {"playlist_retry": Retry(attempts=2, first_wait_s=0.02, longest_wait_s=0.05), "shortest_reload_s": 0.05}
        config = Settings(
            fetcher=Fetcher.model_validate({"retry_failed_s": 0.05, **fetcher}),
            hls=hls(**{**quick, "ended_reload_s": 0.1, "live_start_targets": 60.0, **changes}),
        )
        self.events: list[Event] = []
        self.sender = Sender(most)
        sender: Any = self.sender
        self.task = StreamTask(stream, config, sender, Checkpoints(state, "1"), self.events.append)
        self.sender.task = self.task
        self.task.start()

    @property
    def ledger(self) -> Ledger:
        return self.task.ledger

    @property
    def ids(self) -> list[str]:
        return [in_flight.chunk.header.window_id(0, "m") for in_flight in list(self.sender.chunks)]

    def kinds(self) -> list[str]:
        return [event.kind for event in list(self.events) if event.kind != "report"]

    def until(self, condition: Callable[[], Any], what: str) -> None:
        wait_for(condition, what, 30)

    def end(self) -> Ledger:
        """End it as on SIGTERM."""
        self.task.end()
        self.task.join(10)
        assert self.ledger.adds_up
        return self.ledger
