"""The history: runs and events in SQLite, with an age and a size beyond which the oldest go.

It is never a reason to stop: a broken file is set aside and said, a full disk is said and tried again, and the page
goes on without. Nothing here knows of MQTT or HTTP. Start at `History`.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from services.contract import Event, utc
from services.dashboard.runs import Run

log = logging.getLogger(__name__)

RETRY_S = 30.0
MOST_EVENTS = 100_000
_PAGE_BYTES = 4096
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    stream TEXT NOT NULL, start REAL NOT NULL, end REAL NOT NULL, genre TEXT, confidence REAL NOT NULL,
    title TEXT NOT NULL, artist TEXT NOT NULL, PRIMARY KEY (stream, start)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS runs_start ON runs (start);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, stream TEXT NOT NULL, kind TEXT NOT NULL, seconds REAL NOT NULL,
    cause TEXT NOT NULL, reason TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Share:
    """How long one genre played in one slice of time."""

    slice: int
    genre: str | None
    seconds: float


class History:
    """What was heard, by wall clock; safe to call from several threads.

    Args:
        path: the database file; its folder is made.
        days: how long to keep.
        limit_mb: largest file.

    Attributes:
        problem: what a person must know of it; '' where all is well.
    """

    def __init__(self, path: Path, days: int, limit_mb: int) -> None:
        self._path, self._days, self._limit_mb = path, days, limit_mb
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._retry_at = 0.0
        self._pruned_at = 0.0
        self.problem, self.set_aside = "", ""
        with self._lock, self._guard():
            self._open()

    # --- opening and mending ---------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        if time.monotonic() < self._retry_at:
            raise sqlite3.OperationalError(self.problem or "not open")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=2.0)
        try:
            if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("its check fails")
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(f"PRAGMA max_page_count={self._limit_mb * 1_000_000 // _PAGE_BYTES}")
            connection.executescript(_SCHEMA)
            for table in ("runs", "events"):
                connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchall()
        except BaseException:
            connection.close()
            raise
        self._connection, self.problem = connection, ""
        return connection

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Turn whatever goes wrong with the file into a line for a person and a later try."""
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            # Disk full, no right to write, locked by another program: it may pass.
            self._close()
            self._retry_at = time.monotonic() + RETRY_S
            if not self.problem:
                log.error("history %s: %s; going on without it, next try in %.0f s", self._path, error, RETRY_S)
            self.problem = f"The history is not being kept: {error}. Free some space or mend paths.state_dir."
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
        except (sqlite3.Error, OSError) as again:
            self._retry_at = time.monotonic() + RETRY_S
            self.problem = f"The history is not being kept: {again}."

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

    def write(self, runs: Iterable[Run], events: Iterable[tuple[float, Event]]) -> None:
        """Keep runs (a longer one replaces the same run as it was) and events, in one transaction."""
        rows = [(r.stream, r.start, r.end, r.genre, r.confidence, r.title, r.artist) for r in runs]
        happened = [(at, e.stream, e.kind, e.seconds, e.cause, e.reason) for at, e in events]
        if not rows and not happened:
            return
        with self._lock, self._guard():
            for last in (False, True):
                connection = self._open()
                try:
                    connection.execute("BEGIN")
                    connection.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
                    connection.executemany("INSERT INTO events VALUES (NULL, ?, ?, ?, ?, ?, ?)", happened)
                    connection.execute("COMMIT")
                    return
                except sqlite3.OperationalError:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    if last or not self._make_room(connection):
                        raise

    def _make_room(self, connection: sqlite3.Connection) -> bool:
        """Drop the oldest tenth where the size limit, not the disk, is what is full."""
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        if pages * _PAGE_BYTES < 0.9 * self._limit_mb * 1_000_000:
            return False
        first, last = connection.execute("SELECT min(start), max(start) FROM runs").fetchone()
        if first is None:
            return False
        log.warning("history %s reached dashboard.history_limit_mb; its oldest tenth goes", self._path)
        connection.execute("DELETE FROM runs WHERE start <= ?", (first + (last - first) / 10,))
        return True

    def prune(self, now: float) -> None:
        """Drop what is older than the setting says; at most once an hour."""
        if time.monotonic() - self._pruned_at < 3600 and self._pruned_at:
            return
        self._pruned_at = time.monotonic()
        oldest = now - self._days * 86_400
        with self._lock, self._guard():
            connection = self._open()
            connection.execute("DELETE FROM runs WHERE end < ?", (oldest,))
            connection.execute("DELETE FROM events WHERE at < ?", (oldest,))
            connection.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (MOST_EVENTS,))
            connection.execute("PRAGMA incremental_vacuum")

    # --- reading ---------------------------------------------------------------------------------------------------

    def runs(self, begin: float, end: float, streams: tuple[str, ...] = ()) -> list[Run]:
        """Return the runs that overlap a stretch of time, by stream and start."""
        # A run is at most a minute long, so an index on its start is enough to find those that reach into the stretch.
        text = "SELECT * FROM runs WHERE start >= ? AND start < ? AND end > ?"
        if streams:
            text += f" AND stream IN ({','.join('?' * len(streams))})"
        rows = self._rows(f"{text} ORDER BY stream, start", (begin - 600, end, begin, *streams))
        return [Run(*row) for row in rows]

    def shares(self, begin: float, end: float, slice_s: float, stream: str | None = None) -> list[Share]:
        """Return seconds by slice of time and genre, over all streams or one; slice 0 starts at begin."""
        text = (
            "SELECT CAST((start - ?) / ? AS INTEGER) AS slice, genre, SUM(end - start) FROM runs "
            "WHERE start >= ? AND start < ? {} GROUP BY slice, genre ORDER BY slice, 3 DESC"
        )
        values: tuple[object, ...] = (begin, slice_s, begin, end)
        if stream is not None:
            rows = self._rows(text.format("AND stream = ?"), (*values, stream))
        else:
            rows = self._rows(text.format(""), values)
        return [Share(*row) for row in rows]

    def events(self, most: int, stream: str | None = None) -> list[dict[str, object]]:
        """Return the latest events, newest first."""
        where, values = ("WHERE stream = ?", (stream,)) if stream is not None else ("", ())
        rows = self._rows(
            f"SELECT at, stream, kind, seconds, cause, reason FROM events {where} ORDER BY id DESC LIMIT ?",
            (*values, most),
        )
        names = ("at", "stream", "kind", "seconds", "cause", "reason")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def latest(self, most: int) -> list[tuple[float, Event]]:
        """Return the latest events as they were heard, oldest first; what no longer is an event is left out."""
        found = []
        for row in reversed(self.events(most)):
            at = float(str(row.pop("at")))
            with contextlib.suppress(ValidationError):
                found.append((at, Event.model_validate({**row, "at": utc(at)})))
        return found

    def _rows(self, text: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        with self._lock, self._guard():
            rows = self._open().execute(text, values).fetchall()
        return rows
