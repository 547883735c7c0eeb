"""One process at a time: a lock on a folder that ends with its holder, however that ends.

Two `genre up` in one folder would take each other's streams over; two that package one music folder would write each
other's files. Start at `hold`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

NAME = ".lock"


class TakenError(Exception):
    """Another process holds the lock.

    Attributes:
        pid: of the holder; None where it did not say.
    """

    def __init__(self, pid: int | None) -> None:
        super().__init__(f"process {pid}" if pid else "another process")
        self.pid = pid


@contextlib.contextmanager
def hold(folder: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a folder, which is made where it is missing.

    Args:
        on_wait: called once before waiting for another holder to end; None does not wait.

    Raises:
        TakenError: another process holds it, and there is no waiting.
        OSError: the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Never removed: who opened the old file and who opens a new one would each hold a lock of their own.
    with open(os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is None:
                said = file.read(20).strip()
                raise TakenError(int(said) if said.isdigit() else None) from None
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
