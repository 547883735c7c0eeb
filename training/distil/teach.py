"""Teaches a student both teachers' answers: musicnn's log tags, and YAMNet's logits.

Start at `teach`. Which windows, and in what order, depends on the seed and the epoch only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError
from training.hearing.genre_head import TAG_FLOOR
from training.hearing.kinds_head import GROUPS, HIGH, LOW

Progress = Callable[[str, int, int], None]
MUSIC_GROUP = list(GROUPS).index("music")
GROUP_WEIGHT = 0.5
"""What the kinds head reads counts once more: the strongest class of each of its groups."""
WHITE_WEIGHT, SHRINKAGE = 1.0, 0.3
"""What the genre head reads counts once more: logits whitened as its discriminant does, for genres differ where music
in general varies little."""


@dataclass(frozen=True)
class Taught:
    """Windows with the teachers' answers.

    Attributes:
        front: what the student's front makes of them, float16 [n, 94, channels].
        bands: their features, float16 [n, 187, 96].
        tags: musicnn's, float32 [n, 50].
        logits: YAMNet's, float32 [n, 521].
    """

    front: NDArray[np.float16]
    bands: NDArray[np.float16]
    tags: NDArray[np.float32]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """The numbers that rule how a student is taught; together with the sounds they make the result."""

    epochs: int
    batch: int
    learning_rate: float
    seed: int


def teach_sounds(
    model: keras.Model, taught: Taught, plan: Plan, ranges: tuple[tuple[int, int], ...], progress: Progress
) -> list[float]:
    """Train the branch of sounds alone, on what the layers before it make of the windows; return each epoch's loss."""
    inside = keras.Model(model.get_layer("front").output, model.get_layer("pooled").output)
    pooled = np.concatenate(
        [
            keras.ops.convert_to_numpy(inside(taught.front[first : first + 64].astype(np.float32)))
            for first in range(0, len(taught.front), 64)
        ]
    )
    inputs = {"pooled": pooled, "bands": taught.bands}
    return _train(model.get_layer("sounds"), inputs, _sounds_told(taught), plan, ranges, progress)


def teach(
    model: keras.Model, taught: Taught, plan: Plan, ranges: tuple[tuple[int, int], ...], progress: Progress
) -> list[float]:
    """Train a student; return the mean loss of each epoch.

    Args:
        ranges: first and last class of each group that the kinds head reads.

    Raises:
        GenreError: for a loss that is no number.
    """
    told = {"tags": np.log(taught.tags + TAG_FLOOR), **_sounds_told(taught)}
    return _train(model, {"front": taught.front, "bands": taught.bands}, told, plan, ranges, progress)


def _sounds_told(taught: Taught) -> dict[str, NDArray[np.float32]]:
    """Return YAMNet's logits as a student learns them: beyond some value they say nothing more."""
    return {"sounds": np.clip(taught.logits, LOW, HIGH)}


def _train(
    model: keras.Model, inputs: dict[str, NDArray[Any]], told: dict[str, NDArray[np.float32]], plan: Plan,
    ranges: tuple[tuple[int, int], ...], progress: Progress,
) -> list[float]:  # fmt: skip
    """Train on inputs [n, ...] with what is told of them; those that have frames are turned in time at random."""
    keras.utils.set_random_seed(plan.seed)
    ops, count = keras.ops, len(told["sounds"])
    steps = -(-count // plan.batch)
    width = ops.convert_to_tensor(told["sounds"].std(axis=0) + 0.3)
    white = ops.convert_to_tensor(_whitening(told["sounds"], ranges[MUSIC_GROUP][0]))

    def of_sounds(told: Any, answered: Any) -> Any:
        every = ops.mean(ops.square((answered - told) / width), axis=-1)
        groups = [ops.max(answered[:, a : b + 1], axis=1) - ops.max(told[:, a : b + 1], axis=1) for a, b in ranges]
        every += WHITE_WEIGHT * ops.mean(ops.square(ops.matmul(answered - told, white)), axis=-1)
        return every + GROUP_WEIGHT * ops.mean(ops.square(ops.stack(groups, axis=1)), axis=-1)

    losses: Any = of_sounds
    if "tags" in told:
        spread = ops.convert_to_tensor(told["tags"].std(axis=0) + 1e-3)

        def of_tags(told: Any, answered: Any) -> Any:
            difference = ops.log(ops.sigmoid(answered) + TAG_FLOOR) - told
            return ops.mean(ops.square(difference / spread), axis=-1)

        losses = {"sounds": of_sounds, "tags": of_tags}
    schedule = keras.optimizers.schedules.CosineDecay(plan.learning_rate, steps * plan.epochs)
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-3, clipnorm=5.0), loss=losses)
    means = []
    for epoch in range(plan.epochs):
        rng = np.random.default_rng([plan.seed, epoch])
        rows, loss = rng.permutation(count), 0.0
        for step in range(steps):
            part = np.sort(rows[step * plan.batch : (step + 1) * plan.batch])
            answers = {name: values[part] for name, values in told.items()}
            x = _turned({name: values[part].astype(np.float32) for name, values in inputs.items()}, rng)
            answer = model.train_on_batch(x, answers if "tags" in told else answers["sounds"])
            loss += float(np.asarray(answer).reshape(-1)[0])
            progress(f"epoch {epoch + 1}/{plan.epochs}", step + 1, steps)
            if not np.isfinite(loss):
                raise GenreError(f"epoch {epoch + 1}", "the loss is no longer a number", "take a lower --learning-rate")
        means.append(round(loss / steps, 5))
    return means


def _whitening(logits: NDArray[np.float32], music: int) -> NDArray[np.float32]:
    """Return the matrix by which logits of music have one and the same variance everywhere, but for shrinkage.

    Args:
        music: number of the class that says that a window is music.
    """
    heard = logits[logits[:, music] > 0] if (logits[:, music] > 0).sum() > 1 else logits
    values, vectors = np.linalg.eigh(np.cov(heard.T, dtype=np.float64))
    matrix = vectors / np.sqrt(values + SHRINKAGE * values.mean() + 1e-6)
    return np.asarray(matrix, np.float32)


def _turned(inputs: dict[str, NDArray[np.float32]], rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Turn windows in time, all inputs alike: what one is does not depend on where it begins, but for one seam."""
    for row, turn in enumerate(rng.random(len(inputs["bands"]))):
        for values in inputs.values():
            if values.ndim == 3:
                values[row] = np.roll(values[row], round(turn * values.shape[1]), axis=0)
    return inputs
