"""Which tracks there are: folders, files, lists of paths; streamed, so that a million of them take no memory.

What can't be looked at is a track all the same, so that it is listed with its reason. Start at `tracks`; `Feed` reads
ahead of the run in a thread, for `find` on a far disk may be slower than the workers.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from itertools import islice
from pathlib import Path

from services.classify.catalogue.work import Track
from services.classify.files import SUFFIXES, found_files
from services.errors import GenreError

BLOCK_BYTES = 1 << 16
LONGEST_PATH_BYTES = 1 << 16


def tracks(sources: Iterable[str]) -> Iterator[Track]:
    """Yield every track of folders, audio files, lists of paths, and '-', which is a list on standard input.

    A list has a path a line, or, like `find -print0` writes it, a NUL after each. A path may lead to a folder.

    Raises:
        GenreError: a source is not there, can't be read, or is no list of paths.
    """
    for source in sources:
        path = Path(source)
        if source == "-":
            # Unbuffered: a thread that waits within a buffered reader can't be left behind at the end.
            with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stdin:
                yield from _listed(stdin, "standard input")
        elif path.is_dir() or path.suffix.lower() in SUFFIXES:
            if not path.exists():
                raise GenreError(source, "is not there", "give a folder, an audio file or a list of paths")
            yield from _within(path)
        else:
            try:
                with path.open("rb", buffering=0) as file:
                    yield from _listed(file, source)
            except OSError as error:
                reason = f"can't be read ({error.strerror or error})"
                raise GenreError(source, reason, "give a folder, an audio file or a list of paths") from error


def _listed(file: FileIO, name: str) -> Iterator[Track]:
    mark, rest = b"", b""
    while block := file.read(BLOCK_BYTES):
        mark = mark or (b"\0" if b"\0" in block else b"\n")
        *entries, rest = (rest + block).split(mark)
        for entry in entries:
            yield from _entry(entry, mark)
        if len(rest) > LONGEST_PATH_BYTES:
            raise GenreError(name, "is no list of paths", "give a text file with a path a line")
    yield from _entry(rest, mark)


def _entry(entry: bytes, mark: bytes) -> Iterator[Track]:
    path = os.fsdecode(entry.removesuffix(b"\r") if mark == b"\n" else entry)
    if path:
        yield from _within(Path(path))


def _within(path: Path) -> Iterator[Track]:
    """Yield what is below a folder, or the file itself."""
    unreadable: list[OSError] = []
    for file in found_files([path], unreadable.append):
        yield from map(_folder, unreadable)
        unreadable.clear()
        yield _look(_absolute(file))
    yield from map(_folder, unreadable)


def _folder(error: OSError) -> Track:
    return Track(_absolute(error.filename), folder_error=f"folder can't be read ({error.strerror})")


def _absolute(path: str | Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - resolve() would follow links, and a link is the name people know


def _look(path: str) -> Track:
    try:
        return Track.at(path, Path(path).stat())
    except (OSError, ValueError):
        return Track(path)


class Feed:
    """Batches of tracks, made a few ahead in a thread of their own.

    Args:
        tracks: what to read; an error of it comes out of `next`.
        wanted: which of them to keep; the others count as skipped.
        size: tracks in a batch.

    Attributes:
        listed, skipped: how many so far.
        ended: there are no more.
    """

    AHEAD = 8

    def __init__(self, tracks: Iterable[Track], wanted: Callable[[Track], bool], size: int) -> None:
        self.listed = self.skipped = 0
        self.ended = False
        self._tracks, self._wanted, self._size = tracks, wanted, size
        self._ready: queue.Queue[tuple[Track, ...] | BaseException | None] = queue.Queue(self.AHEAD)
        threading.Thread(target=self._read, name="listing", daemon=True).start()

    def next(self) -> tuple[Track, ...] | None:
        """Return a batch; None where none is ready now, or none is left."""
        try:
            found = self._ready.get_nowait()
        except queue.Empty:
            return None
        if isinstance(found, BaseException):
            raise found
        self.ended = found is None
        return found

    def _read(self) -> None:
        try:
            kept = filter(self._keep, self._tracks)
            while batch := tuple(islice(kept, self._size)):
                self._ready.put(batch)
            self._ready.put(None)
        except BaseException as error:
            self._ready.put(error)

    def _keep(self, track: Track) -> bool:
        self.listed += 1
        wanted = self._wanted(track)
        self.skipped += not wanted
        return wanted
