"""`genre history`: the history for others, as CSV or Parquet, and a copy of it while the dashboard goes on writing.

docs/history.md has the columns and ready queries. Start at `export`.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from services import files
from services.dashboard.history.reader import HistoryReader
from services.dashboard.history.tables import open_to_read
from services.errors import GenreError, UsageError
from services.settings import loading
from services.text import utc

COLUMNS = ("stream", "start", "end", "seconds", "kind", "genre", "confidence", "title", "artist")
ROWS_AT_ONCE = 10_000

Row = dict[str, Any]


@click.group()
def history() -> None:
    """Export and copy what the dashboard has kept.

    \b
    Example: genre history export --config genre.toml --out history.csv
    """


_CONFIG = click.option(
    "--config", type=click.Path(path_type=Path), help="TOML configuration file; names paths.state_dir."
)


@history.command()
@_CONFIG
@click.option("--stream", "streams", multiple=True, help="Only this stream (repeatable).")
@click.option(
    "--since", metavar="TIME", help="From here on: 2026-11-30 or 2026-11-30T12:00, local unless it has a zone."
)
@click.option("--until", metavar="TIME", help="Up to here, not included.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="File to write, .csv or .parquet.  [default: CSV to stdout]"
)
def export(
    config: Path | None, streams: tuple[str, ...], since: str | None, until: str | None, out: Path | None
) -> None:
    """Write what was heard, a row a segment of one genre, at most a minute long.

    \b
    Example: genre history export --stream radio1 --since 2026-11-01 --out november.parquet
    """
    begin = _moment("--since", since, float("-inf"))
    end = _moment("--until", until, float("inf"))
    write = _writer(out)
    with _reading(_path(config)) as reader:
        rows = (
            {
                "stream": each.stream,
                "start": utc(each.start),
                "end": utc(each.end),
                "seconds": round(each.end - each.start, 3),
                "kind": each.kind,
                "genre": each.genre,
                "confidence": round(each.confidence, 4),
                "title": each.title,
                "artist": each.artist,
            }
            for each in reader.segments(begin, end, streams)
        )
        if out is None:
            try:
                _csv(rows, sys.stdout)
                sys.stdout.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        try:
            with files.replacing(out) as new:
                write(rows, new)
        except OSError as error:
            raise GenreError(
                str(out), f"can't be written ({error.strerror or error})", "choose another --out"
            ) from error


@history.command()
@_CONFIG
@click.argument("target", type=click.Path(path_type=Path))
def backup(config: Path | None, target: Path) -> None:
    """Copy the history into one file, whole and consistent, while the dashboard goes on writing.

    \b
    Example: genre history backup --config genre.toml history-copy.db
    """
    path = _path(config)
    if os.path.realpath(target) == os.path.realpath(path):
        raise UsageError(str(target), "is the history itself", "name another file")
    try:
        with closing(_opened(path)) as source, files.replacing(target) as new, closing(sqlite3.connect(new)) as copy:
            source.backup(copy)
    except (OSError, sqlite3.Error) as error:
        raise GenreError(
            str(target), f"can't be written ({error})", "choose another file or free some space"
        ) from error


def _path(config: Path | None) -> Path:
    return loading.load(config).paths.state_dir / "history.db"


def _opened(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise GenreError(
            str(path), "is not there", "give the --config of a dashboard that has run, whose paths.state_dir it is in"
        )
    try:
        return open_to_read(path)
    except sqlite3.Error as error:
        raise GenreError(str(path), f"can't be read ({error})", "use an account that may read it") from error


def _reading(path: Path) -> HistoryReader:
    _opened(path).close()
    return HistoryReader(path)


def _moment(option: str, text: str | None, otherwise: float) -> float:
    if text is None:
        return otherwise
    try:
        return datetime.fromisoformat(text.strip().replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"{option} {text}", "is no time", "write 2026-11-30 or 2026-11-30T12:00") from None


def _writer(out: Path | None) -> Callable[[Iterator[Row], Path], None]:
    suffix = out.suffix.lower() if out is not None else ".csv"
    if suffix == ".csv":
        return _csv_file
    if suffix != ".parquet":
        raise UsageError(f"--out {out}", "is neither .csv nor .parquet", "end its name in one of them")
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise GenreError(
            f"--out {out}",
            "takes pyarrow, which is not installed",
            "pip install 'genre-edge[catalogue]', or write .csv",
        ) from None
    return _parquet_file


def _csv(rows: Iterator[Row], file: io.TextIOBase | Any) -> None:
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _csv_file(rows: Iterator[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        _csv(rows, file)


def _parquet_file(rows: Iterator[Row], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = {"seconds": pa.float64(), "confidence": pa.float64()}
    times = {"start": pa.timestamp("ms", tz="UTC"), "end": pa.timestamp("ms", tz="UTC")}
    schema = pa.schema([(name, {**numbers, **times}.get(name, pa.string())) for name in COLUMNS])
    with pq.ParquetWriter(path, schema) as writer:
        while batch := list(itertools.islice(rows, ROWS_AT_ONCE)):
            for row in batch:
                row.update({name: datetime.fromisoformat(row[name].replace("Z", "+00:00")) for name in times})
            writer.write_table(pa.Table.from_pylist(batch, schema))
