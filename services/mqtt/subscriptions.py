"""What one client has subscribed to: renewed with every connection, and who gets a message that comes in.

Start at `Subscriptions`. A durable `$share` subscription is gone after a broker restart although session_present is
true, hence on every connect.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import paho.mqtt.client as mqtt
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from services.contract.messages import Message


@dataclass(frozen=True)
class Delivery:
    """A message that came in, and what its ack needs."""

    message: Message
    mid: int
    generation: int
    duplicate: bool
    qos: int


Handler = Callable[[Delivery], None]


class Subscriptions:
    """The filters of one client and their handlers.

    Args:
        client: paho's.
    """

    def __init__(self, client: mqtt.Client) -> None:
        self._client = client
        # The SUBACK waits for this lock, so it can't come before its filters are noted.
        self._lock = threading.Lock()
        self._connected = False
        self._handlers: dict[str, Handler] = {}
        self._options: dict[str, SubscribeOptions] = {}
        self._leaving: dict[str, Handler] = {}
        self._subscribing: dict[int, list[str]] = {}

    def add(self, topic_filter: str, handler: Handler, qos: int) -> None:
        """Subscribe, now and after every connect."""
        with self._lock:
            self._handlers[topic_filter] = handler
            self._options[topic_filter] = SubscribeOptions(qos=qos, noLocal=False)
            if self._connected:
                self._send([topic_filter])

    def remove(self, topic_filter: str) -> None:
        """Take no more messages of a filter; what the broker already holds for this session still comes."""
        with self._lock:
            handler = self._handlers.pop(topic_filter, None)
            if handler is not None:
                self._leaving[topic_filter] = handler
            self._client.unsubscribe(topic_filter)

    def renew(self) -> None:
        """Send everything on a new connection."""
        with self._lock:
            self._connected = True
            if self._handlers:
                self._send(list(self._handlers))
            left = [topic_filter for topic_filter in self._leaving if topic_filter not in self._handlers]
            if left:  # said while there was no connection: a durable session is still a member
                self._client.unsubscribe(left)

    def lost(self) -> None:
        """Note that the connection is gone."""
        with self._lock:
            self._connected = False

    @property
    def filters(self) -> list[str]:
        """What is subscribed to."""
        with self._lock:
            return list(self._handlers)

    def handlers_of(self, topic: str) -> list[Handler]:
        """Return who gets a message of a topic."""
        with self._lock:
            return [
                handler
                for topic_filter, handler in (self._handlers | self._leaving).items()
                if mqtt.topic_matches_sub(_plain(topic_filter), topic)
            ]

    def refused(self, mid: int, reasons: list[ReasonCode]) -> list[tuple[str, ReasonCode]]:
        """Return the filters that a SUBACK refuses, and why."""
        with self._lock:
            filters = self._subscribing.pop(mid, [])
        return [pair for pair in zip(filters, reasons, strict=False) if pair[1].is_failure]

    def _send(self, filters: list[str]) -> None:
        _, mid = self._client.subscribe([(topic_filter, self._options[topic_filter]) for topic_filter in filters])
        if mid is not None:
            self._subscribing[mid] = filters


def _plain(topic_filter: str) -> str:
    """Return the filter of real topics inside a shared subscription."""
    return topic_filter.split("/", 2)[2] if topic_filter.startswith("$share/") else topic_filter
