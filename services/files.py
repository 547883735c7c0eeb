"""Replaces a file: after a crash or a power cut, too, there is all of the new one or what was there before.

A reader never meets half a file, nor one that is readable by more people than it should be. One writer of a path at a
time: whoever shares a path holds a lock of their own. Start at `replace`; `replacing` is for a library that
writes by itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path


def replace(
    path: Path, content: bytes | memoryview | str, *, mode: int | None = None, owner: str | None = None
) -> None:
    """Put content into a file's place in one step; text becomes UTF-8, its line endings are left as they are.

    Args:
        mode: the permissions, e.g. 0o600; None keeps those of the file there, or takes the usual ones for a new file.
        owner: the account (and group) that gets the file; None keeps the owner of the file there, where it is allowed.

    Raises:
        OSError: e.g. a full disk; the file is as it was, and nothing is left beside it.
        LookupError: there is no such account.
    """
    with replacing(path, mode=mode, owner=owner) as new:
        new.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int | None = None, owner: str | None = None) -> Iterator[Path]:
    """Yield an empty file beside `path`, with the same suffix; at the end it is put in `path`'s place.

    An exception inside leaves `path` as it was. Arguments and errors are those of `replace`.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # Always the same name: what a kill leaves behind is written over the next time and never adds up.
    new = path.with_name(f".{path.stem}.new{path.suffix}")
    new.unlink(missing_ok=True)
    try:
        before = path.stat()
    except FileNotFoundError:
        before = None
    if before is not None and not stat.S_ISREG(before.st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))  # /dev/null stays what it is
    # The umask applies to 0o666 as it does to any new file; one with a mode of its own is closed until it has it.
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if before is None and mode is None else 0o600))
    try:
        yield new
        if owner is not None:
            shutil.chown(new, owner, owner)
        elif before is not None:
            with contextlib.suppress(PermissionError):
                os.chown(new, before.st_uid, before.st_gid)
        if mode is not None:
            new.chmod(mode)
        elif before is not None:
            new.chmod(before.st_mode & 0o777)
        _sync(new)
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Write a file's content, or a folder's entries, through to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
