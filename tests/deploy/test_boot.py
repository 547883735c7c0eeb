"""A life on a real systemd: installed offline, streaming, killed, hung, scaled, upgraded, rebooted, purged.

One machine lives through the tests in the order of this file. Origin and subscriber are outside it, behind a cable.
"""

from __future__ import annotations

import itertools
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest

from services.errors import GenreError
from services.origin.packager import Packaging, package_folder
from services.origin.server import Origin
from services.supervisor import triton_server
from tests.demo_recordings import recordings
from tests.deploy import installed_triton
from tests.deploy.conftest import needs
from tests.deploy.nspawn import Machine, base_system, booted, wait_for

pytestmark = pytest.mark.timeout(600)

UNITS = ("genre-fetcher", "genre-featurizer@1", "genre-inference@1", "genre-dashboard", "mosquitto")
HOP = 33_000


@pytest.fixture(scope="module")
def machine(scratch: Path) -> Iterator[Machine]:
    needs("systemd-nspawn", "debootstrap", "nsenter")
    yield from booted(base_system(scratch), scratch / "machine")


@pytest.fixture(scope="module")
def origin(machine: Machine, scratch: Path) -> Iterator[Origin]:
    music = scratch / "music"
    recordings(music, "jazz", "metal")
    package_folder(music, music / "hls", Packaging(coder="fast"))
    with Origin(music / "hls", host=machine.host) as served:
        yield served


class Wall:
    """A viewer on another machine: every result it ever saw, and the latest ledger."""

    def __init__(self, machine: Machine) -> None:
        broker = machine.root / "etc/genre-edge/broker"
        self.results: dict[str, dict[str, object]] = {}
        self.ledgers: dict[str, dict[str, int]] = {}
        self.events: list[dict[str, object]] = []
        self._lock = threading.Lock()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "wall", protocol=mqtt.MQTTv5)
        self.client.username_pw_set("wall", (broker / "passwords/wall").read_text().strip())
        self.client.tls_set(ca_certs=str(broker / "ca.crt"), tls_version=ssl.PROTOCOL_TLS_CLIENT)
        self.client.on_connect = lambda client, *rest: client.subscribe(
            [("genre/results", 1), ("genre/streams/+/ledger", 1), ("genre/events", 1)]
        )
        self.client.on_message = self._message
        self.client.reconnect_delay_set(1, 1)
        self.client.connect_async(machine.address, 8883, clean_start=False)
        self.client.loop_start()

    def _message(self, client: object, userdata: object, message: mqtt.MQTTMessage) -> None:
        value = json.loads(message.payload)
        with self._lock:
            if message.topic == "genre/results":
                self.results[value["id"]] = value
            elif message.topic == "genre/events":
                self.events.append(value)
            else:
                self.ledgers[value["stream"]] = value

    def count(self, stream: str) -> int:
        with self._lock:
            return sum(result["stream"] == stream for result in self.results.values())

    def more(self, stream: str, windows: int = 5, timeout_s: float = 90) -> None:
        """Wait for that many more results."""
        before = self.count(stream)
        wait_for(lambda: self.count(stream) >= before + windows, f"{windows} more results of {stream}", timeout_s)

    def holes(self, stream: str) -> list[tuple[int, int]]:
        """Return the places where the windows of an epoch are further apart than the hop."""
        epochs: dict[str, list[int]] = {}
        with self._lock:
            for name, result in self.results.items():
                timeline, epoch, first, _ = name.rsplit("/", 3)
                if result["stream"] == stream:
                    epochs.setdefault(f"{timeline}/{epoch}", []).append(int(first))
        assert epochs, f"no result of {stream}, so nothing is told of holes"
        found = []
        for starts in epochs.values():
            starts.sort()
            found += [(a, b) for a, b in itertools.pairwise(starts) if b - a > HOP]
        return found


@pytest.fixture(scope="module")
def wall(machine: Machine) -> Iterator[Wall]:
    viewer = Wall(machine)
    yield viewer
    viewer.client.disconnect()
    viewer.client.loop_stop()


def all_active(machine: Machine) -> bool:
    done = machine.run(f"systemctl is-active {' '.join(UNITS)}", check=False)
    return done.stdout.split() == ["active"] * len(UNITS)


def test_the_package_installs_offline_and_everything_starts(machine: Machine, packages: list[Path]) -> None:
    for package in packages:
        (machine.root / "root" / package.name).write_bytes(package.read_bytes())
    machine.run(f"dpkg -i /root/{packages[0].name}")
    wait_for(lambda: all_active(machine), "all services active")
    assert machine.run("genre --version").stdout.startswith("genre, version")
    assert machine.run("systemctl is-enabled genre.target").stdout.strip() == "enabled"
    assert machine.run("genre check-config", check=False).returncode == 0


def test_the_broker_opens_to_the_network_with_passwords(machine: Machine) -> None:
    machine.run(f"genre broker init --host {machine.address} && genre broker user wall --role viewer")
    machine.run("genre broker apply")
    wait_for(lambda: all_active(machine), "all services active")
    assert "1883" not in machine.run("ss -ltn").stdout


def test_a_stream_reaches_a_subscriber_outside(machine: Machine, origin: Origin, wall: Wall) -> None:
    config = machine.root / "etc/genre-edge/genre.toml"
    config.write_text(config.read_text() + f'\n[[streams]]\nname = "radio1"\nurl = "{origin.url}/live/radio.m3u8"\n')
    wall.more("radio1", 8)


