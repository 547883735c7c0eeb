"""Sound for distillation: a library of decoded audio, and windows drawn from it at random and changed.

Unlabelled: whatever the window has become, the teachers say what it is. Every window depends on the seed and its
number only. Start at `Library.read`, then `Draw.window`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from training.degradations import aac, varied

Progress = Callable[[str, int, int], None]
Pcm = NDArray[np.int16]
Signal = NDArray[np.float32]
LONGEST_S, LEAST_S = 100, 0.2
"""Of a longer file the beginning is used: more of the same piece teaches little. A shorter one is left out."""
JOINED_S = 40
"""Files shorter than a window that lie in one folder stand one after the other, up to so long: prompts and letters are
then heard as speech is, one word after another."""
PAUSE_S = (0.05, 0.5)
DRAWN_RMS = 0.1
MIXED, MIXED_DB = 0.25, 14.0
TILTED, TILT = 0.2, 0.5
CHANGED, CODED, BIT_RATES = 0.15, 0.1, (32_000, 48_000, 64_000)


def audio_files(folders: Sequence[Path]) -> list[list[Path]]:
    """Return every audio file under each folder, by its name's ending, in a fixed order.

    Raises:
        GenreError: for a folder that is none or holds no such file.
    """
    made: list[list[Path]] = []
    for folder in folders:
        if not folder.is_dir():
            raise GenreError(str(folder), "is no folder", "give --audio a folder of audio files")
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not found:
            raise GenreError(str(folder), "holds no audio file", "give --audio a folder of sound files")
        made.append(found)
    return made


@dataclass(frozen=True)
class Library:
    """Decoded pieces, each int16 mono at 22,050 Hz.

    Attributes:
        folders: the pieces of each folder that was given.
        skipped: files that could not be used, each with the reason.
    """

    folders: list[list[Pcm]]
    skipped: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folders: Sequence[Sequence[Path]], progress: Progress) -> Library:
        """Decode audio files; one that can't be heard is noted and left out.

        Raises:
            GenreError: where no file of a folder can be heard.
        """
        made, done, count = cls([]), 0, sum(map(len, folders))
        for files in folders:
            whole: list[Pcm] = []
            short: dict[Path, list[Pcm]] = {}
            for path in files:
                done += 1
                progress("decoding", done, count)
                pcm = made._decoded(path)
                if pcm.size >= WINDOW:
                    whole.append(pcm)
                elif pcm.size >= LEAST_S * SAMPLE_RATE:
                    short.setdefault(path.parent, []).append(pcm)
            for parts in short.values():
                whole += _joined(parts)
            if not whole:
                reason = f"holds no audio that can be read ({made.skipped[0]})"
                raise GenreError(f"--audio {files[0].parent}", reason, "give a folder of sound files")
            made.folders.append(whole)
        return made

    def _decoded(self, path: Path) -> Pcm:
        """Decode one file; note why it is left out where it is."""
        parts, length = [], 0
        try:
            for part in pieces(path, Heard()):
                parts.append(part)
                length += part.size
                if length >= LONGEST_S * SAMPLE_RATE:
                    break
        except GenreError as error:
            self.skipped.append(f"{path}: {error.reason}")
            return np.zeros(0, np.int16)
        if length < LEAST_S * SAMPLE_RATE:
            self.skipped.append(f"{path}: lasts less than {LEAST_S:g} seconds")
        return np.concatenate(parts)[: LONGEST_S * SAMPLE_RATE] if parts else np.zeros(0, np.int16)


def _joined(parts: Sequence[Pcm]) -> list[Pcm]:
    """Return short files one after the other, alike in level, with pauses between them."""
    random = np.random.default_rng(0)
    made: list[list[Pcm]] = [[]]
    for pcm in parts:
        signal = pcm.astype(np.float32)
        loudness = float(np.sqrt(np.mean(np.square(signal))))
        if loudness == 0:
            continue
        if sum(part.size for part in made[-1]) > JOINED_S * SAMPLE_RATE:
            made.append([])
        signal *= np.float32(DRAWN_RMS * 32_768 / loudness)
        made[-1].append(np.clip(signal, -32_768, 32_767).astype(np.int16))
        made[-1].append(np.zeros(int(random.uniform(*PAUSE_S) * SAMPLE_RATE), np.int16))
    return [np.concatenate(each) for each in made if each]


class Draw:
    """Draws windows from a library, changed at random: speed, mixtures of two, tilt, telephone, level, codec."""

    def __init__(self, library: Library) -> None:
        """Take what to draw from: folders alike, in one a piece by the square root of its length, for long ones hold
        more of the same.
        """
        self._folders = library.folders
        roots = [np.sqrt([pcm.size for pcm in pieces]) for pieces in library.folders]
        self._shares = [each / each.sum() for each in roots]

    def window(self, seed: Sequence[int]) -> Pcm:
        """Return one window, int16 [66000]; the same for the same seed."""
        rng = np.random.default_rng(list(seed))
        signal = self._heard(rng)
        if rng.random() < MIXED:
            signal = signal + self._heard(rng) * np.float32(10 ** (rng.uniform(-MIXED_DB, MIXED_DB) / 20))
        if rng.random() < TILTED:
            signal[1:] -= np.float32(rng.uniform(-TILT, TILT)) * signal[:-1].copy()
        signal /= max(1.0, float(np.abs(signal).max()))
        made: Pcm = np.rint(signal * 32_767).astype(np.int16)
        change = rng.random()
        if change < CHANGED:
            return varied(made, rng)
        return aac(int(rng.choice(BIT_RATES)))(made) if change < CHANGED + CODED else made

    def _heard(self, rng: np.random.Generator) -> Signal:
        """Return one window of one piece at DRAWN_RMS; silence is drawn again, five times at most."""
        for _ in range(5):
            folder = int(rng.integers(len(self._folders)))
            pcm = self._folders[folder][rng.choice(len(self._shares[folder]), p=self._shares[folder])]
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
        drawn: Signal = np.resize(signal, WINDOW)
        drawn *= np.float32(DRAWN_RMS / max(1e-6, float(np.sqrt(np.mean(np.square(drawn))))))
        return drawn
