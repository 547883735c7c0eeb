"""What was announced is taken back, whoever was away when it ended: the dashboard, the broker, the setting."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.contract.messages import Message
from services.contract.topics import Topics
from services.dashboard.home_assistant import device, topic
from services.dashboard.retained_command import retained
from services.errors import UsageError
from services.mqtt.client import MqttClient
from services.mqtt.subscriptions import Delivery
from services.settings.schema import Broker
from tests.broker.mosquitto import Mosquitto, wait_for
from tests.conftest import start_mosquitto
from tests.dashboard.conftest import Running
from tests.dashboard.pretend import LABELS, ledger, result, status

WRITES = {"home_assistant": True, "publish_flat": True, "publish_now": True}


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that keeps retained messages over its restart."""
    running = start_mosquitto(tmp_path, persistence=True)
    yield running
    running.stop()


class Retained:
    """What a new subscriber would find, kept up by a client that was there all the time."""

    def __init__(self, mqtt: MqttClient) -> None:
        self._mqtt, self._found = mqtt, dict[str, bytes]()
        for topic_filter in (f"{mqtt.broker.root}/#", f"{mqtt.broker.root}x/#", "homeassistant/#"):
            mqtt.subscribe(topic_filter, self._take)

    def _take(self, delivery: Delivery) -> None:
        self._mqtt.ack(delivery)
        self._found[delivery.message.topic] = delivery.message.payload

    def below(self, prefix: str) -> set[str]:
        """Return the topics with something in them; results and events are not retained."""
        found = {topic for topic, payload in self._found.copy().items() if payload and topic.startswith(f"{prefix}/")}
        return found - {f"{self._mqtt.broker.root}/results"}

    def of(self, stream: str) -> set[str]:
        """Return what a dashboard wrote of a stream: `now`, numbers and device."""
        own = {each for each in self.below(self._mqtt.broker.root) if f"/{stream}/" in each}
        devices = {
            each for each in self.below("homeassistant") if each.endswith(f"_{self._mqtt.broker.root}_{stream}/config")
        }
        return {each for each in own if not each.endswith("/ledger")} | devices


def end(dashboard: Running) -> None:
    dashboard.process.terminate()
    dashboard.process.wait(15)


def again(
    dashboard: Running, start: Callable[..., Running], broker: Broker, streams: tuple[str, ...], **writes: object
):
    """Start the dashboard again over the same state."""

    def prepare(folder: Path) -> None:
        (dashboard.folder / "state").rename(folder / "state")

    return start(broker, streams, prepare, **writes)


def test_a_stream_removed_while_the_dashboard_or_the_broker_was_away_leaves_nothing(
    mosquitto: Mosquitto, settings_for: Callable[..., Broker], start_dashboard: Callable[..., Running],
    buses: Callable[..., MqttClient],
) -> None:  # fmt: skip
    broker = settings_for(mosquitto)
    mqtt = buses(broker, "looker")
    looker = Retained(mqtt)
    first = start_dashboard(broker, ("kept", "gone", "late"), **WRITES)
    first.send(*(result(name) for name in ("kept", "gone", "late")))
    for name in ("kept", "gone", "late"):
        wait_for(lambda name=name: len(looker.of(name)) > 10, f"{name} is announced")
    end(first)
    second = again(first, start_dashboard, broker, ("kept", "late"), **WRITES)
    wait_for(lambda: not looker.of("gone"), "what was announced of it is taken back")
    assert len(looker.of("kept")) >= 3
    mosquitto.stop()
    text = second.config.read_text()
    second.config.write_text(text[: text.rindex("[[streams]]")])
    wait_for(lambda: "late" not in second.live_state()["states"], "it is forgotten")
    mosquitto.start()
    wait_for(lambda: mqtt.connected, "the broker again")
    wait_for(lambda: not looker.of("late"), "what the broker kept of it is taken back", 30)
    second.send(result("kept", 1.5))
    wait_for(lambda: len(looker.of("kept")) > 10, "the other one is announced anew")


