"""Teaches a student the teacher's answers, and survives being killed: after each epoch everything is on disk.

Start at `teach`. Which windows, and in what order, depends on the seed and the epoch only.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError
from training.distil_student import SMALLEST
from training.distil_windows import ANEW, Labelled, Progress, broken_off

if TYPE_CHECKING:
    from training.distil import Plan

HIDDEN_WEIGHT = 0.5


@dataclass(frozen=True)
class Targets:
    """Mean and deviation of what the teacher answers: the student is taught in units of the deviation.

    Attributes:
        tags_deviation: of log(tag + 3e-4), [50].
        hidden_deviation: of the hidden layer, [hidden].
    """

    tags_deviation: NDArray[np.float32]
    hidden_deviation: NDArray[np.float32]

    @classmethod
    def of(cls, labelled: Labelled) -> Targets:
        """Measure them."""
        hidden = np.asarray(labelled.hidden, np.float32).std(axis=0)
        return cls(log_tags(labelled.logits).std(axis=0) + 1e-3, hidden + 0.1 * hidden.mean())


def log_tags(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return log(tag + 3e-4) of tag logits."""
    return np.asarray(np.log(1 / (1 + np.exp(-np.asarray(logits, np.float64))) + SMALLEST), np.float32)


def teach(
    begin: Callable[[], keras.Model], labelled: Labelled, plan: Plan, folder: Path, key: str, progress: Progress
) -> keras.Model:
    """Train a student; goes on from the last whole epoch in `folder` where there is one.

    Args:
        begin: makes the student anew.
        labelled: its `features` are what the student's front made of the windows.
        plan: epochs, batch, learning_rate (falls to zero along a cosine), seed.
        key: changes with everything the result depends on.

    Raises:
        GenreError: for a loss that is no number, and a folder that holds another run or can't be written.
    """
    keras.utils.set_random_seed(plan.seed)
    state = folder / "state.json"
    done = len(broken_off(state, key).get("history", []))
    count = len(labelled.features)
    steps = -(-count // plan.batch)
    model = begin()
    _compile(model, Targets.of(labelled), plan.learning_rate, steps * plan.epochs)
    if done:
        _restore(model, folder / f"epoch-{done:04d}.npz")
    for epoch in range(done, plan.epochs):
        rng = np.random.default_rng([plan.seed, epoch])
        rows = rng.permutation(count)
        loss, begun = 0.0, time.monotonic()
        for step in range(steps):
            loss += _step(model, labelled, rows[step * plan.batch : (step + 1) * plan.batch], rng)
            progress(f"epoch {epoch + 1}/{plan.epochs}", step + 1, steps)
            if not np.isfinite(loss):
                raise GenreError(f"epoch {epoch + 1}", "the loss is no longer a number", "take a lower --learning-rate")
        line = {"epoch": epoch + 1, "loss": round(loss / steps, 5), "seconds": round(time.monotonic() - begun, 1)}
        _save(model, state, key, epoch + 1, line)
    return model


def _compile(model: keras.Model, targets: Targets, learning_rate: float, steps: int) -> None:
    """Set the loss and the optimizer, whose learning rate reaches zero after `steps`."""
    deviation = keras.ops.convert_to_tensor(targets.tags_deviation)
    hidden_deviation = keras.ops.convert_to_tensor(targets.hidden_deviation)

    def of_tags(told: Any, answered: Any) -> Any:
        difference = keras.ops.log(keras.ops.sigmoid(answered) + SMALLEST) - told
        return keras.ops.mean(keras.ops.square(difference / deviation), axis=-1)

    def of_hidden(told: Any, answered: Any) -> Any:
        return keras.ops.mean(keras.ops.square((answered - told) / hidden_deviation), axis=-1)

    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=1e-4, clipnorm=5.0)
    model.compile(
        optimizer,
        loss={"logits": of_tags, "hidden": of_hidden},
        loss_weights={"logits": 1.0, "hidden": HIDDEN_WEIGHT},
    )
    optimizer.build(model.trainable_variables)


def _step(model: keras.Model, labelled: Labelled, rows: NDArray[np.intp], rng: np.random.Generator) -> float:
    """Take one step of the optimizer; return the loss."""
    inputs = labelled.features[rows].astype(np.float32)
    # What a window is does not depend on where it begins: turn it in time, which leaves one seam.
    for window, turn in zip(inputs, rng.integers(0, inputs.shape[1], len(inputs)), strict=True):
        window[:] = np.roll(window, turn, axis=0)
    hidden = labelled.hidden[rows].astype(np.float32)
    told = model.train_on_batch(inputs, {"logits": log_tags(labelled.logits[rows]), "hidden": hidden})
    return float(np.asarray(told).reshape(-1)[0])


def answers(model: keras.Model, features: NDArray[Any], batch: int = 64) -> NDArray[np.float32]:
    """Return the student's tags (0..1) of some windows, [windows, 50]."""
    parts = [
        keras.ops.convert_to_numpy(
            keras.ops.sigmoid(model(np.asarray(features[first : first + batch], np.float32), training=False)["logits"])
        )
        for first in range(0, len(features), batch)
    ]
    return np.asarray(np.concatenate(parts), np.float32)


def _variables(model: keras.Model) -> list[Any]:
    """Return everything that training changes: the network's weights and the optimizer's."""
    return [*model.weights, *model.optimizer.variables]


def _restore(model: keras.Model, path: Path) -> None:
    """Set a student and its optimizer to what they were after the last whole epoch."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            values = [archive[f"v{number}"] for number in range(len(archive.files))]
        for variable, value in zip(_variables(model), values, strict=True):
            variable.assign(value)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise GenreError(str(path), f"can't be read ({error})", ANEW) from error


def _save(model: keras.Model, state: Path, key: str, epoch: int, line: dict[str, Any]) -> None:
    """Write the student beside the old one, then the state that names it: the state's renaming is the one moment."""
    folder = state.parent
    try:
        history = json.loads(state.read_text(encoding="utf-8"))["history"] if epoch > 1 else []
        folder.mkdir(parents=True, exist_ok=True)
        kept, part = folder / f"epoch-{epoch:04d}.npz", folder / "part.npz"
        values = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in _variables(model)]
        arrays: dict[str, Any] = {f"v{number}": value for number, value in enumerate(values)}
        np.savez(part, **arrays)
        part.replace(kept)
        text = folder / "part.json"
        text.write_text(json.dumps({"key": key, "history": [*history, line]}), encoding="utf-8")
        text.replace(state)
        for old in folder.glob("epoch-*.npz"):
            if old != kept:
                old.unlink()
    except OSError as error:
        raise GenreError(str(folder), f"can't be written ({error})", "give --out a folder with room") from error
