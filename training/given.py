"""What a person gives a long job: files that may be anything, and places that may not take a result.

Places are tried before the work, which takes hours, and not after it. Start at `takes_file` and `UNREADABLE`.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from services.errors import GenreError

if TYPE_CHECKING:
    import onnx

UNREADABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError, RuntimeError, MemoryError,
    zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip
"""What numpy, zipfile and json raise for a file that is none of theirs, is cut off, or holds something else."""


def archive_of(path: Path) -> Any:
    """Open an .npz archive, to be read in a `with`; what is in it is never unpickled.

    Raises:
        OSError, ValueError: e.g. a file that is no archive; numpy would advise to unpickle it.
    """
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is no .npz archive")
    return np.load(path, allow_pickle=False)


def network(path: Path, remedy: str) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        GenreError: where it is none.
    """
    import onnx  # not for those who evaluate a model alone

    try:
        return onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # protobuf's errors and Python's share no base class
        raise GenreError(str(path), f"can't be read ({error})", remedy) from error


def takes_file(option: str, path: Path) -> None:
    """Make the folder of a file that is to be written, and see whether it can be.

    Raises:
        GenreError: where it can't.
    """
    if path.exists() and not path.is_file():
        raise GenreError(str(path), "is no file that can be replaced", f"give {option} the name of a file")
    _takes(option, path.parent, str(path))


def takes_folder(option: str, folder: Path) -> None:
    """See whether a folder could be made that results are to be written to, and would take them; none is left behind.

    Raises:
        GenreError: where not.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    _takes(option, folder, str(folder))
    with contextlib.suppress(OSError):  # another run put something there meanwhile
        for each in missing:
            each.rmdir()


def _takes(option: str, folder: Path, thing: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise GenreError(thing, f"can't be written ({error.strerror})", f"give {option} a place that can") from error
