"""The history's writer: keeps segments and events in a file with an age and a size beyond which the oldest go.

It is never a reason to stop, and it goes on by itself: what can't be written now (disk full, locked by a backup, no
right to write) waits in memory and is tried again; a broken file is set aside and a new one begins. Nothing here knows
of MQTT or HTTP. Start at `History`.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from services.contract.messages import Event
from services.dashboard.history.reader import HistoryReader
from services.dashboard.history.tables import PAGE_BYTES, open_to_write
from services.dashboard.state.clock_steps import shift
from services.dashboard.state.genre_segments import GenreSegment, moved

log = logging.getLogger(__name__)

RETRY_S = 5.0
MOST_EVENTS = 100_000
MOST_WAITING_SEGMENTS = 50_000
"""What waits for a file that can't be written: some hours of 50 streams, some 20 MB."""
MOST_WAITING_EVENTS = 10_000
MOST_MOVABLE = 50_000
"""Segments of which it is remembered that this machine's clock dated them: a correction of the clock moves them."""
MOST_PAGES_FREED = 25_000
"""Pages given back to the disk at once: 100 MB."""
DAY_S = 86_400.0

T = TypeVar("T")


class _NotYetError(Exception):
    """It failed a moment ago; the next try comes later."""


class History:
    """What was heard, by wall clock; safe to call from several threads.

    Args:
        path: the database file; its folder is made.
        days: how long to keep.
        limit_mb: largest file.

    Attributes:
        problem: what a person must know of it; '' where all is well.
        set_aside: likewise, of a broken file that a new one has replaced.
        _movable: segments that this machine's clock dated, each with its start as it stands in the file and the clock
            that dated it.
        _own_events: the last event's id in the file before the first of this start; later ones this clock dated.
        _owed_s: by how much the file's events of this start are still to be moved.
    """

    def __init__(self, path: Path, days: int, limit_mb: int) -> None:
        self._path, self._days, self._limit_mb = path, days, limit_mb
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._checked = False
        self._retry_at, self._pruned_at = 0.0, 0.0
        self._segments: dict[tuple[str, float], GenreSegment] = {}
        self._events: deque[tuple[float, Event]] = deque(maxlen=MOST_WAITING_EVENTS)
        self._movable: dict[tuple[str, float], tuple[float, float]] = {}
        self._own_events: int | None = None
        self._owed_s = 0.0
        self.problem, self.set_aside = "", ""
        with self._lock, self._guard():
            self._open()

    # --- opening and repairing ---------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            if time.monotonic() < self._retry_at:
                raise _NotYetError
            self._connection = open_to_write(self._path, self._limit_mb, check=not self._checked)
            self._checked = True
        return self._connection

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Turn whatever goes wrong with the file into a line for a person and a later try."""
        try:
            yield
        except _NotYetError:
            pass
        except (sqlite3.OperationalError, OSError) as error:
            self._close()
            self._retry_at = time.monotonic() + RETRY_S
            if not self.problem:
                log.error("history %s: %s; what is heard waits in memory meanwhile", self._path, error)
            self.problem = f"The history is not being kept: {error}. {_remedy(error)}"
        except sqlite3.DatabaseError as error:
            self._put_aside(error)

    def _put_aside(self, error: sqlite3.DatabaseError) -> None:
        """Keep a broken file for whoever wants to look at it, and begin a new one."""
        self._close()
        aside = self._path.with_name(f"{self._path.stem}.broken-{int(time.time())}{self._path.suffix}")
        log.error("history %s is broken (%s); it is now %s and a new one begins", self._path, error, aside.name)
        try:
            for suffix in ("", "-wal", "-shm"):
                old = self._path.with_name(self._path.name + suffix)
                if old.exists():
                    old.replace(aside.with_name(aside.name + suffix))
            self.set_aside = f"The history was broken ({error}); it is set aside as {aside.name} and a new one began."
            self._open()
        except (_NotYetError, sqlite3.Error, OSError) as again:
            self._retry_at = time.monotonic() + RETRY_S
            self.problem = f"The history is not being kept: {again}. {_remedy(again)}"

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._close()

    # --- writing ---------------------------------------------------------------------------------------------------

    def write(self, segments: Iterable[GenreSegment], events: Iterable[tuple[float, Event]]) -> None:
        """Keep segments (a longer one replaces the same segment as it was) and events.

        What can't be written now waits, the newest of it at most MOST_WAITING_SEGMENTS and MOST_WAITING_EVENTS.
        """
        with self._lock:
            for segment in segments:
                self._segments[segment.key] = segment
                if segment.clock is not None:
                    self._movable.setdefault(segment.key, (segment.start, segment.clock))
            self._events.extend(events)
            _trim(self._segments, MOST_WAITING_SEGMENTS)
            _trim(self._movable, MOST_MOVABLE)
            if not self._segments and not self._events and not self._owed_s:
                return
            with self._guard():
                self._write_waiting()

    def _write_waiting(self) -> None:
        self._open()
        rows = [
            (s.stream, s.start, s.end, s.genre, s.confidence, s.title, s.artist, s.kind)
            for s in self._segments.values()
        ]
        happened = [(at, e.stream, e.kind, e.seconds, e.cause, e.reason) for at, e in self._events]
        for last in (False, True):
            connection = self._open()
            try:
                connection.execute("BEGIN IMMEDIATE")
                self._move_what_is_kept(connection)
                connection.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
                connection.executemany("INSERT INTO events VALUES (NULL, ?, ?, ?, ?, ?, ?)", happened)
                connection.execute("COMMIT")
                break
            except sqlite3.OperationalError:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if last or not self._make_room(connection):
                    raise
        if self.problem:
            log.info("history %s: is kept again, with what waited", self._path)
        self._segments.clear()
        self._events.clear()
        self._movable = {key: (key[1], clock) for key, (_, clock) in self._movable.items()}
        self._owed_s = 0.0
        self.problem = ""

    def _make_room(self, connection: sqlite3.Connection) -> bool:
        """Drop the oldest tenth where the size limit, not the disk, is what is full."""
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        if pages * PAGE_BYTES < 0.9 * self._limit_mb * 1_000_000:
            return False
        log.warning("history %s reached dashboard.history_limit_mb; its oldest tenth goes", self._path)
        # By number, not by time: one segment under a wrong date must not make all the others old.
        for table, time_column in (("runs", "start"), ("events", "at")):
            count = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            found = connection.execute(
                f"SELECT {time_column} FROM {table} ORDER BY {time_column} LIMIT 1 OFFSET ?", (count // 10,)
            ).fetchone()
            if found is not None:
                connection.execute(f"DELETE FROM {table} WHERE {time_column} <= ?", found)
        return True

    def prune(self, now: float) -> None:
        """Drop what is older than the setting says; at most once an hour.

        A clock that runs ahead makes nothing old: what goes is also older than so many days on which something was
        heard.
        """
        if time.monotonic() - self._pruned_at < 3600 and self._pruned_at:
            return
        with self._lock, self._guard():
            connection = self._open()
            oldest = min(now - self._days * DAY_S, self._start_of_days_heard(connection))
            connection.execute("DELETE FROM runs WHERE end < ?", (oldest,))
            connection.execute("DELETE FROM events WHERE at < ?", (oldest,))
            connection.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (MOST_EVENTS,))
            # It frees a page a step, and execute() makes a single one.
            connection.executescript(f"PRAGMA incremental_vacuum({MOST_PAGES_FREED})")
            self._pruned_at = time.monotonic()

    def _start_of_days_heard(self, connection: sqlite3.Connection) -> float:
        """Return where the newest `days` days begin on which something was heard."""
        begin = float("inf")
        for _ in range(self._days):
            found = connection.execute("SELECT max(start) FROM runs WHERE start < ?", (begin,)).fetchone()[0]
            if found is None:
                return float("-inf")
            begin = found // DAY_S * DAY_S
        return begin

    def clock_stepped(self, seconds: float, clock: float) -> None:
        """Move what the clock dated wrongly: it has just been set forward by so many seconds (back: negative).

        Where the file can't be written now, what stands in it moves later.

        Args:
            clock: the clock as it is now (`clock_steps.apart`).
        """
        with self._lock:
            dated = [moved(segment, clock) for segment in self._segments.values()]
            self._segments = {segment.key: segment for segment in dated}
            movable = {}
            for (stream, start), (kept, dated_by) in self._movable.items():
                moved_s = shift(dated_by, clock)
                movable[stream, start + moved_s] = kept, clock if moved_s else dated_by
            self._movable = movable
            self._events = deque(((at + seconds, event) for at, event in self._events), MOST_WAITING_EVENTS)
            self._owed_s += seconds
            with self._guard():
                self._write_waiting()

    def _move_what_is_kept(self, connection: sqlite3.Connection) -> None:
        """Give what stands in the file under a wrong date the one that it has since the clock was set."""
        last = connection.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()[0]
        # Where all were dropped, SQLite counts from 1 again.
        self._own_events = last if self._own_events is None else min(self._own_events, last)
        if not self._owed_s:
            return
        moves = [
            (start, start - kept, stream, kept) for (stream, start), (kept, _) in self._movable.items() if start != kept
        ]
        # The foremost first: none is put where the next one, still to be moved, begins.
        moves.sort(reverse=self._owed_s > 0)
        connection.executemany(
            "UPDATE OR REPLACE runs SET start = ?, end = end + ? WHERE stream = ? AND start = ?", moves
        )
        connection.execute("UPDATE events SET at = at + ? WHERE id > ?", (self._owed_s, self._own_events))

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, question: Callable[[HistoryReader], T], nothing: T) -> T:
        """Return the answer to a question, or `nothing` where the file can't be read."""
        try:
            with HistoryReader(self._path) as reader:
                return question(reader)
        except sqlite3.OperationalError as error:
            if self._path.exists():
                log.warning("history %s can't be read: %s", self._path, error)
        except sqlite3.DatabaseError:
            with self._lock, self._guard():
                self._close()
                self._checked = False
                self._open()  # looks through it, and sets it aside unless another thread just did
        return nothing


def _remedy(error: Exception) -> str:
    text = str(error)
    if "locked" in text or "busy" in text:
        return "Another program holds it; it goes on by itself when that lets go."
    if "full" in text or "disk I/O" in text:
        return "Free some space; it goes on by itself."
    return "Make paths.state_dir a folder that this account may write; it goes on by itself."


K = TypeVar("K")
V = TypeVar("V")


def _trim(items: dict[K, V], most: int) -> None:
    """Drop the oldest beyond a number."""
    for key in list(items)[: max(0, len(items) - most)]:
        del items[key]
