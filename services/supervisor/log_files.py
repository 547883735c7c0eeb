"""The logs of `genre up` are bounded: a box that runs for months must not fill its disk with them. Start at `bound`."""

from __future__ import annotations

import shutil
from pathlib import Path

MOST_BYTES = 5_000_000
"""Of one log; with the one before it, a child keeps up to twice this."""


def bound(log: Path, most_bytes: int | None = None) -> bool:
    """Move a log that has grown too long to `<name>.1`, in the place of the one before; tell whether it was moved.

    The child goes on writing to the same file, which it appends to, so it is copied and emptied. Where there is no room
    for a copy, the log is emptied all the same: its disk is full.
    """
    try:
        if log.stat().st_size <= (MOST_BYTES if most_bytes is None else most_bytes):
            return False
    except OSError:
        return False
    before = log.with_name(f"{log.name}.1")
    try:
        shutil.copyfile(log, before)
    except OSError:
        before.unlink(missing_ok=True)
    with log.open("r+b") as file:
        file.truncate()
    return True
