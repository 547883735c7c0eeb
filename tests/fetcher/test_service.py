"""The fetcher service as a process: ledgers on MQTT and in metrics, streams that change while it runs, a full drain."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.contract.acks import Ack
from services.contract.chunks import Chunk
from services.contract.messages import Event, Ledger, parse
from services.contract.topics import Topics
from services.mqtt.client import MqttClient
from services.mqtt.subscriptions import Delivery
from services.origin.packager import Packaging, package_folder
from services.origin.server import Origin
from services.settings.schema import Broker
from tests.broker.mosquitto import free_port, wait_for
from tests.chaos.streams import write_music

Buses = Callable[..., MqttClient]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    folder = tmp_path_factory.mktemp("origin")
    package_folder(write_music(folder / "music", {"a": 20.0, "b": 9.0}), folder / "hls", Packaging(coder="fast"))
    with Origin(folder / "hls") as running:
        yield running


class World:
    """A pipeline that acks every chunk, and what the fetcher publishes."""

    def __init__(self, mqtt: MqttClient, root: str) -> None:
        self.mqtt, self.answering = mqtt, True
        self.ledgers: dict[str, Ledger] = {}
        self.cleared = 0
        self.events: list[Event] = []
        self.chunks: list[Chunk] = []
        topics = Topics(root)
        mqtt.subscribe(topics.ledger("+"), self._take(self._ledger))
        mqtt.subscribe(topics.events, self._take(lambda payload: self.events.append(parse(Event, payload))))
        mqtt.subscribe(topics.pcm("+"), self._chunk)

    def _take(self, handle: Callable[[bytes], Any]) -> Callable[[Delivery], None]:
        def handler(delivery: Delivery) -> None:
            self.mqtt.ack(delivery)
            handle(delivery.message.payload)

        return handler

    def _ledger(self, payload: bytes) -> None:
        if not payload:
            self.cleared += 1
            return
        ledger = parse(Ledger, payload)
        assert ledger.adds_up
        self.ledgers[ledger.stream] = ledger

    def _chunk(self, delivery: Delivery) -> None:
        self.mqtt.ack(delivery)
        chunk = Chunk.from_message(delivery.message)
        self.chunks.append(chunk)
        if self.answering:
            self.mqtt.publish(Ack(chunk.header.chunk, "done").to_message(chunk.reply_to))

    def ended(self, *names: str) -> bool:
        return all(name in self.ledgers and self.ledgers[name].ended for name in names)


@pytest.fixture
def world(broker: Broker, buses: Buses) -> World:
    return World(buses(broker, "world", receive_maximum=1000), broker.root)


class Fetching:
    """A fetcher process with a configuration that the test writes."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.config, self._folder, self._broker = folder / "genre.json", folder, broker
        self.metrics = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, streams: dict[str, str], **fetcher: object) -> None:
        values = {
            "broker": self._broker.model_dump(exclude_none=True),
            "paths": {"state_dir": str(self._folder / "state")},
            "fetcher": {"cursor_interval_s": 0.2, "confirm_s": 0.1, **fetcher},
            "metrics": {"port": self.metrics},
            "streams": [{"name": name, "url": url} for name, url in streams.items()],
        }
        new = self.config.with_suffix(".new")
        new.write_text(json.dumps(values))
        new.replace(self.config)

    def start(self) -> None:
        argv = [sys.executable, "-m", "services.cli", "fetcher", "--config", str(self.config)]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, stderr=log)

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def fetching(tmp_path: Path, broker: Broker) -> Iterator[Fetching]:
    made = Fetching(tmp_path, broker)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait(10)


