"""Sound for distillation: a library of decoded audio, and windows drawn from it at random and changed.

Unlabelled: whatever the window has become, the teachers say what it is. Every window depends on the seed and its
number only. Start at `Library.read`, then `Draw.window`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from services.classify.audio_file import Heard
from services.classify.decode import pieces
from services.classify.files import SUFFIXES
from services.contract.windows import SAMPLE_RATE, WINDOW
from services.errors import GenreError
from services.featurizer.levels import SILENT_DBFS, levels
from training.degradations import varied

Progress = Callable[[str, int, int], None]
Pcm = NDArray[np.int16]
LONGEST_S = 100
"""Of a longer file the beginning is used: more of the same piece teaches little."""


def audio_files(folders: Sequence[Path]) -> list[Path]:
    """Return every audio file under some folders, by its name's ending, in a fixed order.

    Raises:
        GenreError: for a folder that is none or holds no such file.
    """
    files: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise GenreError(str(folder), "is no folder", "give --audio a folder of audio files")
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not found:
            raise GenreError(str(folder), "holds no audio file", "give --audio a folder of sound files")
        files += found
    return files


@dataclass(frozen=True)
class Library:
    """Decoded pieces, each int16 mono at 22,050 Hz, at least a second long.

    Attributes:
        names: of the pieces, for reports.
        pcm: the pieces.
        skipped: files that could not be used, each with the reason.
    """

    names: list[str]
    pcm: list[Pcm]
    skipped: list[str]

    @classmethod
    def read(cls, files: Sequence[Path], progress: Progress) -> Library:
        """Decode audio files; one that can't be heard is noted and left out.

        Raises:
            GenreError: where no file can be heard.
        """
        made = cls([], [], [])
        for number, path in enumerate(files):
            progress("decoding", number + 1, len(files))
            made._add(path)
        if not made.pcm:
            reason = f"holds no audio that can be read ({made.skipped[0]})"
            raise GenreError("--audio", reason, "give a folder of sound files")
        return made

    def _add(self, path: Path) -> None:
        """Decode one file, or note why it was left out."""
        parts, length = [], 0
        try:
            for part in pieces(path, Heard()):
                parts.append(part)
                length += part.size
                if length >= LONGEST_S * SAMPLE_RATE:
                    break
        except GenreError as error:
            self.skipped.append(f"{path}: {error.reason}")
            return
        pcm = np.concatenate(parts) if parts else np.zeros(0, np.int16)
        if pcm.size < SAMPLE_RATE:
            self.skipped.append(f"{path}: lasts less than one second")
            return
        self.names.append(str(path))
        self.pcm.append(pcm[: LONGEST_S * SAMPLE_RATE])

    @property
    def seconds(self) -> float:
        """Return how much there is."""
        return sum(pcm.size for pcm in self.pcm) / SAMPLE_RATE


class Draw:
    """Draws windows from a library, changed at random: speed, mixtures of two, telephone, level."""

    def __init__(self, library: Library) -> None:
        """Take what to draw from: a piece by the square root of its length, for long ones hold more of the same."""
        self._library = library
        weights = np.sqrt([pcm.size for pcm in library.pcm])
        self._shares = weights / weights.sum()

    def window(self, seed: Sequence[int]) -> Pcm:
        """Return one window, int16 [66000]; the same for the same seed."""
        rng = np.random.default_rng(list(seed))
        signal = self._heard(rng)
        if rng.random() < 0.25:
            signal = signal + self._heard(rng) * np.float32(10 ** (rng.uniform(-14, 2) / 20))
        signal /= max(1.0, float(np.abs(signal).max()))
        made: Pcm = np.rint(signal * 32_767).astype(np.int16)
        return varied(made, rng) if rng.random() < 0.25 else made

    def _heard(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return one window of one piece in -1..1; silence is drawn again, five times at most."""
        for _ in range(5):
            pcm = self._library.pcm[rng.choice(len(self._shares), p=self._shares)]
            speed = 2 ** rng.uniform(-0.3, 0.3) if rng.random() < 0.3 else 1.0
            needed = round(WINDOW * speed) + 1
            start = int(rng.integers(0, max(1, pcm.size - needed + 1) if pcm.size >= needed else pcm.size))
            # A piece shorter than a window is repeated, as in the service.
            part = np.take(pcm, np.arange(start, start + needed), mode="wrap")
            if levels(part[None]).rms_dbfs[0] >= SILENT_DBFS:
                break
        signal = part.astype(np.float32) / 32_768
        if speed != 1.0:
            signal = soxr.resample(signal, SAMPLE_RATE * speed, SAMPLE_RATE, quality="LQ")
        return np.resize(signal, WINDOW)
