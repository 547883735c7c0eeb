"""Edge and upstream as two machines (namespaces) with a cable: results and status cross it, audio never does."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from click.testing import CliRunner

from benchmarks.rigs.network import Network
from broker.command import broker as command
from broker.folder import BrokerFolder
from broker.mosquitto_conf import bridge_config, local_config
from services.contract.windows import SAMPLE_RATE
from services.origin.packager import Packaging, package_folder
from services.origin.server import Origin
from tests.broker.mosquitto import PROGRAM, stay_this_user, wait_for
from tests.demo_recordings import recordings
from tests.deploy.conftest import ROOT, needs

pytestmark = pytest.mark.timeout(900)
EDGE, UPSTREAM = "edge", "upstream"
SERVICES = ("featurizer", "inference", "fetcher")


@pytest.fixture
def network() -> Iterator[Network]:
    needs("ip")
    assert PROGRAM is not None
    with Network([EDGE, UPSTREAM]) as both:
        yield both


@pytest.fixture
def start(network: Network) -> Iterator[Callable[..., None]]:
    """Start processes on a host; all of them are gone afterwards."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(host: str, log: Path, *argv: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with log.open("ab") as file:
            command = [*network.prefix(host), *argv]
            running.append(subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd="/"))

    yield begin
    for process in reversed(running):
        process.terminate()
    for process in running:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Reader:
    """A client on a host: every message, by topic."""

    def __init__(self, network: Network, on: str, host: str, port: int, login: tuple[str, Path] | None = None) -> None:
        self.seen: dict[str, list[Any]] = {}
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "reader", protocol=mqtt.MQTTv5)
        if login is not None:
            name, folder = login
            self.client.username_pw_set(name, (folder / "passwords" / name).read_text().strip())
            self.client.tls_set(ca_certs=str(folder / "ca.crt"))
        self.client.on_connect = lambda client, *rest: client.subscribe(
            [
                (name, 1)
                for name in ("genre/results", "genre/events", "genre/status/#", "genre/streams/#", "genre/flat/#")
            ]
        )
        self.client.on_message = self._message

        def connected() -> bool:
            with contextlib.suppress(OSError), network.inside(on):
                self.client.connect(host, port)
                return True
            return False

        wait_for(connected, f"{host}:{port} to answer", 60)
        self.client.loop_start()

    def _message(self, client: object, userdata: object, message: mqtt.MQTTMessage) -> None:
        value = json.loads(message.payload) if message.payload else None
        self.seen.setdefault(message.topic, []).append(value)

    def ledger(self) -> dict[str, Any]:
        found: dict[str, Any] = self.seen.get("genre/streams/jazz/ledger", [{}])[-1]
        return found

    def results(self) -> set[str]:
        return {result["id"] for result in self.seen.get("genre/results", [])}

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def test_results_reach_the_upstream_broker_after_a_cut_and_audio_never_does(
    tmp_path: Path, network: Network, start: Callable[..., None]
) -> None:
    address = network.addresses[UPSTREAM]
    folder = tmp_path / "upstream"
    for name in ("state", "kept", "log"):
        (tmp_path / name).mkdir()
    BrokerFolder(folder).set_up([address], 8883, None, tmp_path / "state", False)
    for user, role in (("edge-7", "bridge"), ("wall", "viewer")):
        assert CliRunner().invoke(command, ["user", user, "--role", role, "--folder", str(folder)]).exit_code == 0
    stay_this_user(folder / "mosquitto.conf")
    start(UPSTREAM, tmp_path / "log/upstream", PROGRAM, "-c", str(folder / "mosquitto.conf"))

    password = (folder / "passwords/edge-7").read_text().strip()
    bridge = bridge_config("edge-7", f"{address}:8883", password, folder / "ca.crt", prefix="")
    local = tmp_path / "edge.conf"
    local.write_text(local_config(1883, tmp_path / "kept", True, user=getpass.getuser()) + bridge)
    start(EDGE, tmp_path / "log/edge", PROGRAM, "-c", str(local))

    recordings(tmp_path / "music", "jazz")
    package_folder(tmp_path / "music", tmp_path / "music/hls", Packaging(coder="fast"))
    with network.inside(EDGE):
        origin = Origin(tmp_path / "music/hls", host="127.0.0.1")
    wall = Reader(network, UPSTREAM, address, 8883, ("wall", folder))
    here = Reader(network, EDGE, "127.0.0.1", 1883)
    try:
        with origin:
            config = tmp_path / "genre.toml"
            config.write_text(
                f'[inference]\nmodels_dir = "{ROOT}/models"\nbackend = "onnx"\n[hls]\nallow_private = true\n'
                f'[paths]\nstate_dir = "{tmp_path}/kept"\n'
                f'[[streams]]\nname = "jazz"\nurl = "{origin.url}/jazz.m3u8"\n'
            )
            genre = [sys.executable, "-m", "services.cli"]
            for service in SERVICES[:2]:
                start(EDGE, tmp_path / f"log/{service}", *genre, service, "--config", str(config), "--instance", "1")
            wait_for(lambda: "genre/status/inference/1" in wall.seen, "the edge's status upstream", 180)
            network.pull(EDGE)
            start(EDGE, tmp_path / "log/fetcher", *genre, "fetcher", "--config", str(config), "--instance", "1")
            wait_for(lambda: here.ledger().get("ended"), "the whole stream, on the edge alone", 300)
            assert wall.results() == set()
            network.plug(EDGE)
            wait_for(lambda: len(wall.results()) == here.ledger()["windows"], "every result upstream", 240)
            wait_for(lambda: wall.ledger().get("ended"), "the ledger upstream", 30)
    finally:
        wall.close()
        here.close()
    ledger = wall.ledger()
    assert ledger["timeline"] == ledger["classified"] > 59 * SAMPLE_RATE
    assert wall.results() == here.results()
    assert set(wall.seen) <= set(here.seen) | {"genre/status/inference/1", "genre/status/featurizer/1"}
    # The pipe itself: had audio or features crossed it, it would have carried megabytes.
    crossed = network.bytes(EDGE)
    print(f"\n{crossed} bytes crossed for {ledger['classified'] * 2} bytes of audio")
    assert crossed < ledger["classified"] * 2 / 10
