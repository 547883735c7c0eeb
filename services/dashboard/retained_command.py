"""`genre retained`: what a broker holds of streams and parts that are gone, and taking it back by hand.

The dashboard does the same for what it wrote itself (take_back.py); this also clears ledgers and the status of parts
that run no more, and works while nothing else does. Start at `retained`.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import click

from services.contract.messages import Message
from services.contract.topics import Topics
from services.dashboard.take_back import Owned
from services.errors import GenreError, UsageError
from services.mqtt.client import MqttClient
from services.mqtt.subscriptions import Delivery
from services.process import logs
from services.settings import loading, schema

CONNECT_S = 10.0
QUIET_S = 1.0
"""A broker sends what it holds at once: after this long without any more, that was all."""
LONGEST_S = 60.0


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML configuration file: the streams there should be.")
@click.option("--clear", is_flag=True, help="Clear what is left of streams and parts that are gone.")
@click.option("--everything", is_flag=True, help="Also of those that are there: for taking genre-edge off a broker.")
def retained(config: Path | None, clear: bool, everything: bool) -> None:
    """List what the broker keeps of streams that are no longer configured.

    One line a retained topic: "gone" or "kept", and the topic. A part that is offline counts as gone.

    \b
    Example: genre retained --config genre.toml --clear
    """
    if config is None and not everything:
        raise UsageError(
            "genre retained", "does not know which streams there should be", "give --config or --everything"
        )
    loaded = loading.load(config)
    logs.set_up(schema.Log(level="error"), "genre retained")
    configured = {stream.name for stream in loaded.streams}
    owned = Owned(Topics(loaded.broker.root), loaded.dashboard.home_assistant_prefix)
    mqtt = MqttClient(loaded.broker, f"{loaded.broker.root}-retained-{os.getpid()}")
    mqtt.start()
    try:
        mqtt.wait_connected(CONNECT_S)
        for topic, payload in sorted(_held(mqtt, owned).items()):
            subject = _subject(owned, topic, payload)
            if subject is None:
                continue
            gone = everything or subject not in ("online", *configured)
            click.echo(f"{'gone' if gone else 'kept'}  {topic}")
            if gone and clear:
                _clear(mqtt, topic)
    finally:
        mqtt.stop()


def _subject(owned: Owned, topic: str, payload: bytes) -> str | None:
    """Return the stream that a topic is about, or the state of the part; None where it is none of ours."""
    if topic.startswith(f"{owned.topics.root}/status/"):
        try:
            return "online" if json.loads(payload)["state"] != "offline" else ""
        except (ValueError, KeyError, TypeError, RecursionError):
            return ""
    if topic == owned.topics.ledger(stream := topic.split("/")[-2]):
        return stream
    return owned.stream(topic, payload)


def _held(mqtt: MqttClient, owned: Owned) -> dict[str, bytes]:
    """Return what the broker holds, by topic."""
    held: dict[str, bytes] = {}
    came = threading.Event()

    def take(delivery: Delivery) -> None:
        mqtt.ack(delivery)
        if delivery.message.retain and delivery.message.payload:
            held[delivery.message.topic] = delivery.message.payload
            came.set()

    for topic_filter in (*owned.filters, owned.topics.ledger("+"), owned.topics.status("+", "+")):
        mqtt.subscribe(topic_filter, take)
    until = time.monotonic() + LONGEST_S
    while came.wait(QUIET_S) and time.monotonic() < until:
        came.clear()
    return held.copy()


def _clear(mqtt: MqttClient, topic: str) -> None:
    receipt = mqtt.publish_and_wait(Message(topic, retain=True), CONNECT_S)
    if not receipt.accepted:
        raise GenreError(topic, f"can't be cleared ({receipt.text})", "use an account that may write this topic")
