from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from services.bus import Bus, Delivery
from services.contract import Message, Now, Topics, parse
from services.dashboard.home_assistant import device, object_id
from services.settings import Broker
from tests.broker.mosquitto import wait_for
from tests.dashboard.conftest import Running
from tests.dashboard.pretend import LABELS, ledger, result

TEXT = {"type": "string", "minLength": 1}
TEMPLATE = {"type": "string", "pattern": r"\{\{.*\}\}"}
TOPIC = {"type": "string", "pattern": r"^[^#+\u0000]+$", "maxLength": 65_535}
COMMON: dict[str, Any] = {
    "unique_id": TEXT, "name": TEXT, "icon": {"type": "string", "pattern": "^mdi:"}, "state_topic": TOPIC,
    "value_template": TEMPLATE, "json_attributes_topic": TOPIC, "entity_category": {"enum": ["diagnostic", "config"]},
}  # fmt: skip
SENSOR = {
    "type": "object",
    "properties": {**COMMON, "p": {"const": "sensor"}, "device_class": {"const": "enum"},
                   "options": {"type": "array", "items": TEXT, "minItems": 1, "uniqueItems": True},
                   "unit_of_measurement": TEXT, "state_class": {"enum": ["measurement", "total", "total_increasing"]},
                   "suggested_display_precision": {"type": "integer", "minimum": 0}},
    "required": ["p", "unique_id", "state_topic"],
    "additionalProperties": False,
    # Home Assistant refuses options without the class "enum", and an enum with a unit or a state class.
    "dependentRequired": {"options": ["device_class"], "device_class": ["options"]},
    "dependentSchemas": {
        "options": {"not": {"anyOf": [{"required": ["unit_of_measurement"]}, {"required": ["state_class"]}]}}
    },
}  # fmt: skip
BINARY_SENSOR = {
    "type": "object",
    "properties": {**COMMON, "p": {"const": "binary_sensor"}, "device_class": {"const": "problem"}},
    "required": ["p", "unique_id", "state_topic"],
    "additionalProperties": False,
}
# After Home Assistant's documentation of device discovery and homeassistant/components/mqtt/schemas.py.
DEVICE_DISCOVERY = {
    "type": "object",
    "properties": {
        "device": {
            "type": "object",
            "properties": {
                "identifiers": {"type": "array", "items": TEXT, "minItems": 1}, "name": TEXT, "manufacturer": TEXT,
                "model": TEXT, "sw_version": TEXT, "configuration_url": {"type": "string", "pattern": "^https?://"},
            },
            "required": ["identifiers"],
            "additionalProperties": False,
        },
        "origin": {
            "type": "object",
            "properties": {"name": TEXT, "sw_version": TEXT, "support_url": {"type": "string", "pattern": "^https?://"}},
            "required": ["name"],
            "additionalProperties": False,
        },
        "availability_topic": TOPIC, "availability_template": TEMPLATE, "qos": {"enum": [0, 1, 2]},
        "components": {"type": "object", "minProperties": 1,
                       "additionalProperties": {"oneOf": [SENSOR, BINARY_SENSOR]}},
    },
    "required": ["device", "origin", "components"],
    "additionalProperties": False,
}  # fmt: skip


@pytest.fixture
def retained(broker: Broker, buses: Callable[..., Bus]) -> Callable[[], dict[str, bytes]]:
    """What a new subscriber would find, by topic."""
    found: dict[str, bytes] = {}
    count: dict[str, int] = {}

    def take(delivery: Delivery) -> None:
        bus.ack(delivery)
        found[delivery.message.topic] = delivery.message.payload
        count[delivery.message.topic] = count.get(delivery.message.topic, 0) + 1

    bus = buses(broker, "reader")
    for topic in (f"{broker.root}/streams/+/now", f"{broker.root}/flat/#", f"{broker.root}-ha/device/+/config",
                  f"{broker.root}/status/dashboard/+"):  # fmt: skip
        bus.subscribe(topic, take)
    found_now: Callable[[], dict[str, bytes]] = lambda: dict(found)  # noqa: E731
    found_now.count = count  # type: ignore[attr-defined]
    return found_now


