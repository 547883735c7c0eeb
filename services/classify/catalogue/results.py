"""The folder of results: Parquet parts written whole or not at all, and what makes a second run go on with the first.

    results.parquet/part-00000017.parquet   a row a file; a part with a higher number has the last word on a file
                    _manifest.json          with which model they were made
                    _lock                   held by the run that writes
                    _SUCCESS                the last run came to its end

Only the client writes here: results are small, workers need no common disk to write to, and one writer needs no
agreement with others. Readers pass over names that begin with '_' or '.'. Start at `Results`.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from services import files
from services.classify.catalogue.work import FOLDER, UNKNOWN, Order, Row, Track
from services.classify.files import shown
from services.errors import GenreError
from services.text import MOST_REASON, clean

MANIFEST, LOCK, SUCCESS = "_manifest.json", "_lock", "_SUCCESS"
FORMAT = 1
SMALL_PARTS = 512
"""So many small parts are merged into one: a part a batch would be 62,500 files for a million tracks."""
SMALL_ROWS = 4_096
_AGAIN = "run the same command again: what is written stays, the rest is classified"


def schema(order: Order) -> pa.Schema:
    """Return the columns; docs/catalogue.md explains them."""
    return pa.schema(
        [
            ("file", pa.string()),
            ("seconds", pa.float64()),
            ("genre", pa.string()),
            ("confidence", pa.float32()),
            ("kind", pa.string()),
            ("scores", pa.struct([(label, pa.float32()) for label in order.labels])),
            ("windows", pa.int32()),
            ("title", pa.string()),
            ("artist", pa.string()),
            ("model", pa.string()),
            ("model_version", pa.string()),
            ("note", pa.string()),
            ("error", pa.string()),
            ("size", pa.int64()),
            ("mtime_ns", pa.int64()),
        ],
        metadata={"genre-edge": json.dumps(manifest(order))},
    )


def manifest(order: Order) -> dict[str, Any]:
    """Return what all rows of one catalogue have in common."""
    kept = {key: value for key, value in asdict(order).items() if key not in ("models_dir", "distributed")}
    return {"format": FORMAT, **kept, "labels": list(order.labels)}


class Results:
    """The folder, open for one run at a time.

    Args:
        folder: is made where it is not there.
        order: what the rows have in common.
        retry_failed: files that have an error in the folder are wanted again.

    Attributes:
        files, errors: rows in the folder, and those of them that have an error.

    Raises:
        GenreError: it can't be written, is in use, or holds something else; on entering.
    """

    def __init__(self, folder: Path, order: Order, retry_failed: bool = False) -> None:
        self.folder = folder
        self.files = self.errors = 0
        self._order, self._schema, self._retry_failed = order, schema(order), retry_failed
        self._done: dict[bytes, int] = {}
        self._small: list[Path] = []
        self._superseded = 0
        self._next = 1
        self._lock: IO[str] | None = None

    def __enter__(self) -> Results:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock_folder()
            self._check_manifest()
            (self.folder / SUCCESS).unlink(missing_ok=True)
            for left_over in self.folder.glob(".part-*.new.parquet"):
                left_over.unlink()
            self._read()
        except OSError as error:
            self._unlock()
            raise self._unwritable(error) from error
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unlock()

    def take(self, track: Track) -> bool:
        """Tell whether a track is still to be classified, and from now on answer no for it.

        A file is the same as long as path, size and time of change are. One that only workers can see is told by its
        path alone.
        """
        key, stamp = _key(shown(track.path)), _stamp(track.size, track.mtime_ns)
        before = self._done.get(key)
        if before is not None and before != _FAILED and (before == stamp or not track.seen):
            return False
        self._superseded += before is not None
        self._done[key] = stamp
        return True

    def write(self, rows: Sequence[Row]) -> None:
        """Add a part; when this returns it is on the disk.

        Raises:
            GenreError: the disk is full or the folder is gone.
        """
        model = (self._order.model, self._order.model_version)
        table = pa.Table.from_pylist([_record(row, model, self._order.labels) for row in rows], self._schema)
        path = self.folder / f"part-{self._next:08}.parquet"
        try:
            self._replace(path, table)
            self._next += 1
            self.files += len(rows)
            self.errors += sum(bool(row.error) for row in rows)
            if len(rows) < SMALL_ROWS:
                self._small.append(path)
            if len(self._small) >= SMALL_PARTS:
                self._merge()
        except OSError as error:
            raise self._unwritable(error) from error

    def rows(self) -> int:
        """Count the rows on the disk; true also where a write was interrupted."""
        return sum(pq.read_metadata(path).num_rows for path in self.folder.glob("part-*.parquet"))

    def finish(self) -> None:
        """Leave one row a file, in few parts, and say that it is complete.

        Raises:
            GenreError: as `write` does.
        """
        try:
            if len(self._small) > 1:
                self._merge()
            if self._superseded:
                self._read()
            files.replace(self.folder / SUCCESS, b"")
        except OSError as error:
            raise self._unwritable(error) from error

    def _read(self) -> None:
        """Learn what is done, the newest part first; rows that a newer part has replaced are dropped."""
        self._done, self._small, self._superseded = {}, [], 0
        self.files = self.errors = 0
        parts = sorted(self.folder.glob("part-*.parquet"), reverse=True)
        for path in parts:
            self._next = max(self._next, _number(path) + 1)
            table = self._table(path, ["file", "kind", "error", "size", "mtime_ns"])
            keep = list(self._learn(table))
            if len(keep) < table.num_rows:
                self._rewrite(path, keep)
            if 0 < len(keep) < SMALL_ROWS:
                self._small.append(path)
        self._small.reverse()

    def _learn(self, table: pa.Table) -> Iterator[int]:
        columns = [table[name].to_pylist() for name in ("file", "kind", "error", "size", "mtime_ns")]
        for index, (file, kind, error, size, mtime_ns) in enumerate(zip(*columns, strict=True)):
            key = _key(file)
            # Whether a folder can be listed is found out again each time.
            if key in self._done or kind == FOLDER:
                continue
            self._done[key] = _FAILED if error and self._retry_failed else _stamp(size, mtime_ns)
            self.files += 1
            self.errors += bool(error)
            yield index

    def _rewrite(self, path: Path, keep: list[int]) -> None:
        if keep:
            self._replace(path, self._table(path).take(keep))
        else:
            path.unlink()

    def _merge(self) -> None:
        """Join the small parts under the number of the newest.

        If this is cut short, rows stand twice until the next run reads the folder, which drops the older ones.
        """
        newest = self._small[-1]
        table = pa.concat_tables([self._table(path) for path in self._small])
        last = {file: index for index, file in enumerate(table["file"].to_pylist())}
        self._replace(newest, table.take(list(last.values())))
        for path in self._small[:-1]:
            path.unlink()
        self._small = [newest] if len(last) < SMALL_ROWS else []

    def _table(self, path: Path, columns: list[str] | None = None) -> pa.Table:
        try:
            return pq.ParquetFile(path).read(columns)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise GenreError(
                str(path), "is damaged", "remove it; its files are classified again by the same command"
            ) from error

    def _replace(self, path: Path, table: pa.Table) -> None:
        out = io.BytesIO()
        pq.write_table(table, out, compression="zstd")
        files.replace(path, out.getbuffer())

    def _lock_folder(self) -> None:
        self._lock = (self.folder / LOCK).open("a") if self._is_ours() else None
        if self._lock is None:
            raise GenreError(str(self.folder), "holds something else", "name an --out that is not there yet")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise GenreError(
                str(self.folder), "is being written by another run", "wait for it, or name another --out"
            ) from error

    def _is_ours(self) -> bool:
        names = {path.name for path in self.folder.iterdir()}
        return MANIFEST in names or names <= {LOCK}

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _check_manifest(self) -> None:
        path, wanted = self.folder / MANIFEST, manifest(self._order)
        if not path.exists():
            files.replace(path, json.dumps(wanted, indent=1).encode())
            return
        try:
            found = json.loads(path.read_bytes())
            differing = [key for key in wanted if found.get(key) != wanted[key]]
        except (ValueError, AttributeError) as error:
            raise GenreError(str(path), "is damaged", "name another --out") from error
        if differing:
            told = ", ".join(f"{key} {_brief(found.get(key))}, not {_brief(wanted[key])}" for key in differing[:3])
            raise GenreError(
                str(self.folder), f"holds another run's results ({told})", "name another --out, or run as that one was"
            )

    def _unwritable(self, error: OSError) -> GenreError:
        full = error.errno in (28, 122)  # ENOSPC, EDQUOT
        why = "no space is left" if full else f"can't be written ({error.strerror or error})"
        return GenreError(str(self.folder), why, ("make room and " if full else "repair that and ") + _AGAIN)


_FAILED = -1


def _key(file: str) -> bytes:
    """Return sixteen bytes for a path: a million of them take less memory than the paths."""
    return hashlib.blake2b(file.encode(), digest_size=16).digest()


def _stamp(size: int, mtime_ns: int) -> int:
    return hash((size, mtime_ns)) & (1 << 60) - 1


def _number(path: Path) -> int:
    digits = path.stem.removeprefix("part-")
    return int(digits) if digits.isdecimal() else 0


def _brief(value: object) -> str:
    return str(value) if len(str(value)) < 40 else "..."


def _record(row: Row, model: tuple[str, str], labels: Sequence[str]) -> dict[str, Any]:
    track = row.track
    return {
        "file": shown(track.path),
        "seconds": row.seconds,
        "genre": row.genre,
        "confidence": row.confidence,
        "kind": row.kind,
        "scores": dict(zip(labels, row.scores, strict=True)) if row.scores else None,
        "windows": row.windows,
        "title": clean(row.title),
        "artist": clean(row.artist),
        "model": model[0],
        "model_version": model[1],
        "note": clean(row.note, MOST_REASON) or None,
        "error": clean(row.error, MOST_REASON) or None,
        "size": None if track.size == UNKNOWN else track.size,
        "mtime_ns": None if track.size == UNKNOWN else track.mtime_ns,
    }
