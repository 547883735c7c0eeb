"""Whether the right reader is there for what a service publishes: known by its status, not by a subscription alone.

A PUBACK says that somebody is subscribed; that may be a spectrogram or `mosquitto_sub -t '#'`. A reader whose status is
online has subscribed before it said so (`MqttClient` sends SUBSCRIBE first). Start at `ReaderWatch.missing`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from services.contract.messages import ContractError, Status, parse
from services.mqtt.client import MqttClient
from services.mqtt.subscriptions import Delivery
from services.process.lifecycle import ServiceProcess

log = logging.getLogger(__name__)

READ_S = 5.0
"""A service that has not read its own status so long after a connect may not read any: then PUBACKs alone count."""
MOST_READERS = 1_000
ASIDE = "aside"
"""Detail in the status of a worker that takes no work now, with why."""


class ReaderWatch:
    """Reads the status of others, and knows whether one that is wanted is online and takes work.

    Args:
        what: how a person calls such a reader.
        wanted: whether a service with this status is such a reader.
    """

    def __init__(
        self, lifecycle: ServiceProcess, mqtt: MqttClient, what: str, wanted: Callable[[Status], bool]
    ) -> None:
        self._lifecycle, self._mqtt, self._what, self._wanted = lifecycle, mqtt, what, wanted
        self._lock = threading.Lock()
        self._generation = -1
        self._since = time.monotonic()
        self._present: set[tuple[str, str]] = set()
        self._can_read = self._told = False

    def start(self) -> None:
        """Subscribe to every status, our own included: it proves that this user may read them."""
        # With QoS 1 it would wait for ever behind the work that waits for it: that uses up the Receive Maximum.
        self._mqtt.subscribe(self._lifecycle.topics.status("+", "+"), self._take, qos=0)

    def missing(self) -> str:
        """Return what is missing, in words; '' where a reader is there, or this user can't know."""
        with self._lock:
            self._renew(self._mqtt.generation)
            if self._present:
                return ""
            if self._can_read or time.monotonic() - self._since < READ_S:
                return f"no {self._what} is online"
            told, self._told = self._told, True
        if not told:
            log.warning(
                "this user may not read %s, so any subscriber counts as %s; 'genre broker init' renews the roles",
                self._lifecycle.topics.status("+", "+"),
                self._what,
            )
        return ""

    def _renew(self, generation: int) -> None:
        """Forget what an earlier connection told: after a restart of the broker each says again who is there."""
        if generation != self._generation:
            self._generation, self._since = generation, time.monotonic()
            self._present.clear()
            self._can_read = False

    def _take(self, delivery: Delivery) -> None:
        self._mqtt.ack(delivery)
        service, instance = delivery.message.topic.split("/")[-2:]
        try:
            status = parse(Status, delivery.message.payload) if delivery.message.payload else None
        except ContractError as error:
            log.warning("a message on %s is passed over: %s", delivery.message.topic, error)
            return
        with self._lock:
            self._renew(delivery.generation)
            if (service, instance) == (self._lifecycle.service, self._lifecycle.instance):
                self._can_read = True
            there = status is not None and status.state == "online" and ASIDE not in status.details
            if there and status is not None and self._wanted(status) and len(self._present) < MOST_READERS:
                self._present.add((service, instance))
            else:
                self._present.discard((service, instance))
