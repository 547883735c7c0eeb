"""Reading what others publish: every message is acknowledged, and none that is strange stops the reading.

For whoever only looks (dashboard, `genre watch`, `genre up`, a fleet). Workers, whose acks mean that work is done, are
in services/process/worker.py. Start at `read`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable

from services.contract.messages import ContractError, Message
from services.mqtt.client import MqttClient
from services.mqtt.subscriptions import Delivery

log = logging.getLogger(__name__)

Take = Callable[[Message], object]


def read(mqtt: MqttClient, topic_filter: str, take: Take) -> None:
    """Subscribe, and hand each message over; it runs in the network thread.

    Args:
        take: raises ContractError for a message that is not as the contract says; it is passed over, and told of the
            1st, 10th, 100th ... time, for who sends one may send many.
    """
    strange = itertools.count(1)

    def handler(delivery: Delivery) -> None:
        try:
            take(delivery.message)
        except ContractError as error:
            count = next(strange)
            if str(count).strip("0") == "1":
                log.warning("a message on %s is passed over, %d by now: %s", delivery.message.topic, count, error)
        finally:
            mqtt.ack(delivery)

    mqtt.subscribe(topic_filter, handler)


def with_payload(take: Callable[[bytes], object]) -> Take:
    """Return a `take` of payloads alone; an empty one is a retained message that was cleared, and nothing to read."""
    return lambda message: take(message.payload) if message.payload else None