@pytest.mark.parametrize("unit", UNITS)
def test_a_killed_service_returns_and_nothing_is_lost(unit: str, machine: Machine, wall: Wall) -> None:
    before = machine.show(unit, "MainPID")
    machine.run(f"kill -9 {before}")
    wait_for(lambda: machine.show(unit, "MainPID") not in (before, "0") and all_active(machine), f"{unit} to return")
    wall.more("radio1", 4)


@pytest.mark.parametrize("unit", ["genre-fetcher", "genre-featurizer@1"])
def test_a_hung_service_is_ended_by_the_watchdog_and_returns(unit: str, machine: Machine, wall: Wall) -> None:
    before = machine.show(unit, "MainPID")
    machine.run(f"kill -STOP {before}")
    wait_for(
        lambda: machine.show(unit, "MainPID") not in (before, "0") and all_active(machine), f"{unit} to return", 90
    )
    assert "watchdog" in machine.run(f"journalctl -u {unit} --no-pager").stdout.lower()
    wall.more("radio1", 4)


def test_a_triton_that_hangs_is_ended_by_the_watchdog_and_answers_again(machine: Machine, wall: Wall) -> None:
    try:
        bundle = triton_server.find()
    except GenreError as error:
        pytest.skip(str(error))
    installed_triton.install(machine, bundle)
    started = machine.run("systemctl daemon-reload && systemctl start genre-triton", check=False)
    assert started.returncode == 0, machine.run("journalctl -u genre-triton -n 80").stdout
    assert "good" in installed_triton.check(machine)
    server = machine.run("pidof tritonserver").stdout.strip()
    machine.run(f"kill -STOP {server}")
    wait_for(lambda: machine.run("pidof tritonserver", check=False).stdout.strip() not in (server, ""), "another", 120)
    wait_for(lambda: machine.show("genre-triton", "ActiveState") == "active", "genre-triton to be ready", 60)
    assert "watchdog" in machine.run("journalctl -u genre-triton --no-pager").stdout.lower()
    assert "good" in installed_triton.check(machine)
    machine.run("systemctl stop genre-triton")
    wall.more("radio1", 4)


def test_scaling_up_and_down_while_it_plays(machine: Machine, wall: Wall) -> None:
    assert "featurizer: 3 running" in machine.run("genre scale featurizer=3").stdout
    wall.more("radio1", 6)
    assert "featurizer: 1 running" in machine.run("genre scale featurizer=1").stdout
    assert "inference: 1 running" in machine.run("genre scale").stdout
    wall.more("radio1", 4)


def test_no_secret_is_in_argv_environment_or_journal(machine: Machine) -> None:
    passwords = [path.read_text().strip() for path in (machine.root / "etc/genre-edge/broker/passwords").iterdir()]
    seen = machine.run("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'", check=False).stdout
    journal = machine.run("journalctl --no-pager -o export | strings || journalctl --no-pager", check=False).stdout
    assert "GENRE_BROKER__PASSWORD_FILE" in seen
    for password in passwords:
        assert password not in seen
        assert password not in journal


def test_a_service_cannot_read_what_is_anothers(machine: Machine) -> None:
    pid = machine.show("genre-featurizer@1", "MainPID")
    inside = f"nsenter -t {pid} -m setpriv --reuid genre-featurizer --regid genre-featurizer --clear-groups"
    for look in (
        "cat /etc/genre-edge/broker/passwords/inference",
        "cat /etc/genre-edge/broker/ca.key",
        "ls /var/lib/genre-edge/fetcher",
    ):
        assert "Permission denied" in machine.run(f"{inside} {look}", check=False).stderr
    assert machine.run(f"{inside} cat /etc/genre-edge/broker/passwords/featurizer", check=False).returncode == 0
    assert machine.run(f"{inside} touch /usr/lib/genre-edge/x", check=False).returncode != 0


def test_an_upgrade_keeps_configuration_and_state(machine: Machine, packages: list[Path], wall: Wall) -> None:
    config = (machine.root / "etc/genre-edge/genre.toml").read_text()
    machine.run(f"dpkg -i /root/{packages[1].name}")
    wait_for(lambda: all_active(machine), "all services active")
    assert (machine.root / "etc/genre-edge/genre.toml").read_text() == config
    assert "0.1.1" in machine.run("dpkg -s genre-edge").stdout
    wall.more("radio1", 4)


def test_after_a_reboot_it_goes_on_where_it_was(machine: Machine, wall: Wall) -> None:
    machine.shut_down()
    machine.boot()
    wait_for(lambda: all_active(machine), "all services active")
    wall.more("radio1", 8)


def test_through_all_of_this_no_window_is_missing(wall: Wall) -> None:
    wall.more("radio1", 4)
    ledger = wall.ledgers["radio1"]
    assert ledger["timeline"] == ledger["classified"] + ledger["gap"] + ledger["lost"] + ledger["short"]
    told = [event for event in wall.events if event["kind"] != "track"]
    assert (ledger["lost"], ledger["gap"]) == (0, 0), f"{ledger}\n{told}"
    assert wall.holes("radio1") == []


def test_purge_removes_all_of_it(machine: Machine) -> None:
    machine.run("dpkg -P genre-edge")
    left = machine.run(
        "ls -d /etc/genre-edge /var/lib/genre-edge /usr/lib/genre-edge /run/genre-broker /usr/bin/genre"
        " /etc/systemd/system/genre* /lib/systemd/system/genre* 2>/dev/null",
        check=False,
    ).stdout
    assert left == ""
    assert "genre-" not in machine.run("cat /etc/passwd").stdout
    # The brackets keep the shell that runs this from finding itself.
    assert machine.run("pgrep -af '[/]usr/lib/genre-edge'", check=False).stdout == ""
    wait_for(lambda: machine.run("systemctl is-active mosquitto", check=False).stdout.strip() == "active", "mosquitto")