def test_ledgers_are_on_mqtt_and_in_the_metrics(fetching: Fetching, world: World, origin: Origin) -> None:
    fetching.configure({"a": f"{origin.url}/a.m3u8"})
    fetching.start()
    wait_for(lambda: world.ended("a"), "the end", 60)
    ledger = world.ledgers["a"]
    assert ledger.classified == ledger.timeline > 400_000
    with urllib.request.urlopen(f"http://127.0.0.1:{fetching.metrics}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    assert f'genre_stream_seconds{{place="classified",stream="a"}} {ledger.classified / 22_050}' in text
    assert [event.kind for event in world.events if event.kind != "report"] == ["started", "ended"]


def test_streams_are_added_replaced_and_removed_while_it_runs(fetching: Fetching, world: World, origin: Origin) -> None:
    fetching.configure({"a": f"{origin.url}/a.m3u8"})
    fetching.start()
    wait_for(lambda: world.ended("a"), "the first stream's end", 60)
    fetching.configure({"a": f"{origin.url}/a.m3u8", "b": f"{origin.url}/b.m3u8"})
    wait_for(lambda: world.ended("b"), "the added stream's end", 60)
    count = len([chunk for chunk in world.chunks if chunk.header.stream == "a"])
    fetching.config.write_text("{ this is not JSON")
    fetching.configure({"a": f"{origin.url}/b.m3u8"})
    wait_for(lambda: world.ledgers["a"].timeline == world.ledgers["b"].timeline and world.ended("a"), "the new URL", 60)
    assert len([chunk for chunk in world.chunks if chunk.header.stream == "a"]) > count
    assert fetching.end() == 0


def test_sigterm_waits_for_acks_and_a_restart_goes_on_where_it_was(
    fetching: Fetching, world: World, origin: Origin
) -> None:
    fetching.configure({"a": f"{origin.url}/a.m3u8"}, credits_per_stream=1)
    fetching.start()
    wait_for(lambda: world.chunks, "the first chunk", 60)
    assert fetching.end() == 0
    first = world.ledgers["a"]
    assert first.timeline == first.classified > 0 and not first.ended, "what was in hand was acked before it went"
    seen = {chunk.header.chunk for chunk in world.chunks}
    world.chunks.clear()
    fetching.start()
    wait_for(lambda: world.ended("a"), "the end", 60)
    assert not seen & {chunk.header.chunk for chunk in world.chunks}, "nothing is done twice after an orderly end"
    assert world.ledgers["a"].classified == world.ledgers["a"].timeline


def test_kill_9_loses_nothing_and_no_broker_at_the_start_is_waited_for(
    fetching: Fetching, world: World, origin: Origin
) -> None:
    fetching.configure({"a": f"{origin.url}/a.m3u8"}, credits_per_stream=2)
    for _ in range(3):
        fetching.start()
        before = len(world.chunks)
        wait_for(lambda before=before: len(world.chunks) > before or world.ended("a"), "a chunk", 60)
        assert fetching.end(signal.SIGKILL) == -9
    fetching.start()
    wait_for(lambda: world.ended("a"), "the end", 60)
    ledger = world.ledgers["a"]
    assert ledger.classified == ledger.timeline and ledger.windows == 1 + -(-(ledger.timeline - 66_000) // 33_000)


def test_nothing_is_left_of_a_removed_stream_whether_it_went_while_we_ran_or_not(
    fetching: Fetching, world: World, origin: Origin, tmp_path: Path
) -> None:
    a, b, c = ((name, f"{origin.url}/{file}.m3u8") for name, file in (("a", "b"), ("b", "b"), ("c", "b")))
    state = tmp_path / "state"
    fetching.configure(dict([a, b, c]))
    fetching.start()
    wait_for(lambda: world.ended("a", "b", "c"), "all ends", 60)
    wait_for(lambda: len(list(state.glob("*.cursor.json"))) == 3, "their cursors")
    fetching.configure(dict([b, c]))
    wait_for(lambda: world.cleared == 1, "the ledger of the removed one is cleared")
    assert sorted(path.name for path in state.glob("*.cursor.json")) == ["b.cursor.json", "c.cursor.json"]
    with urllib.request.urlopen(f"http://127.0.0.1:{fetching.metrics}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    assert 'stream="b"' in text and 'stream="a"' not in text
    assert fetching.end() == 0
    (state / "other.cursor.json").write_bytes((state / "c.cursor.json").read_bytes().replace(b'\\"1\\"', b'\\"2\\"'))
    fetching.configure(dict([c]))
    fetching.start()
    wait_for(lambda: world.cleared == 2, "the ledger of the one removed meanwhile is cleared")
    kept = sorted(path.name for path in state.glob("*.cursor.json"))
    assert kept == ["c.cursor.json", "other.cursor.json"], "another fetcher's cursor in the same folder stays"


def test_a_stream_heard_to_its_end_is_heard_again_by_command_with_other_ids(
    fetching: Fetching, world: World, origin: Origin, tmp_path: Path
) -> None:
    fetching.configure({"a": f"{origin.url}/b.m3u8"})
    fetching.start()
    command = [sys.executable, "-m", "services.cli", "hear-again"]
    wait_for(lambda: world.ended("a") and (tmp_path / "state/a.cursor.json").exists(), "the end", 60)
    first, chunks = world.ledgers["a"], [chunk.header.chunk for chunk in world.chunks]
    world.chunks.clear()
    wait_for(lambda: r"ended\":true" in (tmp_path / "state/a.cursor.json").read_text(), "its end is saved")
    never = subprocess.run([*command, "x", "--config", fetching.config], capture_output=True, text=True, check=False)
    assert never.returncode == 2 and "never heard" in never.stderr
    subprocess.run([*command, "a", "--config", fetching.config], check=True, capture_output=True)
    wait_for(lambda: world.ledgers["a"].timeline_id != first.timeline_id and world.ended("a"), "the second end", 60)
    assert world.ledgers["a"].model_copy(update={"timeline_id": first.timeline_id}) == first
    again = {chunk.header.chunk for chunk in world.chunks}  # a chunk may be sent more than once
    assert len(again) == len(set(chunks)) and not again & set(chunks)
