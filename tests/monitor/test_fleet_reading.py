"""`genre watch --fleet` and a dashboard with dashboard.fleet, reading what boxes have upstream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.contract.messages import Message
from services.errors import UsageError
from services.monitor import fleet
from services.monitor.fleet import Fleet
from services.monitor.watch_fleet import SHOWN, table
from services.mqtt.client import MqttClient
from services.settings.schema import Broker
from tests.broker.mosquitto import free_port, wait_for
from tests.dashboard.conftest import Running, dashboards
from tests.dashboard.pretend import event, ledger, result, sent, status

Buses = Callable[..., MqttClient]


def test_boxes_are_looked_at_while_messages_come_in() -> None:
    seen = Fleet("genre")
    takers = seen.takers
    topics = fleet.topics("genre", "edge-7")
    stop, problems = threading.Event(), list[Exception]()

    def look() -> None:
        while not stop.is_set():
            try:
                for box in seen.boxes():
                    assert box.problem(30) is not None and box.online >= 0
            except Exception as error:
                problems.append(error)
                return

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        for turn in range(3_000):
            for part in range(4):
                message = sent(topics, status("featurizer", instance=f"{turn % 40}-{part}"))[0]
                takers["fleet/+/genre/status/+/+"](message)
                takers["fleet/+/genre/status/+/+"](Message(message.topic))
            takers["fleet/+/genre/results"](sent(topics, result(f"radio{turn % 60}", turn * 1.5))[0])
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)
    assert problems == []
    assert len(seen.boxes()[0].streams) == 60


def feed(mqtt: MqttClient, box: str, *things: object) -> None:
    """Publish as the bridge of a box would, once somebody reads."""
    for message in sent(fleet.topics(mqtt.broker.root, box), *things):  # type: ignore[arg-type]
        wait_for(lambda message=message: mqtt.publish_and_wait(message, 5).code == 0, "somebody reads")


def watching(broker: Broker, *words: str) -> subprocess.Popen[str]:
    at = f"127.0.0.1:{broker.port}"
    argv = [sys.executable, "-m", "services.cli", "watch", "--fleet", "--broker", at, *words]
    env = {"GENRE_BROKER__ROOT": broker.root, "PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def test_watch_prints_a_line_a_result_with_the_boxs_name(broker: Broker, buses: Buses) -> None:
    running, mqtt = watching(broker, "--stream", "edge-2"), buses(broker, "feed")
    feed(mqtt, "edge-1", result("radio1"))
    mqtt.publish(Message(f"fleet/edge-2/{broker.root}/results", b"{not json"))
    feed(mqtt, "edge-2", result("radio1", title="a\x1b[2Jb"))
    assert running.stdout is not None
    line = running.stdout.readline()
    running.terminate()
    assert "edge-2/radio1" in line and "jazz" in line and "\x1b" not in line


def test_watch_gives_json_lines_that_name_the_box(broker: Broker, buses: Buses) -> None:
    running, mqtt = watching(broker, "--json"), buses(broker, "feed")
    feed(mqtt, "edge-1", result("radio1"), event("radio1", "gap", seconds=2.0))
    assert running.stdout is not None
    first, second = json.loads(running.stdout.readline()), json.loads(running.stdout.readline())
    running.terminate()
    assert (first["box"], first["stream"], first["genre"]) == ("edge-1", "radio1", "jazz")
    assert (second["box"], second["event"]["kind"]) == ("edge-1", "gap")


def test_a_broker_that_is_not_there_is_one_line() -> None:
    argv = [sys.executable, "-m", "services.cli", "watch", "--fleet", "--broker", f"127.0.0.1:{free_port()}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=40, env=dict(os.environ))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "refused: nobody listens there" in done.stderr


def test_the_table_shows_boxes_with_a_problem_first_and_says_how_many_it_leaves_out() -> None:
    from rich.console import Console

    seen = Fleet("genre")
    for number in range(SHOWN + 5):
        seen.takers["fleet/+/genre/results"](
            Message(f"fleet/edge-{number:03}/genre/results", result("radio1", title="[red]").to_json())
        )
    seen.takers[fleet.link()](Message("fleet/edge-044/link", b"0"))
    console = Console(width=200, record=True, force_terminal=False, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table(seen.boxes(), "title [/red]"))
    text = console.export_text()
    rows = [line for line in text.splitlines() if "edge-" in line]
    assert "edge-044" in rows[0] and "uplink is down" in rows[0] and "edge-000" in rows[1]
    assert f"{SHOWN + 5} boxes, 1 with a problem; 5 more are not shown" in text


@pytest.fixture
def started(tmp_path: Path, buses: Buses) -> Iterator[Callable[..., Running]]:
    with dashboards(tmp_path, buses) as start:
        yield start


def test_a_dashboard_shows_every_box_and_says_which_uplink_is_down(
    broker: Broker, started: Callable[..., Running], buses: Buses
) -> None:
    page, mqtt = started(broker, fleet=True, stopped_after_s=30), buses(broker, "feed")
    for box in ("edge-1", "edge-2"):
        feed(mqtt, box, result("radio1"), ledger("radio1", 30.0), status("fetcher"), status("inference"))
        mqtt.publish(Message(fleet.link(box), b"1", retain=True))

    wait_for(lambda: set(page.live_state()["states"]) == {"edge-1/radio1", "edge-2/radio1"}, "both boxes' streams")
    wait_for(lambda: not page.live_state()["alarms"], "no alarm")
    mqtt.publish(Message(fleet.link("edge-2"), b"0", retain=True))
    alarms = wait_for(lambda: page.live_state()["alarms"], "the alarm")
    assert len(alarms) == 1 and alarms[0]["text"].startswith("Box edge-2: its uplink is down")
    metrics = page.get("/metrics").text
    assert 'genre_box_up{box="edge-1"} 1.0' in metrics and 'genre_box_up{box="edge-2"} 0.0' in metrics
    mqtt.publish(Message(fleet.link("edge-2"), b"", retain=True))


def test_a_fleets_dashboard_that_should_write_is_refused(tmp_path: Path) -> None:
    from services.dashboard.service import dashboard

    config = tmp_path / "genre.toml"
    config.write_text("[dashboard]\nfleet = true\nhome_assistant = true\n")
    done = CliRunner().invoke(dashboard, ["--config", str(config)])
    assert isinstance(done.exception, UsageError) and "dashboard.fleet: shows a fleet and writes nothing" in str(
        done.exception
    )
