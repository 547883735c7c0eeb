"""The tables of the history and how a file with them is opened: once for writing, any number of times for reading.

docs/history.md describes the columns: other programs read them. Start at `open_to_write` and `open_to_read`.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

PAGE_BYTES = 4096
LOG_PAGES = 1_000
LOG_BYTES = LOG_PAGES * PAGE_BYTES
"""The write-ahead log is written back at so many pages, and is cut to so many bytes where a reader who held on to an
old state of the file made it longer. Without that it keeps the greatest length that it ever had."""
LOCK_WAIT_S = 2.0
"""How long to wait for another program's lock before trying again later."""
_TABLES = """
CREATE TABLE IF NOT EXISTS runs (
    stream TEXT NOT NULL, start REAL NOT NULL, end REAL NOT NULL, genre TEXT, confidence REAL NOT NULL,
    title TEXT NOT NULL, artist TEXT NOT NULL, kind TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (stream, start)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS runs_start ON runs (start);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, stream TEXT NOT NULL, kind TEXT NOT NULL, seconds REAL NOT NULL,
    cause TEXT NOT NULL, reason TEXT NOT NULL);
"""


def open_to_write(path: Path, limit_mb: int, check: bool) -> sqlite3.Connection:
    """Return the one connection that writes; the file and its folder are made where they are missing.

    Args:
        limit_mb: largest file.
        check: look through the whole file first, which takes seconds for a large one.

    Raises:
        sqlite3.OperationalError, OSError: it can't be opened now: locked, disk full, no right to write.
        sqlite3.DatabaseError: it is broken.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=LOCK_WAIT_S)
    try:
        if check and connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("its check fails")
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit={LOG_BYTES}")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA max_page_count={limit_mb * 1_000_000 // PAGE_BYTES}")
        connection.executescript(_TABLES)
        columns = {row[1] for row in connection.execute("PRAGMA table_info(runs)")}
        if "genre" in columns and "kind" not in columns:  # a file of before kinds were kept
            connection.execute("ALTER TABLE runs ADD COLUMN kind TEXT NOT NULL DEFAULT ''")
        for table in ("runs", "events"):
            connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """Return a connection that only reads; it disturbs no writer and works on a read-only disk.

    Raises:
        sqlite3.OperationalError: there is no such file, or it can't be read.
    """
    where = f"file:{quote(str(path.absolute()))}?mode=ro"
    connection = sqlite3.connect(where, uri=True, isolation_level=None, timeout=LOCK_WAIT_S, check_same_thread=False)
    try:
        connection.execute("SELECT stream FROM runs LIMIT 1").fetchall()
    except sqlite3.OperationalError:
        connection.close()
        if not path.exists() or os.access(path.parent, os.W_OK):
            raise
        # On a read-only disk SQLite can't make the index of its log; nothing else can write there either.
        return sqlite3.connect(f"{where}&immutable=1", uri=True, isolation_level=None, check_same_thread=False)
    except BaseException:
        connection.close()
        raise
    return connection
