"""What a person changes in the file given with `genre up --config` while it runs: its streams are followed.

The run has a configuration of its own, made of that file, the options, and what was added on the page; so what is
taken over is what changed in the file since it was last read. What was changed on the page is written into the file,
too. Start at `ConfigFile.changes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from services.errors import GenreError
from services.settings import loading, schema, stream_editor

Stamp = tuple[int, int, int] | None


class ConfigFile:
    """The file that a person edits.

    Args:
        path: None where none was given; then nothing ever changes.
        loaded: what it held when the run began.
    """

    def __init__(self, path: Path | None, loaded: schema.Settings) -> None:
        self._path, self._loaded = path, loaded
        self._stamp = _stamp_of(path)
        self._kept: Stamp = None
        self._running: dict[str, schema.Stream] = {}

    def keep(self, written: Path) -> None:
        """Write into the file what was changed on the page since the last call: added, paused, resumed, removed.

        Args:
            written: the run's own configuration, which the page edits.

        Raises:
            GenreError: the file can't be changed; the run has what the page says all the same.
        """
        stamp = _stamp_of(written)
        if self._path is None or stamp is None or stamp == self._kept:
            return
        first, self._kept = self._kept is None, stamp
        before, self._running = self._running, {each.name: each for each in loading.load(written).streams}
        if first:
            return
        there = {stream.name: stream for stream in self._loaded.streams}
        for name in {**before, **self._running}:
            now = self._running.get(name)
            if now is None and name in there:
                stream_editor.change(self._path, stream_editor.remove(name))
            elif now is not None and name not in before and name not in there:
                stream_editor.change(self._path, stream_editor.add(now))
            elif now is not None and name in there and name in before and now.paused != there[name].paused:
                stream_editor.change(self._path, stream_editor.pause(name, now.paused))

    def changes(self, running: Callable[[], Iterable[schema.Stream]]) -> tuple[tuple[schema.Stream, ...], str] | None:
        """Return the streams as they should be now, and what else was changed, in words; None where nothing was.

        Args:
            running: asked for the streams that the run has now, those of options and of the page included.

        Raises:
            GenreError: the file can't be read, or is not right; it is looked at again once it has changed again.
        """
        stamp = _stamp_of(self._path)
        if stamp is None or stamp == self._stamp:
            return None
        self._stamp = stamp
        before, self._loaded = self._loaded, self._load()
        was = {stream.name: stream for stream in before.streams}
        wanted = {stream.name: stream for stream in self._loaded.streams}
        streams = {stream.name: stream for stream in running() if stream.name not in was or stream.name in wanted}
        streams |= {name: stream for name, stream in wanted.items() if was.get(name) != stream}
        sections = [name for name in schema.Settings.model_fields if name != "streams"]
        other = [name for name in sections if getattr(before, name) != getattr(self._loaded, name)]
        return tuple(streams.values()), ", ".join(f"[{name}]" for name in other)

    def _load(self) -> schema.Settings:
        try:
            return loading.load(self._path)
        except GenreError as error:
            raise GenreError(error.thing, error.reason, f"{error.remedy}; the streams stay as they were") from error


def _stamp_of(path: Path | None) -> Stamp:
    """Return what differs after a file was written; None while there is no file."""
    try:
        stat = path.stat() if path is not None else None
    except OSError:
        return None  # an editor may be putting a new one in its place
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino) if stat is not None else None
