"""Teaches a student both teachers' answers: musicnn's log tags, and the sound network's logits.

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
Ranges = tuple[tuple[int, int], ...]
MUSIC_GROUP = list(GROUPS).index("music")
TAGS_WEIGHT = 1.5
GROUP_WEIGHT = 0.5
"""What the kinds head reads counts once more: the strongest class of each of its groups."""
WHITE_WEIGHT, SHRINKAGE = 1.0, 0.3
"""What the genre head reads counts once more: logits whitened as its discriminant does, for genres differ where music
in general varies little."""
WARMING_STEPS, AVERAGED = 150, 0.998
"""Steps until the learning rate is full, for the student begins nearly right; and how slowly the weights that are kept
follow those that are trained, whose last steps are noise."""
FITTED_ON = 4_000
"""Windows on which the tags begin as a least-squares fit of what the hidden values say."""


@dataclass(frozen=True)
class Taught:
    """Windows with the teachers' answers.

    Attributes:
        features: as the student takes them, float16 [n, frames, bands].
        tags: musicnn's, float32 [n, 50].
        logits: the sound network's, float32 [n, 521].
    """

    features: NDArray[np.float16]
    tags: NDArray[np.float32]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """The numbers that rule how a student is taught; together with the sounds they make the result."""

    epochs: int
    batch: int
    learning_rate: float
    seed: int


def teach(model: keras.Model, taught: Taught, plan: Plan, ranges: Ranges, progress: Progress) -> list[float]:
    """Train a student; return the mean loss of each epoch.

    Args:
        ranges: first and last class of each group that the kinds head reads.

    Raises:
        GenreError: for a loss that is no number.
    """
    keras.utils.set_random_seed(plan.seed)
    # Beyond some value logits say nothing more.
    told = {"tags": np.log(taught.tags + TAG_FLOOR), "sounds": np.clip(taught.logits, LOW, HIGH)}
    count = len(taught.features)
    steps = -(-count // plan.batch)
    total = steps * plan.epochs
    _begin_tags(model, taught)
    rate = keras.optimizers.schedules.CosineDecay(
        plan.learning_rate / 10, total, alpha=0.01, warmup_target=plan.learning_rate,
        warmup_steps=min(WARMING_STEPS, total // 4),
    )  # fmt: skip
    averaged = min(AVERAGED, 1 - 10 / (10 + total))
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-4, clipnorm=5.0, use_ema=True, ema_momentum=averaged)
    losses = {"sounds": _of_sounds(told["sounds"], ranges), "tags": _of_tags(told["tags"])}
    model.compile(optimizer, loss=losses, loss_weights={"sounds": 1.0, "tags": TAGS_WEIGHT})
    means = []
    for epoch in range(plan.epochs):
        rng = np.random.default_rng([plan.seed, epoch])
        rows, loss = rng.permutation(count), 0.0
        for step in range(steps):
            part = np.sort(rows[step * plan.batch : (step + 1) * plan.batch])
            x = _turned(taught.features[part].astype(np.float32), rng)
            answer = model.train_on_batch(x, {name: values[part] for name, values in told.items()})
            loss += float(np.asarray(answer).reshape(-1)[0])
            progress(f"epoch {epoch + 1}/{plan.epochs}", step + 1, steps)
            if not np.isfinite(loss):
                raise GenreError(f"epoch {epoch + 1}", "the loss is no longer a number", "take a lower --learning-rate")
            loss_so_far = loss / (step + 1)
        means.append(round(loss_so_far, 5))
    optimizer.finalize_variable_values(model.trainable_variables)
    return means


def _begin_tags(model: keras.Model, taught: Taught) -> None:
    """Set the tags' layer to the least-squares fit of the teacher's tags by the hidden values there are."""
    part = slice(0, FITTED_ON)
    inside = keras.Model(model.input, model.get_layer("hidden").output)
    hidden = inside.predict(taught.features[part].astype(np.float32), batch_size=64, verbose=0)
    tags = np.clip(taught.tags[part], 1e-4, 1 - 1e-3)
    x = np.concatenate([hidden, np.ones((len(hidden), 1), np.float32)], axis=1).astype(np.float64)
    penalty = 1e-2 * len(x) * np.eye(x.shape[1])
    fitted = np.linalg.solve(x.T @ x + penalty, x.T @ np.log(tags / (1 - tags)))
    model.get_layer("tags").set_weights([fitted[:-1], fitted[-1]])


def _of_sounds(told: NDArray[np.float32], ranges: Ranges) -> Callable[[Any, Any], Any]:
    """Return the loss of the sounds: each class, the groups, and whitened."""
    ops = keras.ops
    width = ops.convert_to_tensor(told.std(axis=0) + 0.3)
    white = ops.convert_to_tensor(_whitening(told, ranges[MUSIC_GROUP][0]))

    def loss(told: Any, answered: Any) -> Any:
        every = ops.mean(ops.square((answered - told) / width), axis=-1)
        groups = [ops.max(answered[:, a : b + 1], axis=1) - ops.max(told[:, a : b + 1], axis=1) for a, b in ranges]
        every += WHITE_WEIGHT * ops.mean(ops.square(ops.matmul(answered - told, white)), axis=-1)
        return every + GROUP_WEIGHT * ops.mean(ops.square(ops.stack(groups, axis=1)), axis=-1)

    return loss


def _of_tags(told: NDArray[np.float32]) -> Callable[[Any, Any], Any]:
    """Return the loss of the tags, whose logits are answered and whose logarithm is told."""
    ops = keras.ops
    spread = ops.convert_to_tensor(told.std(axis=0) + 1e-3)

    def loss(told: Any, answered: Any) -> Any:
        difference = ops.log(ops.sigmoid(answered) + TAG_FLOOR) - told
        return ops.mean(ops.square(difference / spread), axis=-1)

    return loss


def _whitening(logits: NDArray[np.float32], music: int) -> NDArray[np.float32]:
    """Return the matrix by which logits of music have one and the same variance everywhere, but for shrinkage.

    Args:
        music: number of the class that says that a window is music.
    """
    heard = logits[logits[:, music] > 0] if (logits[:, music] > 0).sum() > 1 else logits
    values, vectors = np.linalg.eigh(np.cov(heard.T, dtype=np.float64))
    matrix = vectors / np.sqrt(values + SHRINKAGE * values.mean() + 1e-6)
    return np.asarray(matrix, np.float32)


def _turned(windows: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Turn windows in time: what one is does not depend on where it begins, but for one seam."""
    for row, turn in enumerate(rng.integers(0, windows.shape[1], len(windows))):
        windows[row] = np.roll(windows[row], turn, axis=0)
    return windows
