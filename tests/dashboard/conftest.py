"""A real dashboard process on a real broker, with a client that speaks to both."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from services.contract.topics import Topics
from services.mqtt.client import MqttClient
from services.settings.schema import Broker
from tests.broker.mosquitto import Mosquitto, free_port, wait_for
from tests.dashboard.pretend import sent

PASSWORD = "correct horse"
OURS = {"x-genre-request": "1"}


@dataclass
class Running:
    """One dashboard, its configuration and its broker."""

    process: subprocess.Popen[bytes]
    url: str
    config: Path
    folder: Path
    topics: Topics
    mqtt: MqttClient

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=10, **options)

    def live_state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/api/board").json()
        return found

    def stream(self, name: str) -> dict[str, Any]:
        return next((stream for stream in self.live_state()["streams"] if stream["name"] == name), {})

    def state(self, name: str) -> str:
        found: str = self.live_state()["states"].get(name, "")
        return found

    def send(self, *things: Any) -> None:
        for message in sent(self.topics, *things):
            assert self.mqtt.publish_and_wait(message, 5).accepted

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def logged_in(self) -> requests.Session:
        session = requests.Session()
        answer = session.post(self.url + "/api/login", json={"password": PASSWORD}, headers=OURS, timeout=10)
        assert answer.status_code == 200, answer.text
        return session


@pytest.fixture
def start_dashboard(tmp_path: Path, buses: Callable[..., MqttClient]) -> Iterator[Callable[..., Running]]:
    """Start dashboards; they are ended after the test."""
    with dashboards(tmp_path, buses) as start:
        yield start


@contextmanager
def dashboards(tmp_path: Path, buses: Callable[..., MqttClient]) -> Iterator[Callable[..., Running]]:
    """Start dashboards in a folder; they are ended at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        broker: Broker,
        streams: tuple[str, ...] = (),
        prepare: Callable[[Path], None] | None = None,
        **section: object,
    ) -> Running:
        folder = tmp_path / f"dashboard{len(started)}"
        folder.mkdir()
        if prepare is not None:
            prepare(folder)
        (folder / "password").write_text(PASSWORD + "\n")
        port = free_port()
        values = {"port": port, "password_file": str(folder / "password"), "stopped_after_s": 5, **section}
        at = broker.model_dump(mode="json", exclude_defaults=True)
        lines = ["# a person's own words", "[broker]", *(f"{key} = {json.dumps(value)}" for key, value in at.items())]
        lines += ["[dashboard]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        lines += ["[paths]", f'state_dir = "{folder}/state"']
        for name in streams:
            lines += ["[[streams]]", f'name = "{name}"', f'url = "http://example.org/{name}.m3u8"']
        config = folder / "genre.toml"
        config.write_text("\n".join(lines) + "\n")
        with (folder / "log").open("wb") as log:
            argv = [sys.executable, "-m", "services.cli", "dashboard", "--config", str(config)]
            process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)
        started.append(process)
        url = f"http://127.0.0.1:{port}"
        running = Running(process, url, config, folder, Topics(broker.root), buses(broker, f"test{len(started)}"))

        def ready() -> bool:
            assert process.poll() is None, running.log()
            try:
                return requests.get(url + "/healthz", timeout=5).status_code == 200
            except requests.ConnectionError:
                return False

        wait_for(ready, "the dashboard answers", 30)
        return running

    try:
        yield start
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(15)


@pytest.fixture(scope="module")
def still(shared_mosquitto: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One dashboard for all tests of a file that change nothing in it."""
    broker = Broker(port=shared_mosquitto.port, root="still")
    mqtt = MqttClient(broker, "still-test")
    mqtt.start()
    mqtt.wait_connected(10)
    with dashboards(tmp_path_factory.mktemp("still"), lambda *rest: mqtt) as start:
        yield start(broker, ("radio1", "radio2"))
    mqtt.stop()


@pytest.fixture
def dashboard(broker: Broker, start_dashboard: Callable[..., Running]) -> Running:
    """One dashboard with two configured streams, that writes nothing on the bus."""
    return start_dashboard(broker, ("radio1", "radio2"))
