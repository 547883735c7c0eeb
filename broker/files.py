"""Files of a broker: replaced in one step, never readable by more than they should be. Start at `write`."""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path

from services import files
from services.errors import GenreError


def write(path: Path, content: bytes, mode: int, for_broker: bool = False) -> None:
    """Replace a file in one step, never readable by more than `mode` allows; the broker's own belong to its account."""
    owner = None
    if for_broker and os.geteuid() == 0:
        with contextlib.suppress(KeyError):
            owner = pwd.getpwnam("mosquitto").pw_name
    files.replace(path, content, mode=mode, owner=owner)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an OSError while files below a folder are written into one line.

    Raises:
        GenreError: naming the folder, the reason and what to do.
    """
    try:
        yield
    except OSError as error:
        root = "" if os.geteuid() == 0 else f"run it as root ('sudo {Path(sys.argv[0]).name} broker ...') or "
        raise GenreError(str(folder), f"can't be written ({error.strerror})", f"{root}give --folder") from error
