"""`make fuzz-messages`: hostile MQTT messages at every service's topics; nobody dies, every message is answered for.

Each message is in `genre/dead`, or became work because it was valid after all, or falls under a stated rule: QoS 0 and
retained messages are no work, text that paho can't read is passed over, an ack that names no chunk settles nothing.
Start at `campaign`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from services.contract.chunks import Chunk, ChunkHeader
from services.contract.messages import Message
from services.contract.tensors import MelTensor
from services.contract.topics import Topics
from services.inference.card import load_card
from services.mqtt.client import MqttClient
from services.mqtt.subscriptions import Delivery
from services.settings.schema import Broker
from tests.chaos import streams
from tests.chaos.pipeline import Pipeline, Shape

UNDER_WAY = 200
IN_A_ROW = 250
"""Messages before all that wait are worked off: a broker's memory is its longest queue, and looks like a leak."""
TEXTS = (
    "",
    "-1",
    "0",
    "65",
    "nan",
    "inf",
    "1e400",
    "9" * 500,
    "true",
    "0x10",
    "é",
    "\U0001f3b5",
    "a b",
    "a/b",
    "+",
    "#",
)
SETTLE_S = 120.0


def valid_chunk(number: int, reply_to: str) -> Chunk:
    """Return a chunk as a fetcher sends it."""
    header = ChunkHeader(
        stream="fuzz", epoch=0, first_sample=33_000 * number, windows=1, hop=33_000, received_at=1.0, observed_at=1.0
    )
    pcm = np.random.default_rng(number % 7).integers(-3000, 3000, header.samples).astype(np.int16)
    return Chunk(header, pcm, reply_to)


def mutate(message: Message, draw: random.Random) -> Message:
    """Return the message with one to three things wrong, or, rarely, none."""
    values: dict[str, Any] = dict(message.__dict__)
    for _ in range(draw.choice([0, 1, 1, 1, 2, 3])):
        properties = list(values["properties"])
        kind = draw.randrange(10)
        if kind == 0:
            values["payload"] = draw.randbytes(draw.choice([0, 1, 3, 100, 5000]))
        elif kind == 1:
            values["payload"] = message.payload[: draw.randrange(len(message.payload))]
        elif kind == 2:
            values["correlation"] = draw.choice([None, b"", b"\xff\xfe", b"fuzz/0/0/1", draw.randbytes(60)])
        elif kind == 3:
            root = message.topic.split("/")[0]
            values["response_topic"] = draw.choice([None, "x", f"{root}/results", f"{root}/acks/a/b", f"{root}/acks/"])
        elif kind == 4:
            values["content_type"] = draw.choice([None, "", "text/plain", "x" * 1000])
        elif kind == 5 and properties:
            properties.pop(draw.randrange(len(properties)))
        elif kind == 6 and properties:
            name = draw.choice(properties)[0]
            properties = [(k, draw.choice(TEXTS) if k == name else v) for k, v in properties]
        elif kind == 7:
            properties.append(draw.choice([*properties, ("surprise", "1"), ("", ""), ("a\ufeff", "b")]))
        elif kind == 8:
            values["topic"] = message.topic.rsplit("/", 1)[0] + draw.choice(["/other", "/a b", "/" + "x" * 200])
        else:
            properties = []
        values["properties"] = tuple(properties)
    return Message(**values)


@dataclass
class Tally:
    """What came of the messages to one service."""

    sent: int = 0
    dead: int = 0
    worked: int = 0


