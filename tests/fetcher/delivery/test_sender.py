"""The chunk sender against a real broker: credits, redelivery, probes, and giving up only what is hopeless."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from services.contract.acks import Ack
from services.contract.chunks import Chunk, ChunkHeader
from services.contract.messages import Dead, Message, parse
from services.contract.topics import Topics
from services.contract.windows import WINDOW
from services.fetcher.delivery.in_flight import InFlightChunk, Lost, RetransmissionTimer
from services.fetcher.delivery.sender import ChunkSender
from services.fetcher.events import ResumePoint
from services.mqtt.client import MqttClient
from services.mqtt.subscriptions import Delivery
from services.process.lifecycle import ServiceProcess
from services.process.readers import ReaderWatch
from services.settings.schema import Broker, Fetcher
from tests.broker.mosquitto import Mosquitto, free_port, wait_for

Buses = Callable[..., MqttClient]


def in_flight(number: int, stream: str = "radio", *, live: bool = False, reply_to: str = "") -> InFlightChunk:
    header = ChunkHeader(
        stream=stream, epoch=0, first_sample=33_000 * number, windows=1, hop=33_000, received_at=1.0, observed_at=1.0
    )
    chunk = Chunk(header, np.zeros(WINDOW, np.int16), reply_to)
    return InFlightChunk(chunk, 33_000, ResumePoint(0, 0, 33_000 * number), live)


@dataclass
class Pipeline:
    """What stands for featurizer and inference: says of each chunk what the test wants."""

    mqtt: MqttClient
    root: str
    say: Callable[[Chunk], str | None] = lambda chunk: "done"
    seen: list[Chunk] = field(default_factory=list)

    def __call__(self, delivery: Delivery) -> None:
        chunk = Chunk.from_message(delivery.message)
        self.seen.append(chunk)
        outcome = self.say(chunk)
        if outcome is not None:
            self.mqtt.publish(Ack(chunk.header.chunk, outcome, "why").to_message(chunk.reply_to))  # type: ignore[arg-type]
        self.mqtt.ack(delivery)

    def listen(self) -> None:
        self.mqtt.subscribe(f"$share/g/{self.root}/pcm/+", self)

    @property
    def numbers(self) -> list[int]:
        return [chunk.header.first_sample // 33_000 for chunk in self.seen]


class Fixture:
    """A chunk sender with its ticks, and a pipeline that does not listen yet."""

    def __init__(self, broker: Broker, buses: Buses, **changes: object) -> None:
        self.topics = Topics(broker.root)
        self.mqtt = buses(broker, "fetcher", durable=True)
        self.pipeline = Pipeline(buses(broker, "pipeline", receive_maximum=1000), broker.root)
        self.settled: dict[int, str] = {}
        self.lost: list[tuple[str, str, str]] = []
        self.dead: list[Dead] = []
        settings = Fetcher.model_validate(
            {"ack_timeout_s": 0.2, "ack_timeout_max_s": 1.0, "confirm_s": 0.05, **changes}
        )
        self.sender = ChunkSender(self.mqtt, self.topics, "1", settings, self._settled)
        self.sender.start()
        self.stop = threading.Event()
        self.pipeline.mqtt.subscribe(self.topics.dead, self._dead)
        self.thread = threading.Thread(target=self._tick, daemon=True)
        self.thread.start()

    def _settled(self, chunk: InFlightChunk, outcome: Lost | None) -> None:
        if outcome is not None:
            self.lost.append((chunk.id, outcome.cause, outcome.reason))
        self.settled[chunk.chunk.header.first_sample // 33_000] = outcome.cause if outcome else ""

    def _dead(self, delivery: Delivery) -> None:
        self.dead.append(parse(Dead, delivery.message.payload))
        self.pipeline.mqtt.ack(delivery)

    def _tick(self) -> None:
        while not self.stop.wait(0.02):
            self.sender.tick()

    def send(self, *numbers: int, stream: str = "radio", live: bool = False) -> None:
        for number in numbers:
            self.sender.send(in_flight(number, stream, live=live, reply_to=self.sender.reply_to), self.stop)


@pytest.fixture
def made(broker: Broker, buses: Buses) -> Iterator[Callable[..., Fixture]]:
    all_made: list[Fixture] = []

    def make(on: Broker = broker, **changes: object) -> Fixture:
        all_made.append(Fixture(on, buses, **changes))
        return all_made[-1]

    yield make
    for fixture in all_made:
        fixture.stop.set()
        fixture.thread.join(5)


def test_chunks_are_settled_by_their_acks_and_sent_once(made: Callable[..., Fixture]) -> None:
    f = made(ack_timeout_s=5)
    f.pipeline.listen()
    f.send(*range(6))
    wait_for(lambda: len(f.settled) == 6, "all acks")
    assert set(f.settled.values()) == {""} and sorted(set(f.pipeline.numbers)) == list(range(6))
    assert f.sender.outstanding("radio") == 0


def test_no_more_than_the_credits_are_under_way(made: Callable[..., Fixture]) -> None:
    f = made(credits_per_stream=3, credits=5, ack_timeout_s=60)
    f.pipeline.say = lambda chunk: None
    f.pipeline.listen()
    threads = [threading.Thread(target=f.send, args=range(10), kwargs={"stream": s}, daemon=True) for s in ("a", "b")]
    for thread in threads:
        thread.start()
    wait_for(lambda: f.sender.outstanding("a") + f.sender.outstanding("b") == 5, "the credits are used up")
    assert max(f.sender.outstanding("a"), f.sender.outstanding("b")) <= 3
    f.pipeline.say = lambda chunk: "done"
    for chunk in list(f.pipeline.seen):
        f.pipeline.mqtt.publish(Ack(chunk.header.chunk, "done").to_message(chunk.reply_to))
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    wait_for(lambda: len(f.settled) == 10, "all acks")


def test_a_chunk_swallowed_by_a_replica_is_sent_again_and_nothing_is_lost(made: Callable[..., Fixture]) -> None:
    f = made(credits_per_stream=20)
    f.pipeline.say = lambda chunk: None if chunk.header.attempt < 3 and chunk.header.first_sample == 0 else "done"
    f.pipeline.listen()
    f.send(0)
    for number in range(1, 30):
        f.send(number)
    wait_for(lambda: f.settled.get(0) == "", "the chunk that was swallowed twice")
    assert f.lost == []


def test_with_nobody_listening_chunks_wait_and_flow_again_at_once(made: Callable[..., Fixture]) -> None:
    f = made()
    f.send(*range(8))
    wait_for(lambda: all(p.unheard for p in list(f.sender._in_flight.values())), "the broker says nobody listens")
    f.pipeline.listen()
    began = time.monotonic()
    wait_for(lambda: len(f.settled) == 8, "all acks")
    assert time.monotonic() - began < 5 and f.lost == []


def test_a_dead_pipeline_is_probed_and_not_flooded(made: Callable[..., Fixture]) -> None:
    f = made(credits_per_stream=50, ack_timeout_s=0.1, ack_timeout_max_s=60)
    f.pipeline.say = lambda chunk: None
    f.pipeline.listen()
    wait_for(lambda: f.pipeline.mqtt.publish_and_wait(other_message(f), 5).reached_someone, "the pipeline")
    f.send(*range(50))
    wait_for(lambda: len(f.pipeline.seen) > 53, "some probes")
    probes = [chunk for chunk in f.pipeline.seen if chunk.header.attempt > 1]
    assert len(probes) <= 6, "doubling waits: a handful within seconds, not fifty at once"
    f.pipeline.say = lambda chunk: "done"
    wait_for(lambda: len(f.settled) == 50, "all acks once it is back", 60)
    assert f.lost == []


def other_message(f: Fixture) -> Message:
    return in_flight(999, "other", reply_to=f.topics.acks("x")).chunk.to_message(f.topics)


def test_only_a_chunk_that_others_overtook_often_is_given_up_with_a_letter(made: Callable[..., Fixture]) -> None:
    f = made(give_up_after=4, ack_timeout_s=0.05, ack_timeout_max_s=0.1)
    f.pipeline.say = lambda chunk: None if chunk.header.first_sample == 0 else "done"
    f.pipeline.listen()
    f.send(0)
    numbers = iter(range(1, 100_000))
    wait_for(lambda: f.lost or f.send(next(numbers)), "the hopeless chunk is given up", 30)
    assert f.lost[0][:2] == ("radio/0/0/1", "no-answer") and f.settled[0] == "no-answer"
    wait_for(lambda: f.dead, "its letter")
    assert f.dead[0].chunk == "radio/0/0/1" and f.dead[0].service == "fetcher"


def test_a_long_outage_of_the_broker_loses_nothing(
    own_mosquitto: Mosquitto, settings_for: Callable[..., Broker], made: Callable[..., Fixture]
) -> None:
    f = made(settings_for(own_mosquitto), give_up_after=3, ack_timeout_s=0.05, ack_timeout_max_s=0.1)
    f.pipeline.listen()
    f.send(0, 1)
    wait_for(lambda: len(f.settled) == 2, "the first acks")
    f.pipeline.say = lambda chunk: None
    f.send(2, 3, 4)
    wait_for(lambda: {2, 3, 4} <= set(f.pipeline.numbers), "they are with the pipeline")
    own_mosquitto.kill()
    wait_for(lambda: not f.mqtt.connected, "the loss of the broker")
    f.send(5)
    ticks = time.monotonic() + 1.5  # thirty timeouts
    wait_for(lambda: time.monotonic() > ticks, "time goes by")
    f.pipeline.say = lambda chunk: "done"
    own_mosquitto.start()
    wait_for(lambda: len(f.settled) == 6, "every ack", 30)
    assert f.lost == [] and set(f.settled.values()) == {""}


def test_a_live_chunk_too_old_is_dropped_and_said(made: Callable[..., Fixture]) -> None:
    f = made(max_age_s=0.3, credits_per_stream=2)
    f.send(0, 1, 2, live=True)
    wait_for(lambda: len(f.settled) == 3, "all are given up")
    assert set(f.settled.values()) == {"stale"} and {cause for _, cause, _ in f.lost} == {"stale"}
    assert f.sender.outstanding("radio") == 0


def test_a_recorded_chunk_is_never_too_old(made: Callable[..., Fixture]) -> None:
    f = made(max_age_s=0.1)
    f.send(0)
    waited = time.monotonic() + 0.5
    wait_for(lambda: time.monotonic() > waited, "time goes by")
    f.pipeline.listen()
    wait_for(lambda: f.settled == {0: ""}, "its ack")


def test_setting_the_clock_makes_no_chunk_stale(made: Callable[..., Fixture], monkeypatch: pytest.MonkeyPatch) -> None:
    f = made(max_age_s=20)
    f.send(0, live=True)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400)
    f.pipeline.listen()
    wait_for(lambda: f.settled == {0: ""}, "its ack")


def test_a_dead_ack_is_a_loss_with_its_reason(made: Callable[..., Fixture]) -> None:
    f = made()
    f.pipeline.say = lambda chunk: "dead"
    f.pipeline.listen()
    f.send(0)
    wait_for(lambda: f.settled == {0: "dead"}, "the loss")
    assert f.lost == [("radio/0/0/1", "dead", "why")]


@pytest.mark.parametrize("correlation", [None, b"", b"\xff\xfe", b"radio/0/999/1", b"x" * 60_000])
def test_strange_acks_settle_nothing(made: Callable[..., Fixture], correlation: bytes | None) -> None:
    f = made()
    f.send(0)
    for properties in ((), (("outcome", "done"),), (("outcome", "paid"),)):
        receipt = f.pipeline.mqtt.publish_and_wait(
            Message(f.topics.acks("1"), b"", correlation=correlation, properties=properties), 5
        )
        assert receipt.accepted
    f.pipeline.listen()
    wait_for(lambda: f.settled == {0: ""}, "the real ack")


def test_the_stage_that_holds_a_chunk_is_named(made: Callable[..., Fixture]) -> None:
    f = made()
    f.pipeline.say = lambda chunk: "featurized" if chunk.header.attempt > 2 else None
    f.pipeline.listen()
    f.send(0)
    wait_for(lambda: f.sender.stuck_stage("radio") == "featurizer", "no sign from the featurizer")
    wait_for(lambda: f.sender.stuck_stage("radio") == "inference", "the featurizer passed it on")


def test_a_stream_that_is_taken_off_gives_its_credits_back(made: Callable[..., Fixture]) -> None:
    f = made(credits_per_stream=4)
    f.send(0, 1, 2, 3)
    f.sender.forget("radio")
    assert f.sender.outstanding("radio") == 0
    f.pipeline.listen()
    f.send(0, 1, 2, 3)
    wait_for(lambda: len(f.settled) == 4, "the same chunks, sent by the next listener")
    assert f.sender.wait_settled(1)


def test_the_timer_learns_from_copies_that_were_not_needed() -> None:
    timer = RetransmissionTimer(1.0, 60.0)
    assert timer.timeout_s == 1.0
    for _ in range(20):
        timer.learn(8.0)
    assert 8.0 <= timer.timeout_s < 12.0
    for _ in range(60):
        timer.learn(0.1)
    assert timer.timeout_s == 1.0


def test_an_ack_that_the_broker_did_not_outlive_is_taken_back_and_the_chunk_sent_again(
    own_mosquitto: Mosquitto, settings_for: Callable[..., Broker], made: Callable[..., Fixture]
) -> None:
    """Its results may have died with the broker, unwritten to any reader."""
    f = made(settings_for(own_mosquitto), confirm_s=5)
    f.pipeline.listen()
    f.send(0)
    wait_for(lambda: f.sender._confirming, "its ack")
    assert f.settled == {} and f.sender.outstanding("radio") == 0, "it holds no credit, and counts for nothing yet"
    own_mosquitto.kill()
    wait_for(lambda: not f.mqtt.connected, "the loss of the broker")
    f.pipeline.seen.clear()
    own_mosquitto.start()
    wait_for(lambda: f.pipeline.numbers, "it is sent again")
    wait_for(lambda: f.settled == {0: ""}, "an ack that the broker outlived")


def test_acks_count_soon_after_although_nothing_more_is_sent(made: Callable[..., Fixture]) -> None:
    f = made(confirm_s=0.3, ack_timeout_s=5)
    f.pipeline.listen()
    f.send(0, 1, 2)
    assert f.sender.wait_settled(5)
    wait_for(lambda: len(f.settled) == 3, "all are settled")


def test_live_audio_does_not_pile_up_while_the_broker_is_away(
    own_mosquitto: Mosquitto, settings_for: Callable[..., Broker], made: Callable[..., Fixture]
) -> None:
    f = made(settings_for(own_mosquitto), max_age_s=0.3, credits_per_stream=4)
    f.pipeline.listen()
    f.send(0, live=True)
    wait_for(lambda: f.settled == {0: ""}, "the first ack")
    own_mosquitto.kill()
    wait_for(lambda: not f.mqtt.connected, "the loss of the broker")
    f.send(*range(1, 20), live=True)
    wait_for(lambda: len(f.settled) == 20, "every one is given up in time", 30)
    waiting = [message for message in f.mqtt._client._out_messages.values() if b"/pcm/" in message._topic]
    assert not waiting, "no audio waits in the bus"
    f.pipeline.seen.clear()
    own_mosquitto.start()
    wait_for(lambda: f.mqtt.connected and f.pipeline.mqtt.connected, "the broker is back")
    fresh = itertools.count(20)

    def one_more_is_acked() -> bool:  # on a busy machine 0.3 s may be too short for the first ones
        f.send(number := next(fresh), live=True)
        wait_for(lambda: number in f.settled, "its ack or its end")
        return f.settled[number] == ""

    wait_for(one_more_is_acked, "new audio flows", 60)
    assert f.pipeline.numbers and min(f.pipeline.numbers) >= 20, "what was given up is not sent any more"


def test_a_group_member_that_may_not_read_swallows_its_share_and_nothing_is_lost(
    tmp_path: Path, made: Callable[..., Fixture], buses: Buses
) -> None:
    """Mosquitto lets it subscribe, deals it every second chunk, and drops them without a word."""
    port = free_port()
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite #\n\nuser denied\ntopic readwrite denied/acks/#\n")
    acl.chmod(0o600)
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nacl_file {acl}\nuser root\n")
    mosquitto = Mosquitto(config, port)
    f = made(Broker(port=port, root="denied"), credits_per_stream=4)
    f.pipeline.listen()
    f.send(0)
    wait_for(lambda: f.settled == {0: ""}, "the first ack")
    denied = Pipeline(buses(Broker(port=port, root="denied", username="denied"), "denied-member"), "denied")
    denied.listen()
    f.send(*range(1, 40))
    wait_for(lambda: len(f.settled) == 40, "every ack", 60)
    assert set(f.settled.values()) == {""} and f.lost == [] and denied.seen == []
    assert len(f.pipeline.seen) <= 120, "it costs some copies, not a flood"
    again = [chunk for chunk in f.pipeline.seen if chunk.header.attempt > 1]
    assert again, "the member did take a share"
    for mqtt in (denied.mqtt, f.mqtt, f.pipeline.mqtt):
        mqtt.stop()
    mosquitto.stop()


def test_a_chunk_that_only_a_curious_client_got_is_offered_again_as_soon_as_a_featurizer_is_online(
    broker: Broker, buses: Buses
) -> None:
    """`mosquitto_sub -t '#'` beside a fetcher whose featurizers are away: its ack may be a minute overdue by then."""
    fetcher = ServiceProcess("fetcher", "1", broker.root, broker)
    mqtt = fetcher.connect(durable=True)
    reader = ReaderWatch(fetcher, mqtt, "featurizer", lambda status: status.service == "featurizer")
    settled: list[Lost | None] = []
    settings = Fetcher.model_validate({"ack_timeout_s": 60, "confirm_s": 0})
    sender = ChunkSender(mqtt, fetcher.topics, "1", settings, lambda chunk, outcome: settled.append(outcome), reader)
    sender.start()
    mqtt.start()
    mqtt.wait_connected(10)
    curious = buses(broker, "curious")
    seen: list[str] = []
    curious.subscribe(
        f"{broker.root}/#", lambda delivery: (seen.append(delivery.message.topic), curious.ack(delivery))[1]
    )
    wait_for(lambda: curious.publish_and_wait(Message(f"{broker.root}/x"), 5).reached_someone, "the curious client")
    chunk = in_flight(1, reply_to=sender.reply_to)
    sender.send(chunk, threading.Event())
    wait_for(lambda: chunk.unheard and fetcher.topics.pcm("radio") in seen, "a chunk that no featurizer got")
    life = ServiceProcess("featurizer", "1", broker.root, broker)
    pipeline = Pipeline(life.connect(durable=True), broker.root)
    pipeline.listen()
    pipeline.mqtt.start()
    wait_for(lambda: sender.tick() or settled, "its ack")
    assert settled == [None]
    for each in (pipeline.mqtt, mqtt):
        each.stop()
