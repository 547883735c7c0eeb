from __future__ import annotations

import itertools
import resource
import sqlite3
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from services.dashboard.history import store
from services.dashboard.history.reader import HistoryReader
from services.dashboard.history.store import DAY_S, History
from services.dashboard.history.tables import LOG_BYTES
from services.dashboard.http.timeline_query import drawn
from services.dashboard.state.genre_segments import GenreSegment, moved
from tests.dashboard.pretend import event


def run(
    start: float, genre: str | None = "jazz", stream: str = "a", seconds: float = 10, clock: float | None = None
) -> GenreSegment:
    return GenreSegment(stream, start, start + seconds, genre, 0.8, "Title", "Artist", clock=clock)


def found(history: History, begin: float = 0.0, end: float = 1e12) -> list[GenreSegment]:
    return history.read(lambda reader: list(reader.segments(begin, end)), [])


def events(history: History, most: int = 10) -> list[dict[str, object]]:
    return history.read(lambda reader: reader.events(most), [])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.db"


def test_what_is_written_is_found_again_after_a_restart(path: Path) -> None:
    first = History(path, 30, 10)
    first.write([run(100), run(110, "rock"), run(100, "pop", "b")], [(105.0, event("a", "gap", seconds=2.0))])
    first.close()
    again = History(path, 30, 10)
    assert [(r.stream, r.genre) for r in found(again, 0, 1000)] == [("a", "jazz"), ("a", "rock"), ("b", "pop")]
    assert events(again)[0]["kind"] == "gap"
    assert again.problem == again.set_aside == ""


def test_an_open_run_that_grew_replaces_itself(path: Path) -> None:
    history = History(path, 30, 10)
    history.write([run(100, seconds=3)], [])
    history.write([run(100, seconds=30)], [])
    assert [r.end for r in found(history, 0, 1000)] == [130]


def test_shares_add_up_to_what_was_heard(path: Path) -> None:
    history = History(path, 30, 10)
    history.write([run(10), run(20, "rock"), run(3595), run(3700, None)], [])
    shares = history.read(lambda reader: list(reader.shares([0, 3600, 7200])), [])
    assert {(share.slice, share.kind, share.genre, share.seconds) for share in shares} == {
        (0, "music", "jazz", 15), (0, "music", "rock", 10),
        (1, "music", "jazz", 5), (1, "silence", None, 10)}  # fmt: skip
    assert history.read(lambda reader: list(reader.shares([0, 3600, 7200], "nobody")), []) == []


def test_what_is_older_than_the_setting_goes(path: Path) -> None:
    history = History(path, 1, 10)
    history.write([run(0), run(200_000)], [(0.0, event("a", "ended")), (200_000.0, event("a", "started"))])
    history.prune(200_100)
    assert [r.start for r in found(history, 0, 1e6)] == [200_000]
    assert [e["kind"] for e in events(history)] == ["started"]


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
        assert [r.start for r in found(again, 0, 1e6)] == [5]
        assert list(path.parent.glob("history.broken-*.db"))


def test_a_file_that_breaks_while_open_is_set_aside_too(path: Path) -> None:
    history = History(path, 30, 100)
    history.write([run(i * 10.0) for i in range(80_000)], [])
    history.close()
    history = History(path, 30, 100)  # its cache holds a part of the file only
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    found(history, 0, 1e9)
    assert "set aside" in history.set_aside
    history.write([run(1e6)], [])
    assert [r.start for r in found(history, 0, 1e9)] == [1e6]


def test_the_size_limit_costs_the_oldest_not_the_newest(path: Path) -> None:
    history = History(path, 3650, 1)
    for batch in range(40):
        history.write([run((batch * 500 + i) * 10.0) for i in range(500)], [])
    assert path.stat().st_size <= 1_100_000
    starts = [r.start for r in found(history, 0, 1e9)]
    assert starts[-1] == (40 * 500 - 1) * 10.0
    assert starts[0] > 0
    assert history.problem == ""


