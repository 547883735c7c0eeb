"""Music for distillation: a library of decoded audio, windows drawn from it at random and changed, and the teacher's
answer to each.

Unlabelled: whatever the window has become, the teacher says what it is. Every window depends on the seed and its
number only, so labelling that was killed goes on where it was. Start at `Library.read`, then `label`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import soxr
from numpy.typing import NDArray

from services.classify.decode import SUFFIXES, Decoded, pieces
from services.errors import GenreError
from services.featurizer.features import Featurizer
from services.featurizer.recipe import PCM_RATE, Recipe
from services.featurizer.windows import SILENT_DBFS, WINDOW, levels
from services.inference.card import INPUT, MODEL_FILE, Card
from training.musicnn import BANDS, FRAMES, TAGS

ANEW = "remove that folder or give another --out"

Progress = Callable[[str, int, int], None]
Pcm = NDArray[np.int16]
LONGEST_S = 100
"""Of a longer file the beginning is used: more of the same piece teaches little."""
CHUNK = 64
"""Windows between two states on disk."""


def audio_files(folders: Sequence[Path]) -> list[Path]:
    """Return every audio file under some folders, by its name's ending, in a fixed order.

    Raises:
        GenreError: for a folder that is none or holds no such file.
    """
    files: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise GenreError(str(folder), "is no folder", "give --music a folder of audio files")
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not found:
            raise GenreError(str(folder), "holds no audio file", "give --music a folder of music files")
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
            raise GenreError("--music", reason, "give a folder of music files")
        return made

    def _add(self, path: Path) -> None:
        """Decode one file, or note why it was left out."""
        parts, length = [], 0
        try:
            for part in pieces(path, Decoded()):
                parts.append(part)
                length += part.size
                if length >= LONGEST_S * PCM_RATE:
                    break
        except GenreError as error:
            self.skipped.append(f"{path}: {error.reason}")
            return
        pcm = np.concatenate(parts) if parts else np.zeros(0, np.int16)
        if pcm.size < PCM_RATE:
            self.skipped.append(f"{path}: lasts less than one second")
            return
        self.names.append(str(path))
        self.pcm.append(pcm[: LONGEST_S * PCM_RATE])

    @property
    def seconds(self) -> float:
        """Return how much there is."""
        return sum(pcm.size for pcm in self.pcm) / PCM_RATE


class Draw:
    """Draws windows from a library, changed at random: speed, mixtures of two, level, tone."""

    def __init__(self, library: Library, recipe: Recipe, partners: Library | None = None) -> None:
        """Take what to draw from: a piece by the square root of its length, for long ones hold more of the same.

        Args:
            partners: what half of the mixtures take their second part from.
        """
        self._library, self._partners = library, partners or library
        self._featurizer = Featurizer(recipe)

    def features(self, seed: Sequence[int]) -> NDArray[np.float32]:
        """Return the features of one window, shape [frames, bands]; the same for the same seed."""
        rng = np.random.default_rng(list(seed))
        signal = self._heard(rng, self._library)
        if rng.random() < 0.35:
            other = self._heard(rng, self._partners if rng.random() < 0.5 else self._library)
            signal = signal + other * np.float32(10 ** (rng.uniform(-14, 2) / 20))
        signal /= max(1.0, float(np.abs(signal).max()))
        made = self._featurizer.features(signal[None])[0]
        return _toned(rng, made)

    def _heard(self, rng: np.random.Generator, library: Library) -> NDArray[np.float32]:
        """Return one window of one piece in -1..1; silence is drawn again, five times at most."""
        weights = np.sqrt([pcm.size for pcm in library.pcm])
        for _ in range(5):
            pcm = library.pcm[rng.choice(len(weights), p=weights / weights.sum())]
            speed = 2 ** rng.uniform(-0.3, 0.3) if rng.random() < 0.5 else 1.0
            needed = round(WINDOW * speed) + 1
            start = int(rng.integers(0, max(1, pcm.size - needed + 1) if pcm.size >= needed else pcm.size))
            # A piece shorter than a window is repeated, as in the service.
            part = np.take(pcm, np.arange(start, start + needed), mode="wrap")
            if levels(part[None]).rms_dbfs[0] >= SILENT_DBFS:
                break
        signal = part.astype(np.float32) / 32_768
        if speed != 1.0:
            signal = soxr.resample(signal, PCM_RATE * speed, PCM_RATE, quality="LQ")
        return np.resize(signal, WINDOW)


def _toned(rng: np.random.Generator, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Change level and tone of features log10(1 + 10000 x), as if the sound before them had been filtered."""
    change = np.float32(rng.normal(-2, 6) if rng.random() < 0.6 else 0.0) + np.zeros(features.shape[1], np.float32)
    if rng.random() < 0.4:
        place = np.linspace(0, 1, features.shape[1], dtype=np.float32)
        for turns in (0.5, 1, 2):
            change += np.float32(rng.normal(0, 3)) * np.cos(2 * np.pi * (turns * place + np.float32(rng.random())))
    power = (10.0**features - 1) * 10 ** (np.minimum(change, 12) / 10)
    return np.asarray(np.log10(1 + np.maximum(power, 0)), np.float32)


