from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

from services.contract.topics import Topics
from services.mqtt.client import MqttClient
from services.settings.schema import Broker
from tests.broker.mosquitto import free_port, wait_for
from tests.dashboard.pretend import event, result, sent


def watching(broker: Broker, *args: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "services.cli", "watch", "--broker", f"127.0.0.1:{broker.port}", *args]
    env = {"GENRE_BROKER__ROOT": broker.root, "PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def feed(mqtt: MqttClient, *things: object) -> None:
    for message in sent(Topics(mqtt.broker.root), *things):  # type: ignore[arg-type]
        wait_for(lambda message=message: mqtt.publish_and_wait(message, 5).code == 0, "somebody watches")


def test_in_a_pipe_it_prints_a_line_a_result_and_no_control_characters(
    broker: Broker, buses: Callable[..., MqttClient]
) -> None:
    running = watching(broker, "--stream", "radio1")
    feed(buses(broker, "feed"), result("radio2"), result("radio1", title="a\x1b[2Jb\nc", artist="X"))
    assert running.stdout is not None
    line = running.stdout.readline()
    running.terminate()
    assert "radio1" in line and "jazz" in line and "80 %" in line and "\x1b" not in line


def test_json_lines_are_the_results_as_they_are_and_events(broker: Broker, buses: Callable[..., MqttClient]) -> None:
    running = watching(broker, "--json")
    feed(buses(broker, "feed"), result("radio1"), event("radio1", "gap", seconds=2.0))
    assert running.stdout is not None
    assert json.loads(running.stdout.readline())["stream"] == "radio1"
    assert json.loads(running.stdout.readline())["event"]["kind"] == "gap"
    running.terminate()


def test_it_ends_quietly_when_who_reads_is_gone(broker: Broker, buses: Callable[..., MqttClient]) -> None:
    """As in `genre watch | head -1`."""
    running = watching(broker)
    mqtt = buses(broker, "feed")
    feed(mqtt, result("radio1"))
    assert running.stdout is not None and running.stderr is not None
    running.stdout.readline()
    running.stdout.close()
    feed(mqtt, result("radio1", 1.5))
    assert running.wait(20) == 0 and running.stderr.read() == ""


def test_it_ends_after_the_time_given(broker: Broker) -> None:
    running = watching(broker, "--seconds", "0.5")
    assert running.wait(20) == 0


def test_a_broker_that_is_not_there_is_told_in_one_line() -> None:
    argv = [sys.executable, "-m", "services.cli", "watch", "--broker", f"127.0.0.1:{free_port()}", "--seconds", "1"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=40)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "refused: nobody listens there" in done.stderr and "mosquitto" in done.stderr


def test_a_stream_that_gives_nothing_for_half_a_minute_is_said_to_have_stopped() -> None:
    from rich.console import Console

    from services.monitor.observer import Observer
    from services.monitor.table import STOPPED_S, table

    def shown() -> str:
        console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
        console.print(table(observer, "title"))
        return console.export_text()

    observer = Observer(MqttClient(Broker(), "stopped"))
    observer._result(result("radio1").to_json())
    assert "listening" in shown()
    observer.streams["radio1"].heard_at -= STOPPED_S + 15
    assert "no result 45 s" in shown()
    observer._result(result("radio1", 1.5).to_json())
    assert "listening" in shown()


def test_the_table_shows_hostile_text_as_text() -> None:
    from rich.console import Console

    from services.contract.messages import Status
    from services.monitor.observer import Observer
    from services.monitor.table import table
    from tests.dashboard.pretend import status

    observer = Observer(MqttClient(Broker(), "table"))
    bad = "[/red]\x1b[2J[link=x]"
    observer._result(result("radio1", genre=bad, title=bad, artist=bad, scores={bad: 1.0}).to_json())
    observer._event(event("radio1", "error", reason=bad).to_json())
    observer._status(status("inference", instance=bad).to_json())
    assert isinstance(next(iter(observer.status.values())), Status)
    console = Console(width=300, record=True, force_terminal=False, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table(observer, f"title {bad}", f"note {bad}\nCtrl-C"))
    text = console.export_text()
    assert "\x1b" not in text and "[/red]" in text
