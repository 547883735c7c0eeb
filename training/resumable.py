"""Runs that survive being killed: a folder holds the last whole step of a run, and `state.json` says which one it is.

The state's renaming is the one moment at which a step counts. A key stands for everything a run depends on, so that no
run goes on with other audio or options. Also here: what goes into training is finite. Start at `Resumable`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services import files
from services.errors import GenreError

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many steps are done, and how many there are."""
ANEW = "remove that folder or give another --out"
_BLOCK = 4096


class Resumable:
    """One run in its folder.

    Args:
        folder: made when something is kept.
        key: changes with everything the result depends on but the number of steps.
        suffix: of the file that holds a step, e.g. ".keras".

    Raises:
        GenreError: the folder holds a run with another key, or a state that can't be read.
    """

    def __init__(self, folder: Path, key: str, suffix: str = "") -> None:
        self.folder, self._key, self._suffix = folder, key, suffix
        self._state = folder / "state.json"
        self.found: dict[str, Any] = self._read()

    @property
    def history(self) -> list[dict[str, Any]]:
        """One line for each whole epoch."""
        return list(self.found.get("history", []))

    def kept(self) -> Path:
        """Return the file of the last whole epoch."""
        return self._file(len(self.history))

    def keep_epoch(self, line: dict[str, Any], write: Callable[[Path], None]) -> None:
        """Keep an epoch: its file is written beside the old one, then the state names it, then the old one goes.

        Args:
            line: what the history says of it.
            write: writes the epoch's file to the given place.

        Raises:
            GenreError: for a folder that can't be written.
        """
        history = [*self.history, line]
        kept = self._file(len(history))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with files.replacing(kept) as new:
                write(new)
            self.note(history=history)
            for old in self.folder.glob(f"epoch-*{self._suffix}"):
                if old != kept:
                    old.unlink()
        except OSError as error:
            raise GenreError(
                str(self.folder), f"can't be written ({error})", "give --out a folder with room"
            ) from error

    def note(self, **values: Any) -> None:
        """Replace the state by these values, whole or not at all.

        Raises:
            OSError: it can't be written.
        """
        files.replace(self._state, json.dumps({"key": self._key, **values}))
        self.found = values

    def _file(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04d}{self._suffix}"

    def _read(self) -> dict[str, Any]:
        if not self._state.is_file():
            return {}
        try:
            found: dict[str, Any] = json.loads(self._state.read_text(encoding="utf-8"))
            key = found.pop("key")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise GenreError(str(self._state), f"can't be read ({error})", ANEW) from error
        if key != self._key:
            raise GenreError(str(self.folder), "holds a run with other audio, weights or options", ANEW)
        return found


def require_finite(what: str, array: NDArray[Any]) -> None:
    """Refuse numbers that would teach nonsense; a memory-mapped array is read a block at a time.

    Looking at the loss alone is not enough: where ReLU is max(x, 0) by AVX-512, a NaN in the features becomes 0.

    Args:
        what: what the array holds, for the message.
        array: shape [rows, ...].

    Raises:
        GenreError: naming the first row with a value that is not finite.
    """
    for first in range(0, len(array), _BLOCK):
        block = np.asarray(array[first : first + _BLOCK])
        fine = np.isfinite(block.reshape(len(block), -1)).all(axis=1)
        if not fine.all():
            row = first + int(fine.argmin())
            raise GenreError(what, f"row {row} holds values that are not finite", "make them again from sound audio")
