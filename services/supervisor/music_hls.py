"""A person's music as HLS for `genre up --music`: packaged once, kept in the cache, the first files of a large folder.

How files become HLS is services/origin/package.py. Start at `packaged`.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import click

from services.origin.package import Packaged, Packaging, music_files, package_each

MOST_FILES = 24
"""A folder may hold thousands: each file is a stream of its own, and a laptop classifies about this many live."""


def cached(music: Path) -> Path:
    """Return where the HLS of a folder is kept between runs."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "genre-edge" / f"hls-{hashlib.sha256(str(music.resolve()).encode()).hexdigest()[:12]}"


def packaged(music: Path, hls: Path) -> list[str]:
    """Package the music in a folder and return the names of its streams; what was packaged before is kept.

    Raises:
        UsageError: music is no folder. GenreError: there is no music in it, or the cache can't be written.
    """
    every = len(music_files(music)) if music.is_dir() else 0
    if every > MOST_FILES:
        click.echo(f"genre up: {music} holds {every} files; the first {MOST_FILES} are taken", err=True)
    result = Packaged()
    steps = package_each(music, hls, Packaging(coder="fast"), result, MOST_FILES)
    if sys.stderr.isatty():
        with click.progressbar(length=max(1, min(every, MOST_FILES)), label="packaging music", file=sys.stderr) as bar:
            for done, _ in steps:
                bar.update(done - bar.pos)
    else:
        for _ in steps:
            pass
    for file, reason in result.skipped.items():
        click.echo(f"genre up: {file.name}: {reason}; it is left out", err=True)
    return list(result.names.values())