def test_home_assistant_and_all_else_turned_off_leave_nothing_and_what_is_anothers_stays(
    broker: Broker, start_dashboard: Callable[..., Running], buses: Callable[..., MqttClient]
) -> None:
    mqtt = buses(broker, "writer")
    looker = Retained(mqtt)
    theirs = {
        "homeassistant/device/zigbee_lamp/config": b'{"origin": {"name": "Zigbee2MQTT"}, "components": {"genre": 1}}',
        topic("homeassistant", "other", f"{broker.root}x", "radio1"): device(
            "other", Topics(f"{broker.root}x"), "radio1", LABELS, "1", "1", None
        ),
        f"{broker.root}x/streams/radio1/now": b"{}",
        "homeassistant/device/odd/config": b"[" * 2_000,
    }
    for where, payload in theirs.items():
        mqtt.publish_and_wait(Message(where, payload, retain=True), 5)
    first = start_dashboard(broker, ("radio1",), **WRITES)
    first.send(result("radio1"), ledger("radio1", 60))
    wait_for(lambda: len(looker.of("radio1")) > 10, "it is announced")
    end(first)
    second = again(first, start_dashboard, broker, ("radio1",), publish_now=True)
    wait_for(lambda: looker.of("radio1") == {second.topics.now("radio1")}, "only now is left")
    end(second)
    third = again(second, start_dashboard, broker, ("radio1",))
    own = {third.topics.ledger("radio1")}  # the fetcher's, not a dashboard's
    wait_for(lambda: looker.below(broker.root) == own, "nothing of a dashboard is left, its status neither")
    assert theirs.keys() <= looker.below("homeassistant") | looker.below(f"{broker.root}x")
    for where in (*theirs, *own):
        mqtt.publish_and_wait(Message(where, retain=True), 5)
    assert json.loads(third.get("/healthz").text)["connected"]


def test_devices_under_an_older_id_are_replaced(
    broker: Broker, start_dashboard: Callable[..., Running], buses: Callable[..., MqttClient]
) -> None:
    mqtt = buses(broker, "writer")
    looker = Retained(mqtt)
    old = f"homeassistant/device/{broker.root}_radio1/config"
    payload = device("x", Topics(broker.root), "radio1", LABELS, "0.1", "1", None)
    mqtt.publish_and_wait(Message(old, payload, retain=True), 5)
    start_dashboard(broker, ("radio1",), home_assistant=True)
    mine = f"_{broker.root}_radio1/config"
    wait_for(
        lambda: (
            [each for each in looker.below("homeassistant") if each.endswith(mine)]
            and old not in looker.below("homeassistant")
        ),
        "one device, not two",
        20,
    )


def test_the_last_stream_that_was_removed_does_not_come_back(
    broker: Broker, start_dashboard: Callable[..., Running], buses: Callable[..., MqttClient]
) -> None:
    mqtt = buses(broker, "looker")
    mqtt.publish_and_wait(Message(Topics(broker.root).ledger("gone"), ledger("gone", 60).to_json(), retain=True), 5)
    dashboard = start_dashboard(broker, ())
    dashboard.send(result("elsewhere"))
    wait_for(lambda: dashboard.state("elsewhere") == "playing", "what is heard is shown")
    assert dashboard.live_state()["states"].keys() == {"elsewhere"}
    mqtt.publish(Message(Topics(broker.root).ledger("gone"), retain=True))


def test_a_command_lists_and_clears_what_is_left_of_streams_and_parts_that_are_gone(
    broker: Broker, buses: Callable[..., MqttClient], tmp_path: Path
) -> None:
    mqtt = buses(broker, "writer")
    looker = Retained(mqtt)
    topics = Topics(broker.root)
    config = tmp_path / "genre.toml"
    config.write_text(
        f'[broker]\nport = {broker.port}\nroot = "{broker.root}"\n'
        '[[streams]]\nname = "kept"\nurl = "https://example.org/1.m3u8"\n'
    )
    gone = {
        topics.now("gone"): b"{}",
        topics.flat("gone", "confidence"): b"1",
        topics.ledger("gone"): b"{}",
        topic("homeassistant", "b", broker.root, "gone"): device("b", topics, "gone", LABELS, "1", "1", None),
        topics.status("inference", "9"): status("inference", "offline", instance="9").to_json(),
    }
    kept = {
        topics.now("kept"): b"{}",
        topics.ledger("kept"): b"{}",
        topics.status("inference", "1"): status("inference").to_json(),
    }
    for where, payload in {**gone, **kept}.items():
        mqtt.publish_and_wait(Message(where, payload, retain=True), 5)
    listed = CliRunner().invoke(retained, ["--config", str(config)])
    assert {(line[:4], line[6:]) for line in listed.output.splitlines()} == {
        *(("gone", where) for where in gone), *(("kept", where) for where in kept)
    }  # fmt: skip
    assert CliRunner().invoke(retained, ["--config", str(config), "--clear"]).exit_code == 0
    wait_for(lambda: looker.below(broker.root) == set(kept), "what is gone is cleared")
    with pytest.raises(UsageError, match="--config"):
        CliRunner().invoke(retained, [], catch_exceptions=False)
    assert CliRunner().invoke(retained, ["--config", str(config), "--everything", "--clear"]).exit_code == 0
    wait_for(lambda: not looker.below(broker.root), "all is cleared")
