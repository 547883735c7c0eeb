"""A service's life as others see it: online, draining, offline; beats that pass through the real loop; small rooms."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services import credentials, systemd
from services.bus import Bus, Delivery
from services.contract import Status, Topics, parse
from services.errors import GenreError
from services.logs import JsonFormatter
from services.settings import Broker
from tests.broker.mosquitto import wait_for
from tests.chaos.streams import tiny_model

Buses = Callable[..., Bus]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder)
    return folder


@pytest.fixture
def featurizer(broker: Broker, models: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    made: list[subprocess.Popen[bytes]] = []

    def start(**env: str) -> subprocess.Popen[bytes]:
        config = tmp_path / "genre.json"
        inference = {"model": "tiny", "models_dir": str(models)}
        config.write_text(json.dumps({"broker": broker.model_dump(exclude_none=True), "inference": inference}))
        argv = [sys.executable, "-m", "services.cli", "featurizer", "--config", str(config), "--instance", "7"]
        made.append(subprocess.Popen(argv, env={**os.environ, **env}, stderr=subprocess.DEVNULL))
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.wait(10)


@pytest.fixture
def states(broker: Broker, buses: Buses) -> list[Status]:
    seen: list[Status] = []
    bus = buses(broker, "watch")

    def take(delivery: Delivery) -> None:
        bus.ack(delivery)
        seen.append(parse(Status, delivery.message.payload))

    bus.subscribe(Topics(broker.root).status("+", "+"), take)
    return seen


def test_status_goes_from_online_over_draining_to_offline(
    featurizer: Callable[..., subprocess.Popen[bytes]], states: list[Status]
) -> None:
    process = featurizer()
    wait_for(lambda: states, "online", 30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    wait_for(lambda: states[-1].state == "offline", "offline")
    assert [status.state for status in states] == ["online", "draining", "offline"]
    assert (states[0].service, states[0].instance) == ("featurizer", "7")
    assert states[0].details["recipe"] == "musicnn" and len({status.boot_id for status in states}) == 1


def test_after_kill_9_the_will_says_offline_and_a_new_boot_id_tells_of_the_restart(
    featurizer: Callable[..., subprocess.Popen[bytes]], states: list[Status]
) -> None:
    process = featurizer()
    wait_for(lambda: states, "online", 30)
    process.kill()
    wait_for(lambda: states[-1].state == "offline", "the will")
    featurizer()
    wait_for(lambda: states[-1].state == "online", "online again", 30)
    assert states[-1].boot_id != states[0].boot_id


def test_systemd_hears_ready_beats_and_stopping(
    featurizer: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        process = featurizer(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="900000")
        assert listener.recv(100) == b"READY=1"
        assert [listener.recv(100) for _ in range(2)] == [b"WATCHDOG=1"] * 2
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: listener.recv(100) == b"STOPPING=1", "STOPPING=1")
        assert process.wait(10) == 0


def test_a_watchdog_meant_for_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    assert systemd.watchdog_interval_s() == 1.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert systemd.watchdog_interval_s() is None
    monkeypatch.setenv("WATCHDOG_USEC", "soon")
    assert systemd.watchdog_interval_s() is None


def test_without_systemd_or_with_a_broken_socket_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    systemd.notify("READY=1")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "does not hold one password"), (b"a\nb\n", "one password"), (b"\xff\xfe", "UTF-8"), (b"x" * 5000, "one")],
)
def test_a_strange_password_file_is_refused_without_its_content(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(GenreError, match=reason) as caught:
        credentials.password(file)
    assert "broker.password_file" in str(caught.value) and "xxxx" not in str(caught.value)


def test_a_credential_of_systemd_wins_over_the_configured_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "etc" / "password").write_text("from etc\n")
    (tmp_path / "run" / "password").write_text("from systemd\n")
    assert credentials.password(tmp_path / "etc" / "password") == "from etc"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "run"))
    assert credentials.password(tmp_path / "etc" / "password") == "from systemd"
    assert credentials.password(None) is None
    with pytest.raises(GenreError, match="can't be read"):
        credentials.password(tmp_path / "nothing")


def test_a_log_line_is_one_json_object_with_its_extras() -> None:
    record = logging.makeLogRecord(
        {"name": "x", "levelname": "WARNING", "msg": "it is %s\nnow", "args": ("late",), "created": 0.0, "stream": "r"}
    )
    line = json.loads(JsonFormatter("fetcher-1").format(record))
    assert line == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "warning",
        "service": "fetcher-1",
        "logger": "x",
        "message": "it is late\nnow",
        "stream": "r",
    }