def test_a_full_disk_is_said_and_survived(path: Path) -> None:
    # A limit on the size of files stands for the full disk: SQLite gets the same refusal from the system.
    code = f"""
import itertools
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
from services.dashboard.history.store import History
from services.dashboard.state.genre_segments import GenreSegment as Run
history = History(Path({str(path)!r}), 30, 500)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for i in range(3):
    history.write([Run("a", i * 1e5 + k, i * 1e5 + k + 1, "jazz", 0.5, "t" * 50, "") for k in range(3000)], [])
assert history.problem, "it was not noticed"
before = history.problem
for i in range(100):
    history.write([Run("a", 0.0, 1.0, "jazz", 0.5, "t" * 50, "")], [])
assert history.problem == before, "the note grows"
print(history.problem)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
history._retry_at = 0
history.write([Run("a", 9e9, 9e9 + 1, "rock", 0.5, "", "")], [])
assert history.problem == "", history.problem
kept = history.read(lambda reader: list(reader.segments()), [])
assert len(kept) == 9001, f"{{len(kept)}}: what was heard meanwhile is gone"
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
    assert found(history, 0, 10) == []


def test_the_latest_events_come_back_oldest_first_and_what_is_none_is_left_out(path: Path) -> None:
    history = History(path, 30, 10)
    history.write([], [(100.0 + i, event("a", "gap", seconds=float(i))) for i in range(5)])
    history.write([], [(200.0, event("a", "gap").model_copy(update={"kind": "of another version"}))])
    latest = history.read(lambda reader: reader.latest(3), [])
    assert [(at, each.seconds) for at, each in latest] == [(103.0, 3.0), (104.0, 4.0)]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither wait for another program's lock nor before the next try."""
    monkeypatch.setattr("services.dashboard.history.tables.LOCK_WAIT_S", 0.05)
    monkeypatch.setattr(store, "RETRY_S", 0.0)


def test_a_backup_that_holds_the_lock_costs_nothing_and_is_over_when_it_lets_go(path: Path, impatient: None) -> None:
    history = History(path, 30, 10)
    history.write([run(0)], [])
    backup = sqlite3.connect(path, isolation_level=None)
    backup.execute("BEGIN IMMEDIATE")
    for i in range(1, 4):
        history.write([run(i * 10.0)], [(i * 10.0, event("a", "gap"))])
        assert [r.start for r in found(history)] == [0], "what is there can be read meanwhile"
    note = history.problem
    assert "locked" in note and len(note) < 200
    backup.execute("COMMIT")
    backup.close()
    history.write([run(40)], [])
    assert history.problem == ""
    assert [r.start for r in found(history)] == [0, 10, 20, 30, 40]
    assert len(events(history)) == 3


def test_a_file_that_is_locked_when_the_dashboard_starts_is_kept_once_it_is_free(path: Path, impatient: None) -> None:
    History(path, 30, 10).close()
    backup = sqlite3.connect(path, isolation_level=None)
    backup.execute("PRAGMA locking_mode=EXCLUSIVE")
    backup.execute("BEGIN EXCLUSIVE")
    history = History(path, 30, 10)
    history.write([run(0)], [])
    assert "locked" in history.problem
    backup.execute("COMMIT")
    backup.close()
    history.write([], [])
    assert [r.start for r in found(history)] == [0] and history.problem == "" and history.set_aside == ""


def test_a_try_too_early_does_not_put_the_next_one_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1_000.0]
    monkeypatch.setattr("services.dashboard.history.tables.LOCK_WAIT_S", 0.05)
    monkeypatch.setattr(store.time, "monotonic", lambda: clock[0])
    history = History(path, 30, 10)
    backup = sqlite3.connect(path, isolation_level=None)
    backup.execute("BEGIN IMMEDIATE")
    history.write([run(0)], [])
    backup.execute("COMMIT")
    backup.close()
    for _ in range(10):
        clock[0] += store.RETRY_S / 8
        history.write([], [])
    assert history.problem == "" and [r.start for r in found(history)] == [0]


def test_what_waits_for_a_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_WAITING_SEGMENTS", 100)
    (tmp_path / "file").write_text("")
    history = History(tmp_path / "file" / "history.db", 30, 10)
    for i in range(300):
        history.write([run(i * 10.0)], [(0.0, event("a", "gap"))] * 100)
    (tmp_path / "file").unlink()
    history._retry_at = 0.0
    history.write([], [])
    assert [r.start for r in found(history)] == [i * 10.0 for i in range(200, 300)], "the newest are what waited"
    assert len(events(history, 1_000_000)) == store.MOST_WAITING_EVENTS


READ_ONLY = """
import subprocess, sys
from pathlib import Path
from services.dashboard.history.store import History
from services.dashboard.state.genre_segments import GenreSegment
folder = sys.argv[1]
path = Path(folder) / "history.db"
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
history = History(path, 30, 10)
history.write([GenreSegment("a", 1.0, 2.0, "jazz", 0.5, "", "")], [])
history.close()
subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
history = History(path, 30, 10)
history.write([GenreSegment("a", 3.0, 4.0, "rock", 0.5, "", "")], [])
print(history.problem)
print([s.genre for s in history.read(lambda reader: list(reader.segments()), [])])
subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
history._retry_at = 0.0
history.write([], [])
print([s.genre for s in history.read(lambda reader: list(reader.segments()), [])])
"""


