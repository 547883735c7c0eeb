"""What the history answers: segments for the timeline, seconds by genre, events. Reads only; start at `HistoryReader`.

Every question is answered by SQLite row by row, so that 400 days take no more memory than one.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pydantic import ValidationError

from services.contract.messages import Event
from services.dashboard.history.tables import open_to_read
from services.dashboard.state.genre_segments import LONGEST_S, GenreSegment
from services.text import utc

_KIND = "CASE WHEN kind != '' THEN kind WHEN genre IS NULL THEN 'silence' ELSE 'music' END"
"""Files of before kinds were kept know only silence and the rest."""
_SEGMENT = f"stream, start, end, genre, confidence, title, artist, {_KIND}"
_REACH_S = 10 * LONGEST_S
"""A segment that begins this long before a stretch of time does not reach into it."""


@dataclass(frozen=True)
class Share:
    """How long one genre (None: none) of one kind was heard in one slice of time."""

    slice: int
    kind: str
    genre: str | None
    seconds: float


class HistoryReader:
    """One connection that answers; close it after use."""

    def __init__(self, path: Path) -> None:
        self._connection = open_to_read(path)
        try:
            columns = {row[1] for row in self._connection.execute("PRAGMA table_info(runs)")}
        except BaseException:
            self._connection.close()
            raise
        self._old = "kind" not in columns

    def __enter__(self) -> HistoryReader:
        return self

    def __exit__(self, *what: object) -> None:
        self._connection.close()

    def _ask(self, text: str, values: Sequence[object]) -> sqlite3.Cursor:
        # Opened on a read-only disk, a file of before kinds were kept can't be given the column.
        return self._connection.execute(text.replace(_KIND, _KIND.replace("kind", "''")) if self._old else text, values)

    def streams(self) -> list[str]:
        """Return the names of the streams, sorted."""
        # One step through the index a name, instead of through every row.
        text = (
            "WITH RECURSIVE names(n) AS (SELECT min(stream) FROM runs UNION ALL SELECT (SELECT min(stream) FROM runs "
        )
        text += "WHERE stream > n) FROM names WHERE n IS NOT NULL) SELECT n FROM names WHERE n IS NOT NULL"
        return [name for (name,) in self._ask(text, ())]

    def segments(
        self, begin: float = float("-inf"), end: float = float("inf"), streams: Sequence[str] = (), step_s: float = 0.0
    ) -> Iterator[GenreSegment]:
        """Yield the segments that overlap a stretch of time, by stream and start.

        Args:
            begin, end: Unix time.
            streams: only these; all where empty.
            step_s: where no finer detail is asked for, one segment a genre and step, as long as its share of it.
        """
        coarse = step_s > LONGEST_S
        for stream in sorted(streams) if streams else self.streams():
            if coarse:
                text = (
                    "SELECT CAST((max(start, ?1) - ?1) / ?2 AS INTEGER) AS step, genre,"
                    " sum(min(end, ?3) - max(start, ?1)),"
                    f" sum((min(end, ?3) - max(start, ?1)) * confidence), {_KIND} FROM runs"
                    " WHERE stream = ?4 AND start >= ?5 AND start < ?3 AND end > max(start, ?1) GROUP BY step, genre, 5"
                )
                for step, genre, seconds, weighted, kind in self._ask(
                    text, (begin, step_s, end, stream, begin - _REACH_S)
                ):
                    at = begin + step * step_s
                    until = at + min(seconds, step_s)
                    yield GenreSegment(stream, at, until, genre, weighted / seconds, "", "", kind)
            else:
                text = f"SELECT {_SEGMENT} FROM runs WHERE stream = ? AND start >= ? AND start < ? AND end > ?"
                text += " ORDER BY start"
                for row in self._ask(text, (stream, begin - _REACH_S, end, begin)):
                    yield GenreSegment(*row)

    def shares(self, borders: Sequence[float], stream: str | None = None) -> Iterator[Share]:
        """Yield seconds by slice, kind and genre, over all streams or one.

        Args:
            borders: Unix times between the slices, n + 1 of them for n slices.
        """
        where = "AND stream = ?4" if stream is not None else ""
        text = (
            f"SELECT {_KIND}, genre, sum(min(end, ?2) - max(start, ?1)) AS seconds FROM runs "
            f"WHERE start >= ?3 AND start < ?2 AND end > ?1 {where} GROUP BY 1, genre ORDER BY seconds DESC"
        )
        for number, (begin, end) in enumerate(pairwise(borders)):
            values: tuple[object, ...] = (begin, end, begin - _REACH_S)
            for row in self._ask(text, (*values, stream) if stream is not None else values):
                yield Share(number, *row)

    def events(self, most: int, stream: str | None = None) -> list[dict[str, object]]:
        """Return the latest events, newest first."""
        where, values = ("WHERE stream = ?", (stream,)) if stream is not None else ("", ())
        names = ("at", "stream", "kind", "seconds", "cause", "reason")
        rows = self._ask(f"SELECT {', '.join(names)} FROM events {where} ORDER BY id DESC LIMIT ?", (*values, most))
        return [dict(zip(names, row, strict=True)) for row in rows]

    def latest(self, most: int) -> list[tuple[float, Event]]:
        """Return the latest events as they were heard, oldest first; what no longer is an event is left out."""
        found = []
        for row in reversed(self.events(most)):
            at = float(str(row.pop("at")))
            with contextlib.suppress(ValidationError, ValueError, OverflowError, OSError):
                found.append((at, Event.model_validate({**row, "at": utc(at)})))
        return found
