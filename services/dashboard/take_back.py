"""Takes back what an earlier start announced and what is no longer so: streams removed meanwhile, settings turned off.

A broker keeps retained messages for ever. So after every connect the retained topics of a dashboard are read from the
broker itself, and those that nobody keeps up any more are cleared. Start at `TakeBack.turn`; `genre retained` does it
by hand.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass

from services.contract.messages import Message
from services.contract.topics import Topics
from services.mqtt.client import MqttClient
from services.mqtt.subscriptions import Delivery

log = logging.getLogger(__name__)

SETTLED_S = 5.0
"""After this long every stream that lives has shown itself: they give a result every 1.5 s."""
MOST_TOPICS = 100_000


@dataclass(frozen=True)
class Owned:
    """The retained topics that a dashboard writes."""

    topics: Topics
    prefix: str

    @property
    def filters(self) -> tuple[str, ...]:
        """What to subscribe to."""
        return self.topics.now("+"), self.topics.flat("+", "+"), f"{self.prefix}/device/+/config"

    def stream(self, topic: str, payload: bytes) -> str | None:
        """Return the stream that a retained message is about; None where it is no dashboard's under this root."""
        root = f"{self.topics.root}/"
        if topic.startswith(f"{self.prefix}/device/"):
            return self._announced(payload)
        levels = topic.removeprefix(root).split("/")
        if not topic.startswith(root) or len(levels) != 3:
            return None
        if (levels[0], levels[2]) == ("streams", "now") or levels[0] == "flat":
            return levels[1]
        return None

    def _announced(self, payload: bytes) -> str | None:
        """Return the stream of a device that was announced under this root, whatever its id was made of."""
        try:
            device = json.loads(payload)
            if device["origin"]["name"] != "genre-edge":
                return None
            now = str(device["components"]["genre"]["state_topic"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        stream = now.removeprefix(f"{self.topics.root}/streams/").removesuffix("/now")
        return stream if self.topics.now(stream) == now and "/" not in stream else None


class TakeBack:
    """What the broker still holds of a dashboard, read after each connect and cleared where nobody wants it."""

    def __init__(self, mqtt: MqttClient, owned: Owned) -> None:
        self._mqtt, self._owned = mqtt, owned
        self._begun_at: float | None = None
        self._done = False
        self._found: dict[str, str] = {}

    def turn(self, wanted: set[str]) -> bool:
        """Read, and clear what is not wanted; return whether that is done. Call it about every second.

        Args:
            wanted: the retained topics that are kept up now.
        """
        if not self._mqtt.connected:
            self._begun_at, self._done = None, False
            self._leave()
        elif self._begun_at is None:
            self._begun_at = time.monotonic()
            for topic_filter in self._owned.filters:
                self._mqtt.subscribe(topic_filter, self._take)
        elif not self._done and time.monotonic() - self._begun_at >= SETTLED_S:
            self._done = True
            self._leave()
            gone = {topic: stream for topic, stream in self._found.copy().items() if topic not in wanted}
            self._found.clear()
            for topic in gone:
                self._mqtt.publish(Message(topic, b"", retain=True))
            if gone:
                log.info("took back what was announced of %s", ", ".join(sorted(set(gone.values())))[:300])
        return self._done

    def _leave(self) -> None:
        # While it is subscribed, all that this dashboard writes comes back to it.
        for topic_filter in self._owned.filters:
            self._mqtt.unsubscribe(topic_filter)

    def _take(self, delivery: Delivery) -> None:
        message = delivery.message
        self._mqtt.ack(delivery)
        stream = self._owned.stream(message.topic, message.payload)
        if message.retain and message.payload and stream is not None and len(self._found) < MOST_TOPICS:
            self._found[message.topic] = stream
