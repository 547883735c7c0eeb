"""Work that needs a reader waits for the right one: whoever else is subscribed does not count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.contract.messages import Message, Status
from services.mqtt.client import MqttClient
from services.process import readers
from services.process.lifecycle import ServiceProcess
from services.process.readers import ASIDE, ReaderWatch
from services.settings.schema import Broker
from tests.broker.mosquitto import Mosquitto, free_port, stay_this_user, wait_for

Buses = Callable[..., MqttClient]
Service = Callable[..., ServiceProcess]


@pytest.fixture
def service() -> Iterator[Service]:
    """Connected services, by name and instance."""
    made: list[ServiceProcess] = []

    def start(broker: Broker, name: str, **details: str) -> ServiceProcess:
        kind, instance = name.split("/")
        made.append(ServiceProcess(kind, instance, broker.root, broker, details))  # type: ignore[arg-type]
        made[-1].connect(durable=True).start()
        made[-1].mqtt.wait_connected(10)  # type: ignore[union-attr]
        return made[-1]

    yield start
    for one in made:
        assert one.mqtt is not None
        one.mqtt.stop(with_will=True)


def wanted(status: Status) -> bool:
    return status.service == "inference" and status.details.get("recipe") == "musicnn"


@pytest.fixture
def watch(broker: Broker) -> Iterator[ReaderWatch]:
    lifecycle = ServiceProcess("featurizer", "1", broker.root, broker)
    mqtt = lifecycle.connect(durable=True)
    watch = ReaderWatch(lifecycle, mqtt, "inference service for recipe musicnn", wanted)
    watch.start()
    mqtt.start()
    mqtt.wait_connected(10)
    wait_for(lambda: watch._can_read, "its own status")
    yield watch
    mqtt.stop()


def test_whoever_is_subscribed_is_not_the_right_reader(
    watch: ReaderWatch, broker: Broker, buses: Buses, service: Service
) -> None:
    curious = buses(broker, "curious")
    curious.subscribe(f"{broker.root}/#", curious.ack)
    service(broker, "dashboard/1")
    service(broker, "inference/other", recipe="vgg16")
    assert curious.publish_and_wait(Message(f"{broker.root}/mel/musicnn/radio1"), 5).reached_someone
    assert watch.missing() == "no inference service for recipe musicnn is online"


def test_a_reader_that_comes_steps_aside_or_dies_is_known_at_once(
    watch: ReaderWatch, broker: Broker, service: Service
) -> None:
    reader = service(broker, "inference/1", recipe="musicnn")
    wait_for(lambda: not watch.missing(), "the reader")
    reader.note(ASIDE, "its engine is away")
    wait_for(watch.missing, "the reader is aside")
    reader.note(ASIDE, None)
    wait_for(lambda: not watch.missing(), "the reader again")
    reader._state = "draining"
    reader._announce()
    wait_for(watch.missing, "a reader that drains takes nothing new")
    second = service(broker, "inference/2", recipe="musicnn")
    wait_for(lambda: not watch.missing(), "another one")
    assert second.mqtt is not None
    second.mqtt._client._sock_close()  # as after kill -9: the will says offline
    wait_for(watch.missing, "the dead one")


def test_after_a_restart_of_the_broker_each_reader_counts_once_it_is_back(
    own_mosquitto: Mosquitto, settings_for: Callable[[Mosquitto], Broker], service: Service
) -> None:
    broker = settings_for(own_mosquitto)
    lifecycle = service(broker, "featurizer/1")
    assert lifecycle.mqtt is not None
    watch = ReaderWatch(lifecycle, lifecycle.mqtt, "reader", wanted)
    watch.start()
    reader = service(broker, "inference/1", recipe="musicnn")
    wait_for(lambda: not watch.missing(), "the reader")
    own_mosquitto.kill()
    wait_for(lambda: not lifecycle.mqtt.connected and not reader.mqtt.connected, "the loss")  # type: ignore[union-attr]
    assert watch.missing()
    own_mosquitto.start()
    wait_for(lambda: not watch.missing(), "the reader that is back")


def test_a_user_who_may_not_read_status_falls_back_on_subscribers_alone(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker set up by an older release grants no such right: the pipeline must go on there, and say so once."""
    port = free_port()
    config, acl = tmp_path / "mosquitto.conf", tmp_path / "acl"
    acl.write_text("topic write #\n")
    acl.chmod(0o600)
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nacl_file {acl}\n")
    stay_this_user(config)
    mosquitto = Mosquitto(config, port)
    lifecycle = service(Broker(port=port), "featurizer/1")
    assert lifecycle.mqtt is not None
    watch = ReaderWatch(lifecycle, lifecycle.mqtt, "reader", wanted)
    watch.start()
    assert watch.missing()
    monkeypatch.setattr(readers, "READ_S", 0.1)
    wait_for(lambda: not watch.missing(), "it goes on")
    assert not watch.missing() and caplog.text.count("may not read") == 1
    lifecycle.mqtt.stop()
    mosquitto.stop()
