"""What VGG16 learns from, on disk: the features of all windows, and what the frozen blocks make of them.

Each is computed once and memory-mapped, so the whole of GTZAN trains in little memory; both survive being killed.
Not a split and not training. Start at `features_of`, then `activations_of`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from services import files
from services.contract.recipe import load_recipe
from services.errors import GenreError
from services.featurizer.features import Featurizer
from training.data.data_set import Skipped
from training.data.gtzan import Clip, read, windows
from training.resumable import Progress
from training.vgg16.network import INPUT, read_weights

FORWARD_BATCH = 32


@dataclass(frozen=True)
class Windowed:
    """All windows of a data set.

    Attributes:
        features: float32, shape [windows, 129, 128, 1], memory-mapped.
        clip: place of each window's clip in `clips`, shape [windows].
        clips: the clips that could be read.
        padded: whether each clip is shorter than a window and was repeated to fill one, shape [clips].
        skipped: the files that could not be read.
        key: changes with the audio files and the recipe.
        file: where the features are.
    """

    features: NDArray[np.float32]
    clip: NDArray[np.intp]
    clips: list[Clip]
    padded: NDArray[np.bool_]
    skipped: list[Skipped]
    key: str
    file: Path

    @property
    def genres(self) -> tuple[str, ...]:
        """Genres of the data set, in the order of labels."""
        return self.clips[0].genres

    @property
    def labels(self) -> NDArray[np.intp]:
        """Genre of each window, as its place in `genres`."""
        return np.array([clip.label for clip in self.clips], np.intp)[self.clip]


def features_of(clips: Sequence[Clip], folder: Path, progress: Progress) -> Windowed:
    """Return the mel spectrograms of all windows, made by services/featurizer or read back from `folder`.

    Raises:
        GenreError: where no clip can be read, or the folder cannot be written.
    """
    recipe = load_recipe("vgg16")
    stamps = [(clip.name, clip.genre, clip.path.stat().st_size, clip.path.stat().st_mtime_ns) for clip in clips]
    key = _digest(json.dumps([recipe.digest, stamps]).encode())
    data, index = folder / f"features-{key}.f32", folder / f"features-{key}.json"
    if not (index.is_file() and data.is_file()):
        _write_features(clips, data, index, Featurizer(recipe), progress)
    found = json.loads(index.read_text(encoding="utf-8"))
    by_name = {clip.name: clip for clip in clips}
    counts = [count for _, count, _ in found["clips"]]
    return Windowed(
        features=np.memmap(data, np.float32, "r", shape=(sum(counts), *INPUT)),
        clip=np.repeat(np.arange(len(counts)), counts),
        clips=[by_name[name] for name, _, _ in found["clips"]],
        padded=np.array([padded for _, _, padded in found["clips"]], bool),
        skipped=[Skipped(**item) for item in found["skipped"]],
        key=key,
        file=data,
    )


def activations_of(windowed: Windowed, frozen: keras.Model, folder: Path, progress: Progress) -> NDArray[np.float16]:
    """Return what the frozen part makes of each window, shape [windows, *its output], memory-mapped float16.

    Frozen blocks give the same numbers in every epoch, so they are computed once: on two cores that is the difference
    between minutes and hours. Computing goes on where it was killed.

    Raises:
        GenreError: for activations that float16 cannot hold, or a folder that cannot be written.
    """
    shape = tuple(frozen.output_shape[1:])
    digest = hashlib.sha256(windowed.key.encode())
    for name, arrays in read_weights(frozen).items():
        digest.update(name.encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
    data = folder / f"activations-{digest.hexdigest()[:16]}.f16"
    rows, row_bytes = len(windowed.features), 2 * int(np.prod(shape))
    if not data.is_file():
        part = data.with_suffix(".part")
        try:
            with part.open("ab") as file:
                done = file.tell() // row_bytes
                file.truncate(done * row_bytes)
                while done < rows:
                    progress("frozen blocks", done, rows)
                    batch = np.asarray(frozen.predict_on_batch(windowed.features[done : done + FORWARD_BATCH]))
                    half = batch.astype(np.float16)
                    if not np.isfinite(half).all():
                        raise GenreError("frozen blocks", "give activations that are not finite", "check --weights")
                    half.tofile(file)
                    done += len(half)
            part.replace(data)
        except OSError as error:
            raise GenreError(str(part), f"can't be written ({error})", "give --out a folder with room") from error
        progress("frozen blocks", rows, rows)
    return np.memmap(data, np.float16, "r", shape=(rows, *shape))


def _write_features(clips: Sequence[Clip], data: Path, index: Path, featurizer: Featurizer, progress: Progress) -> None:
    """Write the features of all clips, then their index, which is what makes them count."""
    found: list[tuple[str, int, bool]] = []
    skipped: list[dict[str, str]] = []
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        with data.open("wb") as file:
            for number, clip in enumerate(clips):
                progress("features", number, len(clips))
                try:
                    cut = windows(read(clip.path), tail="dropped")
                except GenreError as error:
                    skipped.append({"file": f"{clip.genre}/{clip.path.name}", "reason": error.reason})
                    continue
                featurizer.features(cut.pcm).tofile(file)
                found.append((clip.name, len(cut.pcm), cut.padded))
        progress("features", len(clips), len(clips))
        if not found:
            raise GenreError(
                str(clips[0].path.parent.parent), "holds no clip that can be read", "see the files' format"
            )
        files.replace(index, json.dumps({"clips": found, "skipped": skipped}))
    except OSError as error:
        raise GenreError(str(data), f"can't be written ({error})", "give --out a folder with room") from error


def _digest(text: bytes) -> str:
    """Return sixteen hex digits that stand for some bytes."""
    return hashlib.sha256(text).hexdigest()[:16]