class Teacher:
    """A model of this project on musicnn's network, tapped at its tags."""

    def __init__(self, card: Card) -> None:
        """Open the network at its tag logits and its last hidden layer.

        Raises:
            GenreError: for a model that has no layer of 50 tags.
        """
        model = onnx.load(card.path(MODEL_FILE))
        made = {node.output[0]: node for node in model.graph.node}
        used = {name: node for node in model.graph.node for name in node.input}
        weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        found = [
            node
            for node in model.graph.node
            if node.op_type == "Sigmoid" and node.input[0] in made and made[node.input[0]].op_type == "Gemm"
        ]
        shapes = [weights.get(made[node.input[0]].input[1], ()) for node in found]
        if len(found) != 1 or len(shapes[0]) != 2 or shapes[0][1] != len(TAGS) or found[0].output[0] not in used:
            raise GenreError(f"model {card.name!r}", "has no layer of 50 tags to learn from", "take --teacher musicnn")
        logits = found[0].input[0]
        self._names = [logits, made[logits].input[0]]
        self.hidden = shapes[0][0]
        model.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in self._names
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def answer(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return tag logits [windows, 50] and hidden values [windows, hidden] of features [windows, frames, bands]."""
        parts = [self._session.run(self._names, {INPUT: window[None]}) for window in features]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


@dataclass(frozen=True)
class Labelled:
    """Windows with the teacher's answers, memory-mapped.

    Attributes:
        features: float16 [windows, frames, bands].
        logits: the teacher's tag logits, float32 [windows, 50].
        hidden: its last hidden layer, float16 [windows, hidden].
    """

    features: NDArray[np.float16]
    logits: NDArray[np.float32]
    hidden: NDArray[np.float16]


def label(
    draw: Callable[[], Draw], teacher: Teacher, count: int, seed: int, folder: Path, key: str, progress: Progress
) -> Labelled:
    """Draw windows and ask the teacher about each; goes on where an earlier run was broken off.

    Args:
        draw: makes what windows are drawn from; not called where all are there.
        folder: where features and answers are kept.
        key: changes with everything the windows depend on but their number.

    Raises:
        GenreError: for a folder that holds windows with another key, or can't be written, and for answers that are
            not finite.
    """
    state = folder / "state.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        done = int(broken_off(state, key).get("done", 0))
        features = _grown(folder / "features.f16", np.float16, count, FRAMES, BANDS)
        logits = _grown(folder / "logits.f32", np.float32, count, len(TAGS))
        hidden = _grown(folder / "hidden.f16", np.float16, count, teacher.hidden)
        while done < count:
            rows = range(done, min(done + CHUNK, count))
            part = np.stack([draw().features((seed, row)) for row in rows])
            told, inner = teacher.answer(part)
            if not np.isfinite(told).all() or not np.isfinite(inner).all():
                raise GenreError("the teacher", "gives values that are not finite", "check the audio given to --music")
            features[rows.start : rows.stop], logits[rows.start : rows.stop] = part, told
            hidden[rows.start : rows.stop] = np.clip(inner, -6e4, 6e4)
            for array in (features, logits, hidden):
                array.flush()
            done = rows.stop
            scratch = state.with_suffix(".part")
            scratch.write_text(json.dumps({"key": key, "done": done}), encoding="utf-8")
            scratch.replace(state)
            progress("teacher", done, count)
    except OSError as error:
        raise GenreError(str(folder), f"can't be written ({error})", "give --out a folder with room") from error
    return Labelled(features, logits, hidden)


def broken_off(state: Path, key: str) -> dict[str, Any]:
    """Return what a broken-off run noted of itself; nothing where there was none.

    Raises:
        GenreError: it had other music or options than `key` stands for.
    """
    if not state.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(state.read_text(encoding="utf-8"))
        if found["key"] == key:
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise GenreError(str(state.parent), "holds a run with other music or options", ANEW)


def _grown(path: Path, dtype: Any, count: int, *shape: int) -> Any:
    """Return a memory map of `count` rows, keeping the rows that are there."""
    size = count * int(np.prod(shape)) * np.dtype(dtype).itemsize
    with path.open("ab") as file:
        if file.tell() < size:
            file.truncate(size)
    whole = path.stat().st_size // (int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return np.memmap(path, dtype, "r+", shape=(whole, *shape))[:count]
