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

from services.supervisor import log_files, processes
from services.supervisor.processes import Child, ProcessGroup
from services.supervisor.watchdog import Watchdog
from tests.broker.mosquitto import wait_for

SLEEPER = "import time; time.sleep(600)"


@pytest.fixture
def group() -> Iterator[ProcessGroup]:
    children = ProcessGroup()
    yield children
    children.end()


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., Child]:
    def make(program: str, name: str = "child", **options: object) -> Child:
        return Child(name, [sys.executable, "-c", program], tmp_path / f"{name}.log", **options)  # type: ignore[arg-type]

    return make


def test_a_killed_child_comes_back_and_its_pause_doubles(
    group: ProcessGroup, child: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "BACKOFF_MIN_S", 0.05)
    one = child(SLEEPER, _pause=0.05)
    group.add(one)
    pids = {one.process.pid}  # type: ignore[union-attr]
    for _ in range(3):
        one.signal(signal.SIGKILL)
        wait_for(lambda: not one.alive, "its end")
        wait_for(lambda: group.supervise() or one.alive, "its return")
        pids.add(one.process.pid)  # type: ignore[union-attr]
    assert len(pids) == 4 and group.restarts == 3 and one._pause == pytest.approx(0.4)


def test_a_child_that_ignores_sigterm_is_killed(group: ProcessGroup, child: Callable[..., Child]) -> None:
    stubborn = child(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
        stop_s=0.3,
    )
    group.add(stubborn)
    wait_for(lambda: stubborn.last_words() == "up", "its start")
    group.end()
    assert not stubborn.alive


def test_a_stopped_child_ends_too(group: ProcessGroup, child: Callable[..., Child]) -> None:
    one = group.add(child(SLEEPER))
    one.signal(signal.SIGSTOP)
    group.end()
    assert not one.alive


def test_grandchildren_end_with_their_parent(group: ProcessGroup, child: Callable[..., Child], tmp_path: Path) -> None:
    parent = child(
        f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]);"
        "print(p.pid, flush=True); time.sleep(600)"
    )
    group.add(parent)
    grandchild = psutil.Process(int(wait_for(parent.last_words, "its child")))
    group.end()
    wait_for(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE, "the grandchild's end")


def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from services.supervisor.processes import Child, ProcessGroup
child = ProcessGroup().add(Child("c", [sys.executable, "-c", {SLEEPER!r}], Path({str(tmp_path / "log")!r})))
print(child.process.pid, flush=True)
time.sleep(600)
"""
    supervisor = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    orphan = psutil.Process(int(supervisor.stdout.readline()))
    supervisor.kill()
    supervisor.wait(30)
    wait_for(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, "the child's end")


def test_a_program_that_is_not_there_is_an_error_that_names_it(group: ProcessGroup, tmp_path: Path) -> None:
    with pytest.raises(processes.GenreError, match=r"/no/such/program.*can't be started"):
        group.add(Child("c", ["/no/such/program"], tmp_path / "log"))


def test_ctrl_c_while_a_child_is_started_leaves_no_orphan(
    group: ProcessGroup, child: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.Popen

    def interrupted(*args: object, **options: object) -> object:
        made = real(*args, **options)  # type: ignore[call-overload]
        os.kill(os.getpid(), signal.SIGINT)  # comes after the fork and before the record of it
        return made

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    one = child(SLEEPER)
    with pytest.raises(KeyboardInterrupt):
        group.add(one)
    assert one.alive, "it was recorded before the interrupt got through"
    group.end()
    assert not one.alive


BEATING = """
import sys, time
sys.path.insert(0, {root!r})
from services.process import systemd_notify as systemd
systemd.notify("READY=1")
print("ready", flush=True)
while True:
    time.sleep(systemd.watchdog_interval_s())
    systemd.notify("WATCHDOG=1")
"""
ROOT = str(Path(__file__).resolve().parents[2])


def test_a_child_that_is_stopped_is_killed_by_the_watchdog_and_comes_back(
    group: ProcessGroup, child: Callable[..., Child]
) -> None:
    one = group.add(child(BEATING.format(root=ROOT), watchdog_s=3.0, _pause=0.05))
    wait_for(lambda: one.last_words() == "ready", "its start")
    healthy_until = time.monotonic() + 4.0
    wait_for(lambda: group.supervise() or time.monotonic() > healthy_until, "some beats")
    assert one.hangs == 0 and one.restarts == 0
    one.signal(signal.SIGSTOP)
    wait_for(lambda: group.supervise() or one.hangs == 1, "the watchdog")
    wait_for(lambda: group.supervise() or (one.restarts == 1 and one.alive), "its return")


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
    group: ProcessGroup, child: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ASK_EVERY_S", 0.02)
    deaf = group.add(child(SLEEPER, "deaf", answers=lambda: False, answer_s=0.3, _pause=0.05))
    well = group.add(child(SLEEPER, "well", answers=lambda: True, answer_s=0.3))
    wait_for(
        lambda: group.supervise() or (deaf.hangs >= 1 and deaf.restarts >= 1), "the deaf one is killed and comes back"
    )
    assert well.hangs == 0 and well.restarts == 0


def test_children_inherit_nothing_that_systemd_told_the_supervisor_alone(
    group: ProcessGroup, child: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its WATCHDOG_PID a child takes its own watchdog for another's, and gives no sign of life."""
    told = {"NOTIFY_SOCKET": "/run/nobody", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1", "LISTEN_FDS": "3"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    plain = group.add(child(SLEEPER, "plain"))
    given = group.add(child(SLEEPER, "given", env={**os.environ, "OWN": "1"}))
    watched = group.add(child(SLEEPER, "watched", watchdog_s=30.0))
    for one in (plain, given, watched):
        assert one.process is not None
        environment = psutil.Process(one.process.pid).environ()
        assert set(environment) & set(told) == ({"NOTIFY_SOCKET", "WATCHDOG_USEC"} if one is watched else set())
        assert environment.get("NOTIFY_SOCKET", "@").startswith("@")


def test_the_log_of_a_talkative_child_stays_bounded_and_what_came_before_is_kept_once(
    group: ProcessGroup, child: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "MOST_BYTES", 100_000)
    monkeypatch.setattr(processes, "BOUND_EVERY_S", 0.0)
    talker = group.add(child("import time\nwhile True: print('x' * 999, flush=True); time.sleep(0.002)"))
    before = talker.log_file.with_name("child.log.1")
    for _ in range(2):
        before.unlink(missing_ok=True)
        wait_for(lambda: group.supervise() or before.exists(), "the log is moved")
        assert set(before.read_text()) == {"x", "\n"}
    assert talker.alive and talker.log_file.stat().st_size < 1_000_000


def test_a_log_is_emptied_where_there_is_no_room_for_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_files.shutil, "copyfile", full)
    log = tmp_path / "a.log"
    log.write_text("x" * 20)
    assert log_files.bound(log, 10)
    assert log.stat().st_size == 0 and list(tmp_path.iterdir()) == [log]
    assert not log_files.bound(log, 10) and not log_files.bound(tmp_path / "none.log", 10)
