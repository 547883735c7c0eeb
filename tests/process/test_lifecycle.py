"""A service's life as others see it: online, draining, offline; beats that pass through the real loop; small rooms."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.contract.messages import Status, parse
from services.contract.topics import Topics
from services.errors import GenreError, UsageError
from services.mqtt.client import MqttClient
from services.mqtt.receipts import Receipt
from services.mqtt.subscriptions import Delivery
from services.process import systemd_notify, turns
from services.process.lifecycle import ServiceProcess
from services.process.logs import JsonFormatter
from services.process.turns import Turns
from services.settings import credentials
from services.settings.schema import Broker
from tests.broker.mosquitto import Mosquitto, wait_for
from tests.chaos.streams import tiny_model

Buses = Callable[..., MqttClient]


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
    mqtt = buses(broker, "watch")

    def take(delivery: Delivery) -> None:
        mqtt.ack(delivery)
        seen.append(parse(Status, delivery.message.payload))

    mqtt.subscribe(Topics(broker.root).status("+", "+"), take)
    return seen


def test_status_goes_from_online_over_draining_to_offline(
    featurizer: Callable[..., subprocess.Popen[bytes]], states: list[Status]
) -> None:
    process = featurizer()
    wait_for(lambda: states, "online", 30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
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


def test_two_boxes_on_one_broker_with_default_settings_are_told_what_to_set(
    own_mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Mosquitto gives the session to and fro between them; one ends, and names the setting for two boxes."""
    both: list[subprocess.Popen[str]] = []
    try:
        for box in ("attic", "cellar"):
            state = tmp_path / box
            state.mkdir()
            env = {"GENRE_BROKER__PORT": str(own_mosquitto.port), "GENRE_PATHS__STATE_DIR": str(state)}
            env["GENRE_STREAMS"] = json.dumps([{"name": box, "url": "http://127.0.0.1:9/x.m3u8"}])
            argv = [sys.executable, "-m", "services.cli", "fetcher"]
            pipe = subprocess.PIPE
            both.append(subprocess.Popen(argv, env={**os.environ, **env}, stderr=pipe, text=True))
        wait_for(lambda: any(one.poll() is not None for one in both), "one of them ends", 60)
        ended = next(one for one in both if one.poll() is not None)
        assert ended.stderr is not None
        last = ended.stderr.read().splitlines()[-1]
        assert ended.returncode == 1 and "genre-fetcher-1" in last
        assert "each box on this broker its own broker.root" in last and "--instance" in last
    finally:
        for one in both:
            one.kill()
            one.communicate(timeout=30)


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
        assert process.wait(30) == 0


def test_a_turn_that_takes_long_holds_no_watchdog_beat_up(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is exchanged in up to 90 s; systemd would end a replica that says nothing for 30."""
    beats: list[str] = []
    monkeypatch.setattr(systemd_notify, "notify", beats.append)
    monkeypatch.setattr(turns, "EVERY_S", 0.01)
    monkeypatch.setenv("WATCHDOG_USEC", "60000")
    life = ServiceProcess("inference", "1", broker.root, broker)
    life.connect(durable=False).start()
    done = threading.Event()

    def turn() -> None:
        wait_for(lambda: beats.count("WATCHDOG=1") >= 5, "beats while the model is exchanged")
        done.set()
        life.stop.set()

    life.run(lambda: True, lambda: None, turn)
    assert done.is_set()


def test_a_turn_that_hangs_stops_the_beats_and_one_that_fails_ends_the_process(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "EVERY_S", 0.01)
    monkeypatch.setattr(turns, "STUCK_S", 0.05)
    stop, go = threading.Event(), threading.Event()

    def turn() -> None:
        go.wait(60)

    def broken() -> None:
        raise ZeroDivisionError

    hanging = Turns(turn, stop)
    hanging.start()
    wait_for(lambda: not hanging.healthy(), "the hang")
    go.set()
    wait_for(hanging.healthy, "its end")
    stop.set()
    life = ServiceProcess("inference", "1", broker.root, broker)
    mqtt = life.connect(durable=False)
    mqtt.start()
    with pytest.raises(ZeroDivisionError):
        life.run(lambda: True, lambda: None, broken)
    mqtt.stop()


@pytest.mark.parametrize("instance", ["", "a/b", "a+b", "#", "a b", "x" * 65, "a\n", "\0"])
def test_an_instance_that_is_no_level_of_a_topic_is_refused_at_the_start(broker: Broker, instance: str) -> None:
    with pytest.raises(UsageError, match="--instance"):
        ServiceProcess("fetcher", instance, broker.root, broker)


def test_a_status_never_stays_draining_where_the_broker_takes_the_last_one_too_late(
    broker: Broker, states: list[Status], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The PUBACK is late: the broker says offline itself, by the will."""
    monkeypatch.setattr(MqttClient, "publish_and_wait", lambda self, message, timeout_s: Receipt(-1, "no PUBACK"))
    life = ServiceProcess("inference", "1", broker.root, broker)
    life.connect(durable=True).start()
    wait_for(lambda: states, "online")
    life.stop.set()
    life.run(lambda: True, lambda: None)
    wait_for(lambda: states[-1].state == "offline", "the will")
    assert [status.state for status in states] == ["online", "draining", "offline"]


def test_a_status_that_waits_for_its_puback_is_not_sent_twice_at_a_reconnect() -> None:
    """A reconnect loop must not fill the queue with one status a round."""
    life = ServiceProcess("inference", "1", "genre", Broker(port=1))
    mqtt = life.connect(durable=True)
    for _ in range(100):
        life._announce()
    assert len(mqtt._client._out_messages) == 1


def test_a_watchdog_meant_for_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    assert systemd_notify.watchdog_interval_s() == 1.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert systemd_notify.watchdog_interval_s() is None
    monkeypatch.setenv("WATCHDOG_USEC", "soon")
    assert systemd_notify.watchdog_interval_s() is None


def test_without_systemd_or_with_a_broken_socket_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd_notify.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    systemd_notify.notify("READY=1")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "does not hold one password"), (b"a\nb\n", "one password"), (b"\xff\xfe", "UTF-8"), (b"x" * 5000, "one")],
)
def test_a_strange_password_file_is_refused_without_its_content(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(GenreError, match=reason) as caught:
        credentials.password(file, "broker.password_file")
    assert "broker.password_file" in str(caught.value) and "xxxx" not in str(caught.value)


def test_a_credential_of_systemd_wins_over_the_configured_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "etc" / "password").write_text("from etc\n")
    (tmp_path / "run" / "password").write_text("from systemd\n")
    assert credentials.password(tmp_path / "etc" / "password", "broker.password_file") == "from etc"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "run"))
    assert credentials.password(tmp_path / "etc" / "password", "broker.password_file") == "from systemd"
    assert credentials.password(None, "broker.password_file") is None
    with pytest.raises(GenreError, match="can't be read"):
        credentials.password(tmp_path / "nothing", "broker.password_file")


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