def test_a_read_only_disk_shows_what_was_kept_and_goes_on_when_it_can_be_written(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    argv = ["unshare", "--mount", sys.executable, "-c", READ_ONLY, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    problem, shown, after = done.stdout.splitlines()
    assert "not being kept" in problem and "paths.state_dir" in problem
    assert (shown, after) == ("['jazz']", "['jazz', 'rock']")


def test_space_of_what_is_dropped_goes_back_to_the_disk(path: Path) -> None:
    history = History(path, 1, 100)
    history.write([run(i * 10.0) for i in range(40_000)], [])
    history.write([run(2e6)], [])
    history.prune(2e6)
    history.close()
    assert len(found(history)) == 1
    assert path.stat().st_size < 100_000


def test_a_clock_that_is_a_year_ahead_at_the_start_prunes_nothing_away(path: Path) -> None:
    now = 1.8e9
    history = History(path, 30, 10)
    history.write([run(now - day * DAY_S) for day in range(30)], [(now, event("a", "gap"))])
    ahead = now + 365 * DAY_S
    history.write([run(ahead)], [])
    history.prune(ahead)
    assert len(found(history)) == 30, "one day more was heard, so one goes"
    assert len(events(history)) == 1
    history._pruned_at = 0.0
    history.prune(1_000.0)
    assert len(found(history)) == 30


def test_the_write_ahead_log_is_short_again_after_a_reader_held_on_to_an_old_state(path: Path) -> None:
    history, at = History(path, 3650, 100), itertools.count(0, 100_000)
    log = path.with_name(path.name + "-wal")

    def much() -> None:
        begin = next(at)
        history.write([run(begin + i * 10.0) for i in range(5_000)], [])

    with HistoryReader(path) as reader:
        much()
        held = iter(reader.segments())
        next(held)  # from here on it reads the file as it was
        for _ in range(20):
            much()
        assert log.stat().st_size > 1.5 * LOG_BYTES, "nothing was held back, so this proves nothing"
        del held
    for _ in range(3):
        much()
    assert log.stat().st_size <= 1.25 * LOG_BYTES


def test_one_segment_under_a_wrong_date_does_not_make_all_others_the_oldest_tenth(path: Path) -> None:
    history = History(path, 3650, 1)
    history.write([run(4e9)], [])
    for batch in range(40):
        history.write([run(1.7e9 + (batch * 500 + i) * 10.0) for i in range(500)], [])
    assert history.problem == ""
    assert len(found(history)) > 5_000


def test_what_a_wrong_clock_dated_moves_along_when_it_is_set_right(path: Path) -> None:
    step = 1.8e9 - 50_000
    history = History(path, 30, 10)
    wrong = run(49_990, stream="dated-here", clock=0.0)
    history.write([wrong, run(1.8e9 - 10, "pop", stream="dated-by-its-source")], [])
    soon = run(1.8e9 - 1, "rock", "dated-here", seconds=1, clock=step)  # after it was set, before that was noticed
    history.write([soon], [])
    history.clock_stepped(step, step)
    history.write([run(1.8e9, "rock", "dated-here", clock=step)], [])
    assert [(r.stream, r.start - 1.8e9) for r in found(history)] == [
        ("dated-by-its-source", -10), ("dated-here", -10), ("dated-here", -1), ("dated-here", 0)]  # fmt: skip


def test_events_that_a_wrong_clock_dated_move_along_and_those_of_earlier_starts_stay(path: Path) -> None:
    step = 1.8e9 - 50_000
    first = History(path, 30, 10)
    first.write([], [(1.7e9, event("a", "started"))])
    first.close()
    history = History(path, 30, 10)
    history.write([], [(50_000.0, event("a", "gap")), (50_010.0, event("a", "ended"))])
    history.clock_stepped(step, step)
    history.write([], [(1.8e9 + 20, event("a", "started"))])
    assert [each["at"] for each in events(history)] == [1.8e9 + 20, 1.8e9 + 10, 1.8e9, 1.7e9]


def test_a_clock_that_is_set_while_a_backup_holds_the_file_moves_all_of_it_later(path: Path, impatient: None) -> None:
    history = History(path, 30, 10)
    history.write([run(7_180, clock=0), run(7_190, "rock", clock=0)], [(7_195.0, event("a", "gap"))])
    backup = sqlite3.connect(path, isolation_level=None)
    backup.execute("BEGIN IMMEDIATE")
    history.write([run(7_190, "rock", seconds=12, clock=0), run(7_202, clock=0)], [(7_203.0, event("a", "ended"))])
    history.clock_stepped(-3_600, -3_600)
    history.clock_stepped(100, -3_500)
    backup.execute("COMMIT")
    backup.close()
    history.write([], [])
    assert [(r.start, r.end, r.genre) for r in found(history)] == [
        (3_680, 3_690, "jazz"), (3_690, 3_702, "rock"), (3_702, 3_712, "jazz")]  # fmt: skip
    assert [each["at"] for each in events(history)] == [3_703, 3_695]


@pytest.mark.parametrize("step", [600, -600])
def test_segments_that_move_onto_the_next_ones_place_are_all_kept(path: Path, step: int) -> None:
    history = History(path, 30, 10)
    history.write([run(start, seconds=60, clock=0) for start in range(6_000, 12_000, 60)], [])
    history.clock_stepped(step, step)
    assert [r.start for r in found(history)] == [start + step for start in range(6_000, 12_000, 60)]


def test_a_clock_that_is_set_while_the_file_is_locked_moves_what_it_dated_once_it_is_free(
    path: Path, impatient: None
) -> None:
    clock = 0.0
    history = History(path, 3650, 10)
    history.write([run(1.8e9 - 10, clock=clock)], [])
    backup = sqlite3.connect(path, isolation_level=None)
    backup.execute("BEGIN IMMEDIATE")
    for step in (-3_600.0, 7_200.0):
        clock += step
        history.clock_stepped(step, clock)
        assert "locked" in history.problem
        history.write([run(1.8e9 + clock + 10, clock=clock)], [])
    backup.execute("COMMIT")
    backup.close()
    history.write([run(1.8e9 + clock + 20, clock=clock)], [])
    assert history.problem == ""
    assert [r.start - clock - 1.8e9 for r in found(history)] == [-10, 10, 20]


def test_what_moved_with_a_wrong_clock_before_it_was_written_moves_back_with_it(path: Path) -> None:
    """The box slept for half a day over what it had just heard, and woke with its clock a year ahead."""
    now, year = 1.8e9, 365 * DAY_S
    history = History(path, 3650, 10)
    history.write([moved(run(now - 40_000, clock=0.0), year)], [])
    assert [r.start for r in found(history)] == [now - 40_000 + year]
    history.clock_stepped(-year, 0.0)
    assert [r.start for r in found(history)] == [now - 40_000]


def test_an_old_segment_still_in_memory_is_moved_back_by_as_much_as_it_moved(path: Path) -> None:
    """A station silent for half a day when the clock goes wrong by an hour, and is set right a little later."""
    history, half_a_day_ago = History(path, 3650, 10), run(1.8e9 - 40_000, clock=0.0)
    history.write([half_a_day_ago], [])
    there = moved(half_a_day_ago, -3_600.0)
    history.clock_stepped(-3_600, -3_600.0)
    history.write([there], [])
    back = moved(there, 0.0)
    history.clock_stepped(3_600, 0.0)
    history.write([back], [])
    assert back == half_a_day_ago and [r.start for r in found(history)] == [half_a_day_ago.start]


def test_a_file_of_before_kinds_were_kept_is_read_and_goes_on(path: Path) -> None:
    path.parent.mkdir()
    old = sqlite3.connect(path)
    old.executescript(
        "CREATE TABLE runs (stream TEXT NOT NULL, start REAL NOT NULL, end REAL NOT NULL, genre TEXT, confidence REAL "
        "NOT NULL, title TEXT NOT NULL, artist TEXT NOT NULL, PRIMARY KEY (stream, start)) WITHOUT ROWID;"
        "INSERT INTO runs VALUES ('a', 0, 10, 'jazz', 0.5, '', ''), ('a', 10, 20, NULL, 0, '', '')"
    )
    old.close()
    history = History(path, 30, 10)
    history.write([GenreSegment("a", 20, 30, None, 0.9, "", "", "speech")], [])
    assert [r.kind for r in found(history)] == ["music", "silence", "speech"]


def test_four_hundred_days_are_drawn_without_holding_them(path: Path) -> None:
    history = History(path, 3650, 100)
    for first in range(0, 200_000, 20_000):
        history.write(
            [run(i * 170.0, ("jazz", "rock")[i // 3 % 2], seconds=60) for i in range(first, first + 20_000)], []
        )
    assert history.problem == ""
    tracemalloc.start()
    end = 400 * DAY_S
    shown = history.read(lambda reader: drawn(reader.segments(0, end, (), end / 1000), 0, end, 1000), {})
    shares = history.read(lambda reader: list(reader.shares([day * DAY_S for day in range(401)])), [])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(shown["a"]) > 300 and sum(share.seconds for share in shares) == pytest.approx(200_000 * 60, rel=0.02)
    assert peak < 5_000_000, peak
