"""What the dashboard writes on the bus, each only where a setting says so: `now`, single numbers, Home Assistant.

Retained topics that are written only when they change; on every connect all of them anew, since a broker may have
forgotten. Start at `Announcer.turn`.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from services.bus import Bus, Delivery
from services.contract import SAMPLE_RATE, Message, Topics
from services.dashboard import home_assistant
from services.dashboard.board import Board
from services.dashboard.shown import PLACES
from services.dashboard.stream_view import StreamView
from services.lifecycle import product_version
from services.settings import Dashboard

log = logging.getLogger(__name__)

FLAT_EVERY_S = 5.0
NOW_EVERY_S = 5.0
"""A confidence that moves by a hair is written this often at most; a new genre, title or state at once."""
STATE_NUMBERS = {"stopped": 0, "playing": 1, "silent": 2, "ended": 3}


class Announcer:
    """Keeps the retained topics as the board is."""

    def __init__(self, bus: Bus, topics: Topics, board: Board, settings: Dashboard, instance: str) -> None:
        self._bus, self._topics, self._board = bus, topics, board
        self._settings, self._instance = settings, instance
        self._now: dict[str, tuple[tuple[object, ...], float, float]] = {}
        self._flat: dict[str, tuple[float, dict[str, str]]] = {}
        self._devices: dict[str, bytes] = {}
        self._again = False
        self._was_connected = False
        if settings.home_assistant:
            bus.subscribe(f"{settings.home_assistant_prefix}/status", self._home_assistant_status)

    @property
    def writes_now(self) -> bool:
        """Whether `now` is written; Home Assistant's sensors read it."""
        return self._settings.publish_now or self._settings.home_assistant

    def turn(self) -> None:
        """Write what changed; call it about every second."""
        if not self._bus.connected:
            self._was_connected = False
            return
        if self._again or not self._was_connected:
            self._now, self._flat, self._devices = {}, {}, {}
            self._again, self._was_connected = False, True
        views = {view.name: view for view in self._board.views()}
        for view in views.values():
            if self.writes_now:
                self._write_now(view)
            if self._settings.publish_flat:
                self._write_flat(view)
            if self._settings.home_assistant:
                self._write_device(view)
        for name in set(self._devices) - views.keys():
            del self._devices[name]
            self._bus.publish(home_assistant.removal(self._settings.home_assistant_prefix, self._topics.root, name))
        for name in set(self._now) - views.keys():
            del self._now[name]
            self._bus.publish(Message(self._topics.now(name), b"", retain=True))
        for name in set(self._flat) - views.keys():
            for number in self._flat.pop(name)[1]:
                self._bus.publish(Message(self._topics.flat(name, number), b"", retain=True))

    def _write_now(self, view: StreamView) -> None:
        now = self._board.now(view)
        main = (now.genre, now.title, now.artist, now.state, now.since)
        told, confidence, at = self._now.get(view.name, ((), -1.0, 0.0))
        changed = told != main
        moved = confidence != now.confidence and time.monotonic() - at > NOW_EVERY_S
        if changed or moved:
            self._now[view.name] = (main, now.confidence, time.monotonic())
            message = Message(self._topics.now(view.name), now.to_json(), retain=True, content_type="application/json")
            self._bus.publish(message)

    def _write_flat(self, view: StreamView) -> None:
        at, told = self._flat.get(view.name, (0.0, {}))
        if time.monotonic() - at < FLAT_EVERY_S:
            return
        numbers = self.numbers(view)
        for name, value in numbers.items():
            if told.get(name) != value:
                self._bus.publish(Message(self._topics.flat(view.name, name), value.encode(), retain=True))
        self._flat[view.name] = (time.monotonic(), {**told, **numbers})

    def numbers(self, view: StreamView) -> dict[str, str]:
        """Return a stream's numbers as plain text, by topic level."""
        now = self._board.now(view)
        values: dict[str, float] = {"state": STATE_NUMBERS[now.state], "confidence": now.confidence}
        values |= {f"score_{_level(label)}": score for label, score in view.verdict.scores.items()}
        if view.recent:
            last = view.recent[-1]
            values |= {"level_dbfs": last.level_dbfs, "latency_s": last.latency_ms / 1000}
        if view.ledger is not None:
            ledger = view.ledger
            values |= {f"{place}_s": getattr(ledger, place) / SAMPLE_RATE for place in PLACES}
        return {name: f"{value:.4f}".rstrip("0").rstrip(".") for name, value in values.items()}

    def _write_device(self, view: StreamView) -> None:
        board = self._settings
        url = (
            None
            if board.host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::")
            else f"http://{board.host}:{board.port}/"
        )
        if board.hosts:
            url = f"http://{board.hosts[0]}:{board.port}/"
        labels = tuple(view.recent[-1].scores) if view.recent else ()
        if not labels and view.name in self._devices:
            return
        message = home_assistant.device(
            board.home_assistant_prefix, self._topics, view.name, labels, product_version(), self._instance, url
        )
        if self._devices.get(view.name) != message.payload:
            self._devices[view.name] = message.payload
            self._bus.publish(message)

    def _home_assistant_status(self, delivery: Delivery) -> None:
        """Home Assistant came back: it wants everything again."""
        self._bus.ack(delivery)
        if delivery.message.payload == b"online" and not delivery.message.retain:
            log.info("Home Assistant is online; announcing again")
            self._again = True

    def describe(self) -> dict[str, Any]:
        """Return what is written, for the log."""
        return {
            "now": self.writes_now,
            "flat": self._settings.publish_flat,
            "home_assistant": self._settings.home_assistant,
        }


def _level(label: str) -> str:
    """Return a label as one topic level."""
    return "".join("_" if c in "+#/\0" or not c.isprintable() else c for c in label)[:64] or "_"
