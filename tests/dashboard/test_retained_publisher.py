from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from services.contract.messages import Message, Now, parse
from services.contract.topics import Topics
from services.dashboard.home_assistant import device, object_id
from services.dashboard.home_assistant import topic as discovery_topic
from services.mqtt.client import MqttClient
from services.mqtt.subscriptions import Delivery
from services.settings.schema import Broker
from tests.broker.mosquitto import wait_for
from tests.dashboard.conftest import Running
from tests.dashboard.pretend import LABELS, ledger, result

TEXT = {"type": "string", "minLength": 1}
TEMPLATE = {"type": "string", "pattern": r"\{\{.*\}\}"}
TOPIC = {"type": "string", "pattern": r"^[^#+\u0000]+$", "maxLength": 65_535}
COMMON: dict[str, Any] = {
    "unique_id": TEXT, "name": TEXT, "icon": {"type": "string", "pattern": "^mdi:"}, "state_topic": TOPIC,
    "value_template": TEMPLATE, "json_attributes_topic": TOPIC,
    "json_attributes_template": TEMPLATE, "entity_category": {"enum": ["diagnostic", "config"]},
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
def retained(broker: Broker, buses: Callable[..., MqttClient]) -> Callable[[], dict[str, bytes]]:
    """What a new subscriber would find, by topic."""
    found: dict[str, bytes] = {}
    count: dict[str, int] = {}

    def take(delivery: Delivery) -> None:
        mqtt.ack(delivery)
        found[delivery.message.topic] = delivery.message.payload
        count[delivery.message.topic] = count.get(delivery.message.topic, 0) + 1

    mqtt = buses(broker, "reader")
    for topic in (f"{broker.root}/streams/+/now", f"{broker.root}/flat/#", f"{broker.root}-ha/device/+/config",
                  f"{broker.root}/status/dashboard/+"):  # fmt: skip
        mqtt.subscribe(topic, take)
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
    wait_for(lambda: now().state == "stopped", "the stop is told")
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
    dashboard = start_dashboard(broker, ("radio.1",), home_assistant=True, home_assistant_prefix=prefix, box="attic")
    dashboard.send(result("radio.1"))
    topic = f"{prefix}/device/{object_id('attic', broker.root, 'radio.1')}/config"
    wait_for(lambda: b'"options": ["blues"' in retained().get(topic, b""), "the device with its genres")
    payload = json.loads(retained()[topic])
    jsonschema.validate(payload, DEVICE_DISCOVERY)
    assert payload["components"]["genre"]["options"] == sorted(LABELS)
    status = wait_for(lambda: retained().get(payload["availability_topic"]), "availability")
    assert json.loads(status)["state"] == "online"
    assert wait_for(lambda: retained().get(payload["components"]["genre"]["state_topic"]), "the state itself")
    before = retained.count[topic]  # type: ignore[attr-defined]
    dashboard.mqtt.publish_and_wait(Message(f"{prefix}/status", b"online"), 5)
    wait_for(lambda: retained.count[topic] > before, "the device again")  # type: ignore[attr-defined]
    dashboard.process.kill()
    wait_for(lambda: json.loads(retained()[payload["availability_topic"]])["state"] == "offline", "the will")


def test_a_removed_stream_takes_its_device_along(
    broker: Broker, start_dashboard: Callable[..., Running], retained: Callable[[], dict[str, bytes]]
) -> None:
    prefix = f"{broker.root}-ha"
    dashboard = start_dashboard(broker, ("radio1", "radio2"), home_assistant=True, home_assistant_prefix=prefix)
    topic = f"{prefix}/device/{object_id(socket.gethostname(), broker.root, 'radio2')}/config"
    wait_for(lambda: retained().get(topic), "the device")
    text = dashboard.config.read_text()
    dashboard.config.write_text(text[: text.rindex("[[streams]]")])
    wait_for(lambda: retained().get(topic) == b"", "the removal")
    wait_for(lambda: retained()[dashboard.topics.now("radio2")] == b"", "what it said of it, too")


def test_neither_a_start_nor_a_pause_is_a_problem(
    broker: Broker, start_dashboard: Callable[..., Running], buses: Callable[..., MqttClient]
) -> None:
    told: list[dict[str, Any]] = []
    listener = buses(broker, "listener")
    listener.subscribe(
        f"{broker.root}/streams/radio1/now",
        lambda d: (told.append(json.loads(d.message.payload)), listener.ack(d)),
    )
    dashboard = start_dashboard(broker, ("radio1",), home_assistant=True, home_assistant_prefix=f"{broker.root}-ha")
    wait_for(lambda: told, "the first word of it")
    dashboard.send(result("radio1"))
    wait_for(lambda: told[-1]["state"] == "playing", "it plays")
    dashboard.config.write_text(dashboard.config.read_text() + "paused = true\n")
    wait_for(lambda: told[-1]["state"] == "paused", "the pause")
    count = len(told)
    dashboard.send(result("radio2"))  # of another box: what is paused says nothing more meanwhile
    wait_for(lambda: dashboard.state("radio2") == "stopped", "some seconds pass")
    assert len(told) == count, told[count:]
    assert {each["state"] for each in told} == {"waiting", "playing", "paused"}


def test_now_is_written_when_something_changes_and_not_for_a_confidence_that_wavers(
    broker: Broker, start_dashboard: Callable[..., Running], retained: Callable[[], dict[str, bytes]]
) -> None:
    dashboard = start_dashboard(broker, ("radio1",), home_assistant=True, home_assistant_prefix=f"{broker.root}-ha")
    topic = dashboard.topics.now("radio1")
    dashboard.send(result("radio1"))
    wait_for(lambda: b'"playing"' in retained().get(topic, b""), "it plays")
    before = retained.count[topic]  # type: ignore[attr-defined]
    for i in range(1, 8):
        dashboard.send(result("radio1", i * 1.5, sure=0.8 + 0.02 * (i % 3)))
        wait_for(lambda i=i: dashboard.stream("radio1")["results"] == i + 1, "it is taken")
    dashboard.send(
        result("radio1", 12.0, "rock", 0.99, title="Other"), result("radio1", 13.5, "rock", 0.99, title="Other")
    )
    wait_for(lambda: b"Other" in retained()[topic], "another title")
    assert retained.count[topic] - before <= 3  # type: ignore[attr-defined]
    components = json.loads(
        next(payload for where, payload in retained().items() if where.startswith(f"{broker.root}-ha/"))
    )["components"]
    told = {name: part.get("json_attributes_template", "") for name, part in components.items()}
    assert not any(word in template for template in told.values() for word in ("confidence", "updated_at"))
    # A title changes without the genre: where it stood with that, both would be written.
    assert "title" in told["track"] and "title" not in told["genre"]


def test_root_and_prefix_may_have_several_levels(
    shared_mosquitto: Any, settings_for: Callable[..., Broker], start_dashboard: Callable[..., Running],
    buses: Callable[..., MqttClient],
) -> None:  # fmt: skip
    broker = settings_for(shared_mosquitto, root="home/attic/genre")
    found: dict[str, bytes] = {}
    listener = buses(broker, "levels")
    listener.subscribe("home/#", lambda d: (found.update({d.message.topic: d.message.payload}), listener.ack(d)))
    dashboard = start_dashboard(
        broker, ("radio1",), home_assistant=True, home_assistant_prefix="home/ha", box="b", publish_flat=True
    )
    dashboard.send(result("radio1"))
    topic = f"home/ha/device/{object_id('b', broker.root, 'radio1')}/config"
    wait_for(lambda: b"options" in found.get(topic, b""), "the device")
    assert json.loads(found[topic])["components"]["genre"]["state_topic"] == "home/attic/genre/streams/radio1/now"
    wait_for(lambda: found.get("home/attic/genre/flat/radio1/score_jazz", b"").startswith(b"0.8"), "a number")


@pytest.mark.parametrize("stream", ["radio1", "a.b-c_d", "a" * 64, "0"])
@pytest.mark.parametrize("labels", [LABELS, (), ("it's", 'a "genre"', "{{ x }}")])
@pytest.mark.parametrize("root", ["genre", "home/genre"])
def test_discovery_is_valid_for_every_name_and_label(stream: str, labels: tuple[str, ...], root: str) -> None:
    payload = device("box", Topics(root), stream, labels, "1.0", "1", "http://box.local:8080/")
    jsonschema.validate(json.loads(payload), DEVICE_DISCOVERY)
    node = discovery_topic("homeassistant", "box.local", root, stream).split("/")[2]
    assert node.replace("_", "").replace("-", "").isalnum()


def test_different_boxes_roots_and_streams_never_share_a_device_or_an_id() -> None:
    names = ["a.b", "a_b", "a-b", "a..b", "a._b", "a"]
    assert len({object_id(box, "genre", name) for box in names for name in names}) == len(names) ** 2
    assert object_id("box", "home/genre", "a") != object_id("box", "home_genre", "a")
    payloads = [json.loads(device(box, Topics(), "radio1", LABELS, "1", "1", None)) for box in ("attic", "cellar")]
    ids = [{part["unique_id"] for part in each["components"].values()} for each in payloads]
    assert not ids[0] & ids[1] and payloads[0]["device"]["identifiers"] != payloads[1]["device"]["identifiers"]
