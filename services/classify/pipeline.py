"""A file's way through the pure parts: decode, windows, mel, scores, verdict. No broker, no terminal, no state.

The same functions as the services', so a file gets the same windows and scores as it would as a stream. A batch engine
calls `Pipeline.classify` in each of its workers. Start there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.classify.audio_file import Heard
from services.classify.decode import pieces
from services.contract.smoothing import Verdict
from services.contract.windows import HOP, SAMPLE_RATE, WINDOW, fill
from services.errors import GenreError
from services.featurizer.features import Featurizer
from services.featurizer.levels import levels
from services.inference.card import Card, load_card
from services.inference.decision import decide_clip, decide_windows, loudest_sounds
from services.inference.onnx_backend import OnnxBackend

BATCH = 16
QUIETEST_DBFS = -120.0


@dataclass(frozen=True)
class Window:
    """One window's answer."""

    start_s: float
    end_s: float
    verdict: Verdict
    level_dbfs: float
    sounds: dict[str, float] | None = None


@dataclass(frozen=True)
class Classified:
    """One file's answer.

    Attributes:
        seconds: length of the audio.
        verdict: of all windows together; None where the file could not be classified.
        problem: why not, or what was odd about it; '' where all is well.
    """

    file: str
    seconds: float = 0.0
    title: str = ""
    artist: str = ""
    verdict: Verdict | None = None
    windows: tuple[Window, ...] = field(default=(), repr=False)
    problem: str = ""


def windowed(audio: Iterator[NDArray[np.int16]], hop: int = HOP) -> Iterator[tuple[int, int, NDArray[np.int16]]]:
    """Cut audio that comes in pieces by the rule of services/contract/windows.py `starts`, holding a window or two.

    Yields:
        (first sample, samples of the file in it, int16 [66,000]); the last window ends with the audio.
    """
    held, first, total, next_start = np.zeros(0, np.int16), 0, 0, 0
    for piece in audio:
        held = np.concatenate([held, piece])
        total += piece.size
        while next_start + WINDOW <= total:
            yield next_start, WINDOW, held[next_start - first : next_start - first + WINDOW]
            next_start += hop
        # A whole window stays: the last one may have to be moved back over audio that was used already.
        drop = max(0, total - WINDOW - first)
        drop = min(drop, max(0, next_start - first))
        held, first = held[drop:], first + drop
    if total < WINDOW:
        if total >= SAMPLE_RATE:
            yield 0, total, fill(held)
    elif next_start - hop + WINDOW < total:
        last = total - WINDOW
        yield last, WINDOW, held[last - first : last - first + WINDOW]


class Pipeline:
    """A model ready to answer for files; not for use by two threads at once.

    Args:
        hop: samples between windows.
    """

    def __init__(self, models_dir: Path, model: str, hop: int = HOP) -> None:
        self.card: Card = load_card(models_dir, model)
        self.featurizer = Featurizer(self.card.recipe)
        self.backend = OnnxBackend(self.card)
        self._hop = hop

    def classify(self, path: Path) -> Classified:
        """Classify one file.

        Raises:
            GenreError: where there is nothing to hear in it.
        """
        file = Heard()
        heard = _Answered()
        batch: list[tuple[int, int, NDArray[np.int16]]] = []
        for window in windowed(heard.counted(pieces(path, file)), self._hop):
            batch.append(window)
            if len(batch) == BATCH:
                self._answer(batch, heard)
                batch = []
        if batch:
            self._answer(batch, heard)
        if not heard.windows:
            length = heard.samples / SAMPLE_RATE
            raise GenreError(str(path), f"is too short ({length:.2f} s)", "a genre needs at least 1 s of audio")
        verdict = decide_clip([window.verdict for window in heard.windows], self.card)
        seconds, windows = heard.samples / SAMPLE_RATE, tuple(heard.windows)
        return Classified(str(path), seconds, file.title, file.artist, verdict, windows, file.left_out)

    def _answer(self, batch: list[tuple[int, int, NDArray[np.int16]]], heard: _Answered) -> None:
        pcm = np.stack([window for _, _, window in batch])
        answer = self.backend.answer(self.featurizer.views(pcm))
        loud = np.maximum(levels(pcm).rms_dbfs, QUIETEST_DBFS)
        if problem := answer.problem():
            raise GenreError(f"model {self.card.name}", f"answered, but {problem}", "export the model again")
        for place, ((first, samples, _), verdict) in enumerate(
            zip(batch, decide_windows(answer, loud, self.card), strict=True)
        ):
            sounds = loudest_sounds(self.card, None if answer.sounds is None else answer.sounds[place])
            start_s, end_s = first / SAMPLE_RATE, (first + samples) / SAMPLE_RATE
            heard.windows.append(Window(start_s, end_s, verdict, float(loud[place]), sounds))


class _Answered:
    """What was answered of one file so far."""

    def __init__(self) -> None:
        self.samples = 0
        self.windows: list[Window] = []

    def counted(self, audio: Iterator[NDArray[np.int16]]) -> Iterator[NDArray[np.int16]]:
        for piece in audio:
            self.samples += piece.size
            yield piece
