from __future__ import annotations

import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from services.dashboard.history import History
from services.dashboard.runs import Run
from tests.dashboard.pretend import event


def run(start: float, genre: str | None = "jazz", stream: str = "a", seconds: float = 10) -> Run:
    return Run(stream, start, start + seconds, genre, 0.8, "Title", "Artist")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.db"


def test_what_is_written_is_found_again_after_a_restart(path: Path) -> None:
    first = History(path, 30, 10)
    first.write([run(100), run(110, "rock"), run(100, "pop", "b")], [(105.0, event("a", "gap", seconds=2.0))])
    first.close()
    again = History(path, 30, 10)
    assert [(r.stream, r.genre) for r in again.runs(0, 1000)] == [("a", "jazz"), ("a", "rock"), ("b", "pop")]
    assert again.events(10)[0]["kind"] == "gap"
    assert again.problem == again.set_aside == ""


def test_an_open_run_that_grew_replaces_itself(path: Path) -> None:
    history = History(path, 30, 10)
    history.write([run(100, seconds=3)], [])
    history.write([run(100, seconds=30)], [])
    assert [r.end for r in history.runs(0, 1000)] == [130]


def test_shares_add_up_to_what_was_heard(path: Path) -> None:
    history = History(path, 30, 10)
    history.write([run(10), run(20, "rock"), run(3700), run(3710, None)], [])
    shares = history.shares(0, 7200, 3600)
    assert {(share.slice, share.genre, share.seconds) for share in shares} == {
        (0, "jazz", 10), (0, "rock", 10), (1, "jazz", 10), (1, None, 10)}  # fmt: skip
    assert history.shares(0, 7200, 3600, "nobody") == []


def test_what_is_older_than_the_setting_goes(path: Path) -> None:
    history = History(path, 1, 10)
    history.write([run(0), run(200_000)], [(0.0, event("a", "ended")), (200_000.0, event("a", "started"))])
    history.prune(200_100)
    assert [r.start for r in history.runs(0, 1e6)] == [200_000]
    assert [e["kind"] for e in history.events(10)] == ["started"]


@pytest.mark.parametrize("damage", ["garbage", "other-program", "truncated", "middle"])
def test_a_broken_file_is_set_aside_and_said(path: Path, damage: str) -> None:
    history = History(path, 30, 10)
    history.write([run(i * 10.0) for i in range(5000)], [])
    history.close()
    if damage == "garbage":
        path.write_bytes(b"this is no database" * 1000)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:70_000])
    elif damage == "middle":
        whole = bytearray(path.read_bytes())
        whole[4096:120_000] = b"\xa5" * (120_000 - 4096)
        path.write_bytes(whole)
    else:
        path.unlink()
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE runs (something TEXT)")
        other.commit()
        other.close()
    again = History(path, 30, 10)
    again.write([run(5)], [])
    if damage == "other-program":
        assert again.problem or again.set_aside
    else:
        assert "set aside" in again.set_aside
        assert [r.start for r in again.runs(0, 1e6)] == [5]
        assert list(path.parent.glob("history.broken-*.db"))


def test_a_file_that_breaks_while_open_is_set_aside_too(path: Path) -> None:
    history = History(path, 30, 100)
    history.write([run(i * 10.0) for i in range(80_000)], [])
    history.close()
    history = History(path, 30, 100)  # its cache holds a part of the file only
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    history.runs(0, 1e9)
    assert "set aside" in history.set_aside
    history.write([run(1e6)], [])
    assert [r.start for r in history.runs(0, 1e9)] == [1e6]


def test_the_size_limit_costs_the_oldest_not_the_newest(path: Path) -> None:
    history = History(path, 3650, 1)
    for batch in range(40):
        history.write([run((batch * 500 + i) * 10.0) for i in range(500)], [])
    assert path.stat().st_size <= 1_100_000
    starts = [r.start for r in history.runs(0, 1e9)]
    assert starts[-1] == (40 * 500 - 1) * 10.0
    assert starts[0] > 0
    assert history.problem == ""


def test_a_full_disk_is_said_and_survived(path: Path) -> None:
    # A limit on the size of files stands for the full disk: SQLite gets the same refusal from the system.
    code = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from services.dashboard.history import History
from services.dashboard.runs import Run
history = History(Path({str(path)!r}), 30, 500)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for i in range(3):
    history.write([Run("a", i * 1e5 + k, i * 1e5 + k + 1, "jazz", 0.5, "t" * 50, "") for k in range(3000)], [])
assert history.problem, "it was not noticed"
print(history.problem)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
history._retry_at = 0
history.write([Run("a", 9e9, 9e9 + 1, "rock", 0.5, "", "")], [])
assert history.problem == "", history.problem
assert history.runs(8e9, 1e10), "it did not recover"
"""
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "not being kept" in done.stdout


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    history = History(blocked / "history.db", 30, 10)
    history.write([run(1)], [])
    assert "not being kept" in history.problem
    assert history.runs(0, 10) == []


def test_the_latest_events_come_back_oldest_first_and_what_is_none_is_left_out(path: Path) -> None:
    history = History(path, 30, 10)
    history.write([], [(100.0 + i, event("a", "gap", seconds=float(i))) for i in range(5)])
    history.write([], [(200.0, event("a", "gap").model_copy(update={"kind": "of another version"}))])
    assert [(at, found.seconds) for at, found in history.latest(3)] == [(103.0, 3.0), (104.0, 4.0)]
