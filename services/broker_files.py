"""Files of a broker: replaced in one step, never readable by more than they should be. Start at `write`."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from services.errors import GenreError


def write(path: Path, content: bytes, mode: int, for_broker: bool = False) -> None:
    """Replace a file in one step, never readable by more than `mode` allows; the broker's own belong to its account."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    new.chmod(mode)
    if for_broker and os.geteuid() == 0:
        with contextlib.suppress(LookupError):
            shutil.chown(new, "mosquitto", "mosquitto")
    new.replace(path)


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
