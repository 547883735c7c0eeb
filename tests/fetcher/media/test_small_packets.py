"""A broker that takes small packets: the fetcher cuts its chunks to fit, also when the limit comes while it runs."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.contract.windows import WINDOW
from services.mqtt.client import MqttClient
from services.origin.packager import Packaging, package_folder
from services.origin.server import Origin
from services.settings.schema import Broker
from tests.broker.mosquitto import PROGRAM, Mosquitto, free_port, wait_for
from tests.chaos.streams import write_music
from tests.fetcher.test_service import Fetching, World

ONE_WINDOW = 2 * WINDOW


def configured(folder: Path, port: int, most: int) -> Path:
    config = folder / "mosquitto.conf"
    first = f"user {getpass.getuser()}\nlistener {port} 127.0.0.1\nallow_anonymous true\n"
    config.write_text(f"{first}max_packet_size {most}\n")
    return config


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Origin]:
    music = write_music(tmp_path / "music", {"a": 60.0})
    package_folder(music, tmp_path / "hls", Packaging(coder="fast"))
    with Origin(tmp_path / "hls") as running:
        yield running


@pytest.mark.parametrize("limited_from_the_start", [True, False], ids=["from-the-start", "after-a-restart"])
def test_chunks_fit_and_nothing_is_lost(tmp_path: Path, origin: Origin, limited_from_the_start: bool) -> None:
    if PROGRAM is None:
        pytest.skip("mosquitto is not installed")
    port = free_port()
    config = configured(tmp_path, port, 150_000 if limited_from_the_start else 2_000_000)
    mosquitto = Mosquitto(config, port)
    broker = Broker(port=port, root="small")
    mqtt = MqttClient(broker, "world", receive_maximum=1000)
    world = World(mqtt, broker.root)
    world.answering = limited_from_the_start
    mqtt.start()
    mqtt.wait_connected(10)
    fetching = Fetching(tmp_path, broker)
    try:
        fetching.configure({"a": f"{origin.url}/a.m3u8"})
        fetching.start()
        if not limited_from_the_start:
            wait_for(lambda: world.chunks, "large chunks", 30)
            assert max(chunk.pcm.nbytes for chunk in world.chunks) > ONE_WINDOW
            mosquitto.stop()
            wait_for(lambda: not mqtt.connected, "the last of the large chunks", 30)
            world.chunks.clear()
            configured(tmp_path, port, 150_000)
            world.answering = True
            mosquitto.start()
        wait_for(lambda: world.ended("a"), "the stream's end", 60)
    finally:
        fetching.end()
        mqtt.stop()
        mosquitto.stop()
    ledger = world.ledgers["a"]
    assert ledger.classified == ledger.timeline > 0 and not ledger.lost and not ledger.gap
    assert {chunk.pcm.nbytes for chunk in world.chunks} == {ONE_WINDOW}
    assert len({chunk.header.chunk for chunk in world.chunks}) == ledger.windows
