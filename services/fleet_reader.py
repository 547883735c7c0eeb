"""From the upstream broker to a `Fleet`: subscribes to every box, acknowledges everything, stops at nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable

from services.bus import Bus, Delivery
from services.contract import ContractError, Message
from services.fleet import Fleet

log = logging.getLogger(__name__)


def read(bus: Bus, fleet: Fleet) -> None:
    """Let a fleet take what the upstream broker has of it, now and after every connect."""
    for topic_filter, take in fleet.takers.items():
        bus.subscribe(topic_filter, _guarded(bus, take))


def _guarded(bus: Bus, take: Callable[[Message], None]) -> Callable[[Delivery], None]:
    def handler(delivery: Delivery) -> None:
        try:
            take(delivery.message)
        except ContractError as error:
            log.warning("a message on %s is passed over: %s", delivery.message.topic, error)
        finally:
            bus.ack(delivery)

    return handler
