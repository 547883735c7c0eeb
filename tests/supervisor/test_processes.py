"""Children: restarted with back-off, killed where they hang, gone at the end and when the supervisor is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from services.supervisor import processes
from services.supervisor.processes import Child, Household
from services.supervisor.watchdog import Watchdog
from tests.broker.mosquitto import wait_for

SLEEPER = "import time; time.sleep(600)"


@pytest.fixture
def house() -> Iterator[Household]:
    household = Household()
    yield household
    household.end()


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., Child]:
    def make(program: str, name: str = "child", **options: object) -> Child:
        return Child(name, [sys.executable, "-c", program], tmp_path / f"{name}.log", **options)  # type: ignore[arg-type]

    return make


def test_a_killed_child_comes_back_and_its_pause_doubles(
    house: Household, child: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "BACKOFF_MIN_S", 0.05)
    one = child(SLEEPER, _pause=0.05)
    house.add(one)
    pids = {one.process.pid}  # type: ignore[union-attr]
    for _ in range(3):
        one.signal(signal.SIGKILL)
        wait_for(lambda: not one.alive, "its end")
        wait_for(lambda: house.keep() or one.alive, "its return")
        pids.add(one.process.pid)  # type: ignore[union-attr]
    assert len(pids) == 4 and house.restarts == 3 and one._pause == pytest.approx(0.4)


def test_a_child_that_ignores_sigterm_is_killed(house: Household, child: Callable[..., Child]) -> None:
    stubborn = child(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
        stop_s=0.3,
    )
    house.add(stubborn)
    wait_for(lambda: stubborn.last_words() == "up", "its start")
    began = time.monotonic()
    house.end()
    assert not stubborn.alive and time.monotonic() - began < 5


def test_a_stopped_child_ends_too(house: Household, child: Callable[..., Child]) -> None:
    one = house.add(child(SLEEPER))
    one.signal(signal.SIGSTOP)
    house.end()
    assert not one.alive


def test_grandchildren_end_with_their_parent(house: Household, child: Callable[..., Child], tmp_path: Path) -> None:
    parent = child(
        f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]);"
        "print(p.pid, flush=True); time.sleep(600)"
    )
    house.add(parent)
    grandchild = psutil.Process(int(wait_for(parent.last_words, "its child")))
    house.end()
    wait_for(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE, "the grandchild's end")


def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from services.supervisor.processes import Child, Household
child = Household().add(Child("c", [sys.executable, "-c", {SLEEPER!r}], Path({str(tmp_path / "log")!r})))
print(child.process.pid, flush=True)
time.sleep(600)
"""
    supervisor = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    orphan = psutil.Process(int(supervisor.stdout.readline()))
    supervisor.kill()
    supervisor.wait(10)
    wait_for(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, "the child's end")


def test_a_program_that_is_not_there_is_an_error_that_names_it(house: Household, tmp_path: Path) -> None:
    with pytest.raises(processes.GenreError, match=r"/no/such/program.*can't be started"):
        house.add(Child("c", ["/no/such/program"], tmp_path / "log"))


def test_ctrl_c_while_a_child_is_started_leaves_no_orphan(
    house: Household, child: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.Popen

    def interrupted(*args: object, **options: object) -> object:
        made = real(*args, **options)  # type: ignore[call-overload]
        os.kill(os.getpid(), signal.SIGINT)  # comes after the fork and before the record of it
        return made

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    one = child(SLEEPER)
    with pytest.raises(KeyboardInterrupt):
        house.add(one)
    assert one.alive, "it was recorded before the interrupt got through"
    house.end()
    assert not one.alive


BEATING = """
import sys, time
sys.path.insert(0, {root!r})
from services import systemd
systemd.notify("READY=1")
print("ready", flush=True)
while True:
    time.sleep(systemd.watchdog_interval_s())
    systemd.notify("WATCHDOG=1")
"""
ROOT = str(Path(__file__).resolve().parents[2])


def test_a_child_that_is_stopped_is_killed_by_the_watchdog_and_comes_back(
    house: Household, child: Callable[..., Child]
) -> None:
    one = house.add(child(BEATING.format(root=ROOT), watchdog_s=1.0, _pause=0.05))
    wait_for(lambda: one.last_words() == "ready", "its start")
    healthy_until = time.monotonic() + 2.5
    wait_for(lambda: house.keep() or time.monotonic() > healthy_until, "some beats")
    assert one.hangs == 0 and one.restarts == 0
    one.signal(signal.SIGSTOP)
    wait_for(lambda: house.keep() or one.hangs == 1, "the watchdog")
    wait_for(lambda: house.keep() or (one.restarts == 1 and one.alive), "its return")


def test_a_child_that_never_was_ready_is_given_its_time() -> None:
    watchdog = Watchdog(0.05)
    until = time.monotonic() + 0.2
    wait_for(lambda: watchdog.hangs() or time.monotonic() > until, "time goes by")
    assert not watchdog.hangs()
    watchdog.close()


def test_a_suspended_supervisor_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    watchdog = Watchdog(30.0)
    watchdog._beat = watchdog._looked = time.monotonic()
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 3600)
    assert not watchdog.hangs()
    watchdog.close()


def test_a_child_that_does_not_answer_is_killed_and_one_that_does_is_left_alone(
    house: Household, child: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ASK_EVERY_S", 0.02)
    deaf = house.add(child(SLEEPER, "deaf", answers=lambda: False, answer_s=0.3, _pause=0.05))
    well = house.add(child(SLEEPER, "well", answers=lambda: True, answer_s=0.3))
    wait_for(lambda: house.keep() or (deaf.hangs >= 1 and deaf.restarts >= 1), "the deaf one is killed and comes back")
    assert well.hangs == 0 and well.restarts == 0
