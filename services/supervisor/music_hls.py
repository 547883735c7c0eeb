"""A person's music as HLS for `genre up --music`: packaged once, kept in the cache, the first files of a large folder.

How files become HLS is services/origin/packager.py. Start at `packaged`.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import click

from services.errors import GenreError
from services.origin.packager import Packaged, Packaging, music_files, package_each
from services.supervisor import lock

MOST_FILES = 24
"""A folder may hold thousands: each file is a stream of its own, and a laptop classifies about this many live."""


def cached(music: Path) -> Path:
    """Return where the HLS of a folder is kept between runs."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "genre-edge" / f"hls-{hashlib.sha256(os.fsencode(music.resolve())).hexdigest()[:12]}"


def packaged(music: Path, hls: Path) -> list[str]:
    """Package the music in a folder and return the names of its streams; what was packaged before is kept.

    Where another process packages the same music, it is waited for, and what it made is taken.

    Raises:
        UsageError: music is no folder. GenreError: there is no music in it, or the cache can't be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.hold(hls.with_name(f"{hls.name}.packaging"), _say_waiting))
        except OSError as error:
            remedy = "set XDG_CACHE_HOME to a folder that can be written"
            raise GenreError(str(hls.parent), f"can't be written ({error.strerror})", remedy) from error
        return _packaged(music, hls)


def _say_waiting() -> None:
    click.echo("genre up: another process packages this music; waiting for it", err=True)


def _packaged(music: Path, hls: Path) -> list[str]:
    result = Packaged()
    steps = package_each(music, hls, Packaging(coder="fast"), result, MOST_FILES)
    if sys.stderr.isatty():
        with click.progressbar(length=MOST_FILES, label="packaging music", file=sys.stderr) as bar:
            for done, every in steps:
                bar.length = max(1, every)
                bar.update(done - bar.pos)
    else:
        for _ in steps:
            pass
    for remark in result.remarks(music):
        click.echo(f"genre up: {remark}", err=True)
    rest = len(music_files(music)) - len(result.names) - len(result.skipped)
    if rest > 0:
        click.echo(f"genre up: {music} holds more (files: {rest}); the first {MOST_FILES} pieces are taken", err=True)
    return list(result.names.values())