def test_now_is_retained_changes_at_once_and_says_when_it_stopped(
    broker: Broker, start_dashboard: Callable[..., Running], retained: Callable[[], dict[str, bytes]]
) -> None:
    dashboard = start_dashboard(broker, ("radio1",), publish_now=True)
    topic = dashboard.topics.now("radio1")
    dashboard.send(result("radio1", title="So What"))
    now = lambda: parse(Now, retained()[topic]) if topic in retained() else None  # noqa: E731
    wait_for(lambda: now() and now().genre == "jazz", "jazz is told")
    assert (now().title, now().state) == ("So What", "playing")
    for i in range(1, 20):
        dashboard.send(result("radio1", 30 + i * 1.5, "rock", 0.95))
    wait_for(lambda: now().genre == "rock", "rock is told")
    wait_for(lambda: now().state == "stopped", "the stop is told", 15)
    assert now().genre is None and now().confidence == 0


def test_flat_topics_are_plain_numbers(
    broker: Broker, start_dashboard: Callable[..., Running], retained: Callable[[], dict[str, bytes]]
) -> None:
    dashboard = start_dashboard(broker, ("radio1",), publish_flat=True)
    dashboard.send(result("radio1"), ledger("radio1", 60, gap_s=2))
    prefix = f"{broker.root}/flat/radio1/"
    wait_for(lambda: prefix + "score_jazz" in retained() and prefix + "gap_s" in retained(), "numbers")
    numbers = {
        topic.removeprefix(prefix): float(value) for topic, value in retained().items() if topic.startswith(prefix)
    }
    assert numbers["score_jazz"] == pytest.approx(0.8, abs=0.001)
    assert numbers["gap_s"] == 2 and numbers["latency_s"] == 0.42
    assert numbers["timeline_s"] == 60 and numbers["state"] == 1


def test_home_assistant_finds_each_stream_as_a_device_again_after_its_restart(
    broker: Broker, start_dashboard: Callable[..., Running], retained: Callable[[], dict[str, bytes]]
) -> None:
    prefix = f"{broker.root}-ha"
    dashboard = start_dashboard(broker, ("radio.1",), home_assistant=True, home_assistant_prefix=prefix)
    dashboard.send(result("radio.1"))
    topic = f"{prefix}/device/{object_id(broker.root, 'radio.1')}/config"
    wait_for(lambda: b'"options": ["blues"' in retained().get(topic, b""), "the device with its genres")
    payload = json.loads(retained()[topic])
    jsonschema.validate(payload, DEVICE_DISCOVERY)
    assert payload["components"]["genre"]["options"] == sorted(LABELS)
    status = wait_for(lambda: retained().get(payload["availability_topic"]), "availability")
    assert json.loads(status)["state"] == "online"
    assert wait_for(lambda: retained().get(payload["components"]["genre"]["state_topic"]), "the state itself")
    before = retained.count[topic]  # type: ignore[attr-defined]
    dashboard.bus.publish_and_wait(Message(f"{prefix}/status", b"online"), 5)
    wait_for(lambda: retained.count[topic] > before, "the device again")  # type: ignore[attr-defined]
    dashboard.process.kill()
    wait_for(lambda: json.loads(retained()[payload["availability_topic"]])["state"] == "offline", "the will", 10)


def test_a_removed_stream_takes_its_device_along(
    broker: Broker, start_dashboard: Callable[..., Running], retained: Callable[[], dict[str, bytes]]
) -> None:
    prefix = f"{broker.root}-ha"
    dashboard = start_dashboard(broker, ("radio1", "radio2"), home_assistant=True, home_assistant_prefix=prefix)
    topic = f"{prefix}/device/{object_id(broker.root, 'radio2')}/config"
    wait_for(lambda: retained().get(topic), "the device")
    text = dashboard.config.read_text()
    dashboard.config.write_text(text[: text.rindex("[[streams]]")])
    wait_for(lambda: retained().get(topic) == b"", "the removal", 25)
    assert retained()[dashboard.topics.now("radio2")] == b""


@pytest.mark.parametrize("stream", ["radio1", "a.b-c_d", "a" * 64, "0"])
@pytest.mark.parametrize("labels", [LABELS, (), ("it's", 'a "genre"', "{{ x }}")])
def test_discovery_is_valid_for_every_name_and_label(stream: str, labels: tuple[str, ...]) -> None:
    message = device("homeassistant", Topics("genre"), stream, labels, "1.0", "1", "http://box.local:8080/")
    jsonschema.validate(json.loads(message.payload), DEVICE_DISCOVERY)
    assert message.retain
    node = message.topic.split("/")[2]
    assert node.replace("_", "").replace("-", "").isalnum()


def test_different_streams_never_share_a_device() -> None:
    names = ["a.b", "a_b", "a-b", "a..b", "a._b"]
    assert len({object_id("genre", name) for name in names}) == len(names)
