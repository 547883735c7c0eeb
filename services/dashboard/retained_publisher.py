"""What the dashboard writes on the bus, each only where a setting says so: `now`, single numbers, Home Assistant.

Retained topics that are written only when they change; on every connect all of them again, since a broker may have
forgotten. Start at `RetainedPublisher.turn`.
"""

from __future__ import annotations

import logging
import socket
import time

from services.contract.messages import Message
from services.contract.topics import Topics
from services.contract.windows import SAMPLE_RATE
from services.dashboard import home_assistant
from services.dashboard.state.json_view import PLACES
from services.dashboard.state.live_state import LiveState
from services.dashboard.state.stream_state import StreamState
from services.mqtt.client import MqttClient
from services.mqtt.subscriptions import Delivery
from services.process.lifecycle import product_version
from services.settings.schema import Dashboard
from services.settings.web_address import host_name

log = logging.getLogger(__name__)

FLAT_EVERY_S = 5.0
CONFIDENCE_EVERY_S = 60.0
CONFIDENCE_STEP = 0.1
"""A new genre, title or state is written at once; a confidence that moved by this much, this often at most."""
KIND_NUMBERS = {"silence": 0, "music": 1, "unsure": 1, "speech": 2, "other": 3}
STATE_NUMBERS = {"stopped": 0, "playing": 1, "silent": 2, "ended": 3, "waiting": 4, "paused": 5}


class RetainedPublisher:
    """Keeps the retained topics as the live state is."""

    def __init__(
        self, mqtt: MqttClient, topics: Topics, live_state: LiveState, settings: Dashboard, instance: str
    ) -> None:
        self._mqtt, self._topics, self._live_state = mqtt, topics, live_state
        self._settings, self._instance = settings, instance
        self._box = settings.box or socket.gethostname()
        self._now: dict[str, tuple[tuple[object, ...], float, float]] = {}
        self._flat: dict[str, tuple[float, dict[str, str]]] = {}
        self._devices: dict[str, bytes] = {}
        self._again = False
        self._was_connected = False
        if settings.home_assistant:
            mqtt.subscribe(f"{settings.home_assistant_prefix}/status", self._home_assistant_status)

    @property
    def writes_now(self) -> bool:
        """Whether `now` is written; Home Assistant's sensors read it."""
        return self._settings.publish_now or self._settings.home_assistant

    def turn(self) -> None:
        """Write what changed; call it about every second."""
        if not self._mqtt.connected:
            self._was_connected = False
            return
        if self._again or not self._was_connected:
            self._now, self._flat, self._devices = {}, {}, {}
            self._again, self._was_connected = False, True
        views = {view.name: view for view in self._live_state.views()}
        for view in views.values():
            if self.writes_now:
                self._write_now(view)
            if self._settings.publish_flat:
                self._write_flat(view)
            if self._settings.home_assistant:
                self._write_device(view)
        for name in set(self._devices) - views.keys():
            del self._devices[name]
            self._mqtt.publish(Message(self._device_topic(name), b"", retain=True))
        for name in set(self._now) - views.keys():
            del self._now[name]
            self._mqtt.publish(Message(self._topics.now(name), b"", retain=True))
        for name in set(self._flat) - views.keys():
            for number in self._flat.pop(name)[1]:
                self._mqtt.publish(Message(self._topics.flat(name, number), b"", retain=True))

    def topics(self) -> set[str]:
        """Return the retained topics that are kept up now."""
        flat = {self._topics.flat(name, number) for name, (_, told) in self._flat.items() for number in told}
        return flat | set(map(self._topics.now, self._now)) | set(map(self._device_topic, self._devices))

    def _device_topic(self, stream: str) -> str:
        return home_assistant.topic(self._settings.home_assistant_prefix, self._box, self._topics.root, stream)

    def _write_now(self, view: StreamState) -> None:
        now = self._live_state.now(view)
        main = (now.genre, now.kind, now.title, now.artist, now.state, now.since)
        told, confidence, at = self._now.get(view.name, ((), -1.0, 0.0))
        changed = told != main
        # Whatever keeps these values for years (Home Assistant's recorder) keeps a row for each that is written.
        moved = abs(confidence - now.confidence) >= CONFIDENCE_STEP and time.monotonic() - at > CONFIDENCE_EVERY_S
        if changed or moved:
            self._now[view.name] = (main, now.confidence, time.monotonic())
            message = Message(self._topics.now(view.name), now.to_json(), retain=True, content_type="application/json")
            self._mqtt.publish(message)

    def _write_flat(self, view: StreamState) -> None:
        at, told = self._flat.get(view.name, (0.0, {}))
        if time.monotonic() - at < FLAT_EVERY_S:
            return
        numbers = self.numbers(view)
        for name, value in numbers.items():
            if told.get(name) != value:
                self._mqtt.publish(Message(self._topics.flat(view.name, name), value.encode(), retain=True))
        self._flat[view.name] = (time.monotonic(), {**told, **numbers})

    def numbers(self, view: StreamState) -> dict[str, str]:
        """Return a stream's numbers as plain text, by topic level."""
        now = self._live_state.now(view)
        values: dict[str, float] = {"state": STATE_NUMBERS[now.state], "confidence": now.confidence}
        values |= {f"score_{_level(label)}": score for label, score in view.verdict.scores.items()}
        if now.kind is not None:
            values["kind"] = KIND_NUMBERS[now.kind]
        values |= {f"kind_{_level(kind)}": share for kind, share in (view.verdict.kinds or {}).items()}
        if view.recent:
            last = view.recent[-1]
            values |= {"level_dbfs": last.level_dbfs, "latency_s": last.latency_ms / 1000}
        if view.ledger is not None:
            ledger = view.ledger
            values |= {f"{place}_s": getattr(ledger, place) / SAMPLE_RATE for place in PLACES}
        return {name: f"{value:.4f}".rstrip("0").rstrip(".") for name, value in values.items()}

    def _write_device(self, view: StreamState) -> None:
        page = self._settings
        url = (
            None
            if page.host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::")
            else f"http://{page.host}:{page.port}/"
        )
        if page.hosts:
            first = page.hosts[0]
            url = first if "://" in first else f"http://{host_name(first)}:{page.port}{page.base_path}/"
        labels = tuple(view.recent[-1].scores) if view.recent else ()
        if not labels and view.name in self._devices:
            return
        payload = home_assistant.device(
            self._box, self._topics, view.name, labels, product_version(), self._instance, url, bool(page.box)
        )
        message = Message(self._device_topic(view.name), payload, retain=True, content_type="application/json")
        if self._devices.get(view.name) != message.payload:
            self._devices[view.name] = message.payload
            self._mqtt.publish(message)

    def _home_assistant_status(self, delivery: Delivery) -> None:
        """Home Assistant came back: it wants everything again."""
        self._mqtt.ack(delivery)
        if delivery.message.payload == b"online" and not delivery.message.retain:
            log.info("Home Assistant is online; announcing again")
            self._again = True


def _level(label: str) -> str:
    """Return a label as one topic level."""
    return "".join("_" if c in "+#/\0" or not c.isprintable() else c for c in label)[:64] or "_"