@dataclass
class Report:
    """What a campaign found."""

    pcm: Tally = field(default_factory=Tally)
    mel: Tally = field(default_factory=Tally)
    other: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    rss_mb: dict[str, list[float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Sender:
    """Publishes with a bounded number under way."""

    def __init__(self, mqtt: MqttClient) -> None:
        self._mqtt, self._room = mqtt, threading.Semaphore(UNDER_WAY)

    def __call__(self, message: Message) -> None:
        if not self._room.acquire(timeout=60):
            raise RuntimeError("the broker takes nothing more")
        self._mqtt.publish(message, lambda receipt: self._room.release())


def campaign(folder: Path, messages: int, seed: int) -> Report:
    """Send so many messages to featurizers, inference and fetcher, and see what became of them."""
    began = time.monotonic()
    models = folder / "models"
    model = streams.tiny_model(models)
    hls = folder / "hls"
    hls.mkdir()
    worker = {"worker": {"receive_maximum": 16}, "inference": {"wait_for_reader": False}}
    pipeline = Pipeline(Shape(folder / "pipeline", {}, models, model, hls, 1, 1, settings=worker))
    report = Report()
    seen = Seen()
    witness = MqttClient(Broker(port=pipeline.ports["broker"]), "witness", durable=True, receive_maximum=2000)
    try:
        pipeline.start()
        seen.watch(witness)
        sender_bus = MqttClient(Broker(port=pipeline.ports["broker"]), "sender")
        sender_bus.start()
        sender_bus.wait_connected(20)
        send = Sender(sender_bus)
        topics, draw = Topics(), random.Random(seed)
        proof = Proof(send, topics, seen)
        proof.wait("before")
        pids = {name: child.process.pid for name, child in pipeline.children.items() if child.process}
        note_memory(pipeline, report)
        recipe = load_card(models, model).recipe
        noise = np.random.default_rng(1)
        views = {name: noise.normal(size=(1, *shape)).astype(np.float32) for name, shape in recipe.shapes.items()}
        for number in range(messages):
            chunk = valid_chunk(number, topics.acks("fuzz"))
            tensor = MelTensor.of(chunk, views, (-20.0,), recipe.id, recipe.digest)
            for tally, message in ((report.pcm, chunk.to_message(topics)), (report.mel, tensor.to_message(topics))):
                hostile = mutate(message, draw)
                tally.sent += 1
                send(hostile)
            for message in elsewhere(draw, topics):
                report.other[message.topic] += 1
                send(message)
            if number % 2000 == 1999:
                note_memory(pipeline, report)
            if number % IN_A_ROW == IN_A_ROW - 1:
                proof.wait(f"after {number + 1}")
            if number % 2000 == 1999:
                print(f"{number + 1} messages each, {time.monotonic() - began:.0f} s", flush=True)
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline and not seen.answers_for(report):
            time.sleep(0.1)
        proof.wait("at the end")
        note_memory(pipeline, report)
        if not seen.answers_for(report):
            report.problems.append(f"messages are not answered for: featurizer {report.pcm}, inference {report.mel}")
        for name, pid in pids.items():
            child = pipeline.children[name]
            if not child.alive or child.process is None or child.process.pid != pid:
                report.problems.append(f"{name} ended")
        sender_bus.stop()
    except (AssertionError, RuntimeError) as error:
        report.problems.append(str(error))
    finally:
        witness.stop()
        left = pipeline.end()
    report.problems += [f"a process is left over: {line}" for line in left]
    for name, sizes in report.rss_mb.items():
        warm = sizes[min(1, len(sizes) - 1)]
        if len(sizes) > 3 and sizes[-1] > 1.25 * warm + 20:
            report.problems.append(f"{name} grew from {warm} to {sizes[-1]} MB")
    report.seconds = round(time.monotonic() - began, 1)
    return report


def elsewhere(draw: random.Random, topics: Topics) -> list[Message]:
    """Hostile acks to the fetcher, and now and then what is no work by rule."""
    ack = Message(
        topics.acks("1"),
        draw.randbytes(draw.randrange(40)),
        correlation=draw.choice([None, b"", b"\xff", b"fuzz/0/0/1", draw.randbytes(100)]),
        properties=draw.choice([(), (("outcome", "done"),), (("outcome", "paid"),), (("outcome", "dead"),) * 2]),
    )
    return [ack]


def note_memory(pipeline: Pipeline, report: Report) -> None:
    """Note each process's resident memory, MB."""
    for name in pipeline.children:
        process = pipeline.process(name)
        if process is not None:
            report.rss_mb.setdefault(name, []).append(round(process.memory_info().rss / 1e6, 1))


class Seen:
    """What the witness counts."""

    def __init__(self) -> None:
        self.dead: Counter[str] = Counter()
        self.mel = 0
        self.results: Counter[str] = Counter()
        self.acked: set[str] = set()

    def watch(self, mqtt: MqttClient) -> None:
        """Subscribe."""
        topics = Topics()

        def on(topic: str, take: Callable[[Message], None]) -> None:
            def handler(delivery: Delivery) -> None:
                mqtt.ack(delivery)
                take(delivery.message)

            mqtt.subscribe(topic, handler)

        on(topics.dead, lambda m: self.dead.update([json.loads(m.payload)["service"]]))
        on(topics.mel("+", "+"), self._passes)
        on(topics.results, lambda m: self.results.update([json.loads(m.payload)["stream"]]))
        on(topics.acks("fuzz"), lambda m: self.acked.add((m.correlation or b"").decode(errors="replace")))
        on(topics.acks("proof"), lambda m: self.acked.add((m.correlation or b"").decode(errors="replace")))
        mqtt.start()
        mqtt.wait_connected(20)

    def answers_for(self, report: Report) -> bool:
        """Bring the tallies up to date; return whether every message is answered for."""
        pcm, mel = report.pcm, report.mel
        pcm.dead, mel.dead = self.dead["featurizer"], self.dead["inference"]
        pcm.worked = self.mel - mel.sent
        mel.worked = sum(count for stream, count in self.results.items() if stream != "proof") - pcm.worked
        return all(tally.sent == tally.dead + tally.worked for tally in (pcm, mel))

    def _passes(self, message: Message) -> None:
        self.mel += not message.topic.endswith("/proof")


class Proof:
    """A valid chunk now and then: everyone is alive as long as it comes through."""

    def __init__(self, send: Sender, topics: Topics, seen: Seen) -> None:
        self._send, self._topics, self._seen = send, topics, seen
        self.count = 0

    def wait(self, when: str) -> None:
        """Send one, again where it is lost, until its ack comes."""
        self.count += 1
        chunk = valid_chunk(10_000_000 + self.count, self._topics.acks("proof"))
        header = chunk.header.model_copy(update={"stream": "proof"})
        message = Chunk(header, chunk.pcm, chunk.reply_to).to_message(self._topics)
        deadline, again = time.monotonic() + SETTLE_S, 0.0
        while header.chunk not in self._seen.acked:
            if time.monotonic() > deadline:
                raise AssertionError(f"{when}: a valid chunk does not come through")
            if time.monotonic() > again:
                self._send(message)
                again = time.monotonic() + 5
            time.sleep(0.02)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000, help="at each service's topics")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="genre-fuzz-") as folder:
        report = campaign(Path(folder), given.messages, given.seed)
    print(f"{report.seconds} s; featurizer {report.pcm}; inference {report.mel}; others {dict(report.other)}")
    print("memory, MB:", {name: (sizes[0], sizes[-1]) for name, sizes in report.rss_mb.items()})
    for problem in report.problems:
        print("PROBLEM", problem)
    return 1 if report.problems else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
