"""The worker: an ack only after good PUBACKs, dead letters for what can never succeed, and nothing stuck for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from services.contract.acks import Ack
from services.contract.messages import ContractError, Dead, Message, parse
from services.contract.topics import Topics
from services.mqtt.client import MqttClient
from services.mqtt.subscriptions import Delivery
from services.process import worker as worker_module
from services.process.lifecycle import ServiceProcess
from services.process.worker import Process, Unavailable, Work, Worker
from services.settings.schema import Broker
from services.settings.schema import Worker as WorkerSettings
from tests.broker.mosquitto import Mosquitto, wait_for

Buses = Callable[..., MqttClient]


@dataclass
class Listener:
    """Takes everything under one root, acknowledging it."""

    messages: list[Message] = field(default_factory=list)

    def on(self, suffix: str) -> list[Message]:
        return [message for message in self.messages if message.topic.endswith(suffix)]


@pytest.fixture
def listener(broker: Broker, buses: Buses) -> Listener:
    return listening(broker, buses)


def listening(broker: Broker, buses: Buses, *suffixes: str) -> Listener:
    found = Listener()
    mqtt = buses(broker, f"listener-{'-'.join(suffixes)}", durable=True)

    def take(delivery: Delivery) -> None:
        mqtt.ack(delivery)
        found.messages.append(delivery.message)

    for suffix in suffixes or ("out", "dead", "acks/+", "hello"):
        mqtt.subscribe(f"{broker.root}/{suffix}", take)
    hello = Message(f"{broker.root}/{(suffixes or ('hello',))[0]}".replace("+", "hello"), b"hello")
    wait_for(lambda: mqtt.publish_and_wait(hello, 5).reached_someone, "the listener")
    wait_for(lambda: found.messages, "hello")
    found.messages.clear()
    return found


@pytest.fixture
def start(broker: Broker) -> Iterator[Callable[..., Worker]]:
    lives: list[tuple[ServiceProcess, Worker]] = []

    def started(process: Process, instance: str = "1", on: Broker = broker, **changes: object) -> Worker:
        life = ServiceProcess("featurizer", instance, on.root, on)
        settings = WorkerSettings.model_validate(changes)
        mqtt = life.connect(durable=True, receive_maximum=settings.receive_maximum)
        new = Worker(life, mqtt, settings, f"$share/g/{on.root}/in", process)
        lives.append((life, new))
        new.start()
        mqtt.start()
        mqtt.wait_connected(10)
        return new

    yield started
    for life, old in lives:
        old._stop.set()
        assert life.mqtt is not None
        life.mqtt.stop()


def request(broker: Broker, payload: bytes = b"x", **changes: object) -> Message:
    fields = {"response_topic": Topics(broker.root).acks("f"), "correlation": b"radio/0/0/1", **changes}
    return Message(f"{broker.root}/in", payload, **fields)  # type: ignore[arg-type]


def give(sender: MqttClient, message: Message) -> None:
    wait_for(lambda: sender.publish_and_wait(message, 5).reached_someone, "a worker that listens")


def echo(broker: Broker) -> Process:
    def process(message: Message) -> Work:
        ack = Ack((message.correlation or b"").decode(), "done").to_message(message.response_topic or "")
        return Work([Message(f"{broker.root}/out", message.payload)], [ack], needs_reader=True)

    return process


def test_work_is_published_and_then_acked(
    broker: Broker, buses: Buses, start: Callable[..., Worker], listener: Listener
) -> None:
    start(echo(broker))
    give(buses(broker, "sender"), request(broker, b"1"))
    wait_for(lambda: listener.on("acks/f"), "the ack")
    assert [message.payload for message in listener.on("out")] == [b"1"]
    assert Ack.from_message(listener.on("acks/f")[0]) == Ack("radio/0/0/1", "done")


@pytest.mark.parametrize("error", [ContractError("bad field"), RuntimeError("a defect"), ZeroDivisionError()])
def test_what_can_never_succeed_is_buried_with_its_reason_and_the_chunk_acked_as_dead(
    broker: Broker, buses: Buses, start: Callable[..., Worker], listener: Listener, error: Exception
) -> None:
    def process(message: Message) -> Work:
        if message.payload == b"bad":
            raise error
        return echo(broker)(message)

    start(process)
    sender = buses(broker, "sender")
    give(sender, request(broker, b"bad"))
    give(sender, request(broker, b"good"))
    wait_for(lambda: len(listener.on("acks/f")) == 2, "both acks")
    (letter,) = (parse(Dead, message.payload) for message in listener.on("dead"))
    assert str(error) in letter.reason and letter.chunk == "radio/0/0/1" and letter.service == "featurizer"
    assert sorted(Ack.from_message(message).outcome for message in listener.on("acks/f")) == ["dead", "done"]
    assert [message.payload for message in listener.on("out")] == [b"good"]


@pytest.mark.parametrize(
    "reply_to", [None, "elsewhere/acks/f", "{root}/acks/", "{root}/acks/+", "{root}/acks/#", "{root}/pcm/x", "a\u20ac"]
)
def test_a_hostile_response_topic_is_never_written_to(
    broker: Broker, buses: Buses, start: Callable[..., Worker], listener: Listener, reply_to: str | None
) -> None:
    start(echo(broker))
    topic = reply_to.format(root=broker.root) if reply_to else None
    sender = buses(broker, "sender")
    give(sender, request(broker, response_topic=None if topic and set(topic) & set("+#") else topic))
    wait_for(lambda: listener.on("dead"), "the dead letter")
    assert not [message for message in listener.messages if "/acks" in message.topic]


def test_work_waits_in_hand_until_somebody_reads_it(broker: Broker, buses: Buses, start: Callable[..., Worker]) -> None:
    acks = listening(broker, buses, "acks/+")
    start(echo(broker))
    give(buses(broker, "sender"), request(broker, b"1"))
    out = listening(broker, buses, "out")
    wait_for(lambda: acks.on("acks/f") and out.on("out"), "the ack and the work")
    assert out.on("out")[-1].payload == b"1"


def test_what_cannot_be_done_now_is_tried_again_until_it_can(
    broker: Broker, buses: Buses, start: Callable[..., Worker], listener: Listener
) -> None:
    tries: list[int] = []

    def process(message: Message) -> Work:
        tries.append(1)
        if len(tries) < 4:
            raise Unavailable("not yet")
        return echo(broker)(message)

    start(process)
    give(buses(broker, "sender"), request(broker))
    wait_for(lambda: listener.on("acks/f"), "the ack")
    assert len(tries) == 4 and not listener.on("dead")


def test_a_replica_that_cannot_work_leaves_its_share_to_the_others_and_takes_it_up_again(
    broker: Broker, buses: Buses, start: Callable[..., Worker], listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "ASIDE_S", 0.3)
    broken = threading.Event()
    broken.set()
    by: list[str] = []

    def process_of(name: str) -> Process:
        def process(message: Message) -> Work:
            if name == "sick" and broken.is_set():
                raise Unavailable("its engine is away")
            by.append(name)
            return echo(broker)(message)

        return process

    sick = start(process_of("sick"), "sick", receive_maximum=1)
    sender = buses(broker, "sender")
    give(sender, request(broker, b"first"))
    start(process_of("well"), "well", receive_maximum=1)
    wait_for(lambda: sick._aside, "the sick one steps aside")
    with sick._aside_lock:  # held until its UNSUBSCRIBE is under way; what it sends next is answered after that
        assert sick._mqtt.publish_and_wait(Message(f"{broker.root}/order", b""), 30).accepted
    wait_for(lambda: by or (sender.publish_and_wait(request(broker), 5).accepted and by), "the other one works")
    by.clear()
    for _ in range(10):
        give(sender, request(broker))
    wait_for(lambda: len(by) >= 10, "all new work is done by the other")
    assert set(by) == {"well"}
    broken.clear()
    wait_for(lambda: not sick._aside, "the sick one is well again")
    by.clear()
    wait_for(lambda: sender.publish_and_wait(request(broker), 5).accepted and "sick" in by, "it takes work again")


def test_an_ack_is_sent_only_after_the_broker_took_the_work(
    own_mosquitto: Mosquitto,
    settings_for: Callable[..., Broker],
    buses: Buses,
    start: Callable[..., Worker],
) -> None:
    """The broker dies while the work is in hand: no ack may come of it, and nothing may hang."""
    broker = settings_for(own_mosquitto)
    working, go = threading.Event(), threading.Event()

    def process(message: Message) -> Work:
        working.set()
        go.wait(60)
        return echo(broker)(message)

    worker = start(process, on=broker)
    sender = buses(broker, "sender")
    give(sender, request(broker, b"1"))
    assert working.wait(30)
    own_mosquitto.kill()
    wait_for(lambda: not worker._mqtt.connected, "the loss of the broker")
    go.set()
    wait_for(lambda: not worker._busy_since, "the work is put down")
    own_mosquitto.start()
    listener = listening(broker, buses)
    give(sender, request(broker, b"2"))
    wait_for(lambda: any(message.payload == b"2" for message in listener.on("out")), "new work is done")


def test_drain_finishes_what_is_in_hand_and_takes_nothing_more(
    broker: Broker, buses: Buses, start: Callable[..., Worker], listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "IDLE_S", 2.0)  # where tests run side by side, the broker may take its time
    slow = threading.Event()

    def process(message: Message) -> Work:
        slow.wait(0.05)
        return echo(broker)(message)

    worker = start(process, receive_maximum=2)
    sender = buses(broker, "sender")
    for i in range(20):
        give(sender, request(broker, str(i).encode()))
    worker.drain()
    wait_for(lambda: len(listener.on("acks/f")) == 20, "every ack")
    assert sorted(int(message.payload) for message in listener.on("out")) == list(range(20))


def test_a_replica_that_stepped_aside_takes_no_work_again_while_it_drains(
    broker: Broker, buses: Buses, start: Callable[..., Worker], listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "ASIDE_S", 0.0)
    broken = threading.Event()
    broken.set()

    def process(message: Message) -> Work:
        if broken.is_set():
            raise Unavailable("its engine is away")
        return echo(broker)(message)

    worker = start(process, drain_s=20)
    sender = buses(broker, "sender")
    give(sender, request(broker, b"1"))
    wait_for(lambda: worker._aside, "it steps aside")
    draining = threading.Thread(target=worker.drain)
    draining.start()
    wait_for(lambda: worker._draining, "the drain")
    broken.clear()
    wait_for(lambda: listener.on("acks/f"), "what was in hand is done")
    draining.join(20)
    assert sender.publish_and_wait(request(broker, b"2"), 5).code == 16, "nobody takes new work"


def test_drain_ends_in_time_although_the_work_hangs(broker: Broker, buses: Buses, start: Callable[..., Worker]) -> None:
    forever = threading.Event()

    def process(message: Message) -> Work:
        forever.wait(60)
        raise Unavailable("never")

    worker = start(process, drain_s=0.5)
    give(buses(broker, "sender"), request(broker))
    wait_for(lambda: worker._busy_since, "work in hand")
    began = time.monotonic()
    worker.drain()
    assert time.monotonic() - began < 30
    forever.set()


def test_a_hang_in_the_work_is_noticed(
    broker: Broker, buses: Buses, start: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "STUCK_S", 0.2)
    forever = threading.Event()

    def process(message: Message) -> Work:
        forever.wait(60)
        raise Unavailable("never")

    worker = start(process)
    assert worker.healthy()
    give(buses(broker, "sender"), request(broker))
    wait_for(lambda: not worker.healthy(), "the watchdog's judgement")
    forever.set()


def test_a_burst_far_over_receive_maximum_is_worked_off_without_loss(
    broker: Broker, buses: Buses, start: Callable[..., Worker], listener: Listener
) -> None:
    start(echo(broker), receive_maximum=2)
    sender = buses(broker, "sender")
    give(sender, request(broker, b"0"))
    for i in range(1, 250):
        sender.publish(request(broker, str(i).encode()))
    wait_for(lambda: len(listener.on("acks/f")) >= 250, "every ack", 30)
    assert sorted(int(message.payload) for message in listener.on("out")) == list(range(250))


def test_qos_0_and_retained_messages_are_not_work(
    broker: Broker, buses: Buses, start: Callable[..., Worker], listener: Listener
) -> None:
    start(echo(broker))
    sender = buses(broker, "sender")
    give(sender, request(broker, b"first"))
    sender._client.publish(f"{broker.root}/in", b"qos 0", 0)
    give(sender, request(broker, b"last"))
    wait_for(lambda: len(listener.on("acks/f")) == 2, "both acks")
    assert [message.payload for message in listener.on("out")] == [b"first", b"last"]
