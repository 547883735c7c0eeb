"""From the bus to `LiveState`: subscribes, decodes, passes on; services/mqtt/reader.py keeps strange messages away.

Start at `read`. Not here: what the messages mean (`live_state.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from services.contract.messages import Event, Ledger, Message, Result, Status, parse
from services.contract.topics import Topics
from services.dashboard.state.clock_steps import apart
from services.dashboard.state.live_state import LiveState
from services.monitor.fleet import Fleet
from services.mqtt import reader
from services.mqtt.client import MqttClient
from services.mqtt.reader import with_payload


def read(mqtt: MqttClient, topics: Topics, live_state: LiveState, count: Callable[[Result], None]) -> None:
    """Subscribe a board to everything it shows.

    Args:
        count: called with each result, for metrics.
    """

    def result(payload: bytes) -> None:
        found = parse(Result, payload)
        count(found)
        live_state.result(found, time.time(), apart())

    def status(message: Message) -> None:
        if message.payload:
            live_state.status(parse(Status, message.payload))
        else:
            live_state.forget_part(*message.topic.split("/")[-2:])

    for topic, take in (
        (topics.results, with_payload(result)),
        (topics.events, with_payload(lambda payload: live_state.event(parse(Event, payload), time.time()))),
        (topics.ledger("+"), with_payload(lambda payload: live_state.ledger(parse(Ledger, payload)))),
        (topics.status("+", "+"), status),
    ):
        reader.read(mqtt, topic, take)


def read_fleet(mqtt: MqttClient, root: str, live_state: LiveState, count: Callable[[Result], None]) -> None:
    """Subscribe a board to every box of a fleet; its streams are shown as <box>/<stream>.

    Args:
        root: of the boxes' topics.
        count: called with each result, for metrics.
    """

    def result(box: str, found: Result, payload: bytes) -> None:
        named = found.model_copy(update={"stream": f"{box}/{found.stream}"})
        count(named)
        live_state.result(named, time.time(), apart())

    def event(box: str, found: Event) -> None:
        live_state.event(found.model_copy(update={"stream": f"{box}/{found.stream}"}), time.time())

    def ledger(box: str, found: Ledger) -> None:
        live_state.ledger(found.model_copy(update={"stream": f"{box}/{found.stream}"}))

    live_state.fleet = Fleet(root, result, event, ledger)
    for topic_filter, take in live_state.fleet.takers.items():
        reader.read(mqtt, topic_filter, take)
