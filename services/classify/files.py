"""Which files below a folder are audio: the one walk of `genre classify`, of `genre package` and of a catalogue.

Albums that are links to elsewhere are followed; no folder is read twice, so that links in a circle end. Names may be
any bytes (PEP 383). Nothing is opened here. Start at `found_files`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

SUFFIXES = frozenset((
    ".aac", ".ac3", ".aif", ".aiff", ".alac", ".ape", ".au", ".caf", ".flac", ".m4a", ".m4b", ".mka", ".mp2",
    ".mp3", ".mp4", ".mpc", ".oga", ".ogg", ".opus", ".ts", ".tta", ".wav", ".webm", ".wma", ".wv",
))  # fmt: skip

Unreadable = Callable[[OSError], object]


def found_files(paths: Iterable[Path], unreadable: Unreadable | None = None) -> Iterator[Path]:
    """Yield the files themselves and, of folders, what has the suffix of an audio file, without hidden ones.

    Args:
        unreadable: told of each folder that can't be listed.

    Yields:
        sorted within a folder; what lies behind links comes last.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for file in files_below(path, unreadable):
            if file.suffix.lower() in SUFFIXES:
                yield file


def files_below(top: Path, unreadable: Unreadable | None = None) -> Iterator[Path]:
    """Yield every file below a folder but hidden ones and those in hidden folders, likewise."""
    seen: set[tuple[int, int]] = set()
    waiting = deque([top])
    while waiting:
        for folder, folders, names in os.walk(waiting.popleft(), onerror=unreadable):
            try:
                about = Path(folder).stat()
            except OSError as error:  # gone since it was listed
                if unreadable is not None:
                    unreadable(error)
                continue
            if (about.st_dev, about.st_ino) in seen:
                folders.clear()
                continue
            seen.add((about.st_dev, about.st_ino))
            shown = sorted(name for name in folders if not name.startswith("."))
            links = [name for name in shown if Path(folder, name).is_symlink()]
            folders[:] = [name for name in shown if name not in links]
            # Real folders first: an album keeps the name it has without the links.
            waiting.extend(Path(folder, name) for name in links if not _leads_back(Path(folder), name))
            yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _leads_back(folder: Path, name: str) -> bool:
    """Tell whether a link leads to a folder that it lies in itself: there, too, is everything around the music."""
    here = folder.resolve()
    return (folder / name).resolve() in (here, *here.parents)


def shown(path: str) -> str:
    """Return a path as tables of results have it: bytes that are no UTF-8 become \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
