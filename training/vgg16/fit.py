"""Epochs of training that survive being killed: after each, weights and optimizer are on disk, whole or not at all.

Knows nothing of audio: it fits a Keras model to arrays. Start at `fit`; `Plan` holds every number that matters.
"""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np
from numpy.typing import NDArray

from services import files
from services.errors import GenreError
from training.events import Events
from training.resumable import ANEW, Progress, Resumable, require_finite
from training.vgg16.network import FLOAT32, optimizer

Indices = NDArray[np.intp]
LOG = "epochs.csv"
"""The learning curve in the run's folder, written after each epoch."""


@dataclass(frozen=True)
class Plan:
    """How to train; the defaults are the paper's, where it says them.

    Attributes:
        epochs: passes over the training windows.
        batch: windows a step.
        learning_rate, decay, momentum: of SGD; decay is Keras' time-based one, a step.
        seed: of the order of windows, the head's first weights and dropout.
        patience: stop after so many epochs without a lower validation loss; 0 goes through all epochs.
        precision: what the model's layers compute in, as network.py names it.
    """

    epochs: int = 20
    batch: int = 32
    learning_rate: float = 0.001
    decay: float = 0.01
    momentum: float = 0.9
    seed: int = 1
    patience: int = 0
    precision: str = FLOAT32


@dataclass(frozen=True)
class Epoch:
    """One line of the learning curve; accuracies are of windows, that of training while it learns (with dropout)."""

    epoch: int
    train_loss: float
    train_accuracy: float
    valid_loss: float
    valid_accuracy: float
    seconds: float

    def scalars(self) -> dict[str, float]:
        """Return the measures by the tags under which TensorBoard shows them."""
        return {
            "loss/training": self.train_loss,
            "loss/validation": self.valid_loss,
            "accuracy/training": self.train_accuracy,
            "accuracy/validation": self.valid_accuracy,
        }


class _Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of one epoch, in an order that depends on the seed and the epoch only, so that resuming repeats it."""

    def __init__(self, inputs: NDArray[Any], labels: Indices, weights: NDArray[np.float32], order: Indices, batch: int):
        """Take what to read and in which order."""
        super().__init__()
        self._inputs, self._labels, self._weights, self._order, self._batch = inputs, labels, weights, order, batch

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self._order) // self._batch)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], Indices, NDArray[np.float32]]:
        """Return inputs, labels and sample weights of one batch."""
        rows = self._order[index * self._batch : (index + 1) * self._batch]
        return np.asarray(self._inputs[rows], np.float32), self._labels[rows], self._weights[rows]


def fit(
    build: Callable[[], keras.Model],
    inputs: NDArray[Any],
    labels: Indices,
    train: Indices,
    valid: Indices,
    plan: Plan,
    folder: Path,
    key: str,
    progress: Progress,
) -> tuple[keras.Model, list[Epoch]]:
    """Train a model, going on from the last whole epoch in `folder` where there is one.

    Genres weigh the same whatever their number of windows (on the whole of GTZAN the weights are all 1).

    Args:
        build: makes the model again, from no or ImageNet weights; called after the seed is set.
        inputs: shape [windows, ...], perhaps memory-mapped.
        labels: genre of each window.
        train, valid: places of the windows to learn from and to judge by.
        key: changes with everything the result depends on but the number of epochs.

    Returns:
        The model after the last epoch (not the best one: choosing by validation accuracy would flatter it) and the
        learning curve.

    Raises:
        GenreError: for inputs or a loss that are no numbers, a folder that holds a run with another key, or one that
            can't be written.
    """
    keras.utils.set_random_seed(plan.seed)
    require_finite("training inputs", inputs)
    run = Resumable(folder, key, ".keras")
    history = _curve(run)
    if len(history) > plan.epochs:
        # Only the last epoch's weights are kept: a shorter run can't be told from them.
        reason = f"holds a run of {len(history)} epochs, more than --epochs {plan.epochs}"
        raise GenreError(str(folder), reason, f"give --epochs {len(history)} or more, or another --out")
    if history:
        model = _load(run.kept())
    else:
        model = build()
        model.compile(
            optimizer(plan.learning_rate, plan.decay, plan.momentum, plan.precision),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
            weighted_metrics=[],  # The accuracy is told unweighted; the genres' weights act on the loss.
        )
    events = Events(folder)
    count = np.bincount(labels[train])
    weights = (len(train) / (np.count_nonzero(count) * np.maximum(count, 1)))[labels].astype(np.float32)
    for epoch in range(len(history), plan.epochs):
        if plan.patience and epochs_since_best(history) >= plan.patience:
            break
        order = np.random.default_rng([plan.seed, epoch]).permutation(train)
        for layer in model.layers:
            if getattr(layer, "seed_generator", None) is not None:  # Dropout; its state is not saved with the model.
                layer.seed_generator.state.assign(np.array([plan.seed, epoch], np.uint32))
        batches = _Batches(inputs, labels, weights, order, plan.batch)
        begun = time.monotonic()
        told = model.fit(
            batches, shuffle=False, verbose=0, callbacks=[_Steps(progress, epoch, plan.epochs, len(batches))]
        )
        scores = probabilities(model, inputs, valid, plan.batch)
        loss = float(told.history["loss"][-1])
        if not np.isfinite(loss) or not np.isfinite(scores).all():
            raise GenreError(
                f"epoch {epoch + 1}", "the loss is no longer a number", "take a lower --learning-rate and start again"
            )
        right = scores[np.arange(len(valid)), labels[valid]]
        line = Epoch(
            epoch + 1,
            loss,
            float(told.history["accuracy"][-1]),
            float(-np.log(np.maximum(right, 1e-7)).mean()),
            float((scores.argmax(axis=1) == labels[valid]).mean()),
            time.monotonic() - begun,
        )
        history.append(line)
        run.keep_epoch(asdict(line), model.save)
        _log(folder / LOG, history)
        events.add(line.epoch, line.scalars())
        _tell(line, plan.epochs, folder.name)
    events.close()
    return model, history


def epochs_since_best(history: Sequence[Epoch]) -> int:
    """Return how many epochs have passed since the lowest validation loss; 0 for none."""
    losses = [line.valid_loss for line in history]
    return len(losses) - 1 - int(np.argmin(losses)) if losses else 0


def _log(path: Path, history: list[Epoch]) -> None:
    """Write the learning curve as CSV, for spreadsheets and plots."""
    text = io.StringIO()
    rows = csv.DictWriter(text, [field.name for field in fields(Epoch)], lineterminator="\n")
    rows.writeheader()
    rows.writerows(asdict(line) for line in history)
    try:
        files.replace(path, text.getvalue())
    except OSError as error:
        raise GenreError(str(path), f"can't be written ({error})", "give --out a folder with room") from error


def _tell(line: Epoch, epochs: int, name: str) -> None:
    """Say a line an epoch where no terminal shows progress: a run of an hour is otherwise silent in a log."""
    if not sys.stderr.isatty():
        click.echo(
            f"{name}: epoch {line.epoch}/{epochs}, training loss {line.train_loss:.3f}, accuracy "
            f"{line.train_accuracy:.1%}, validation loss {line.valid_loss:.3f}, accuracy {line.valid_accuracy:.1%}, "
            f"{line.seconds:.0f} s",
            err=True,
        )


def _curve(run: Resumable) -> list[Epoch]:
    """Return the learning curve of a run that was broken off; empty where there was none."""
    try:
        return [Epoch(**line) for line in run.history]
    except TypeError as error:
        raise GenreError(str(run.folder), f"holds a state that can't be read ({error})", ANEW) from error


def probabilities(model: keras.Model, inputs: NDArray[Any], places: Indices, batch: int = 32) -> NDArray[np.float32]:
    """Return the model's probabilities of some windows, shape [places, genres]."""
    out = [
        np.asarray(model.predict_on_batch(np.asarray(inputs[places[first : first + batch]], np.float32)))
        for first in range(0, len(places), batch)
    ]
    return np.concatenate(out) if out else np.empty((0, model.output_shape[-1]), np.float32)


class _Steps(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells progress of each step, and stops an epoch whose loss is no number."""

    def __init__(self, progress: Progress, epoch: int, epochs: int, steps: int):
        """Take whom to tell, and what."""
        super().__init__()
        self._progress, self._what, self._steps = progress, f"epoch {epoch + 1}/{epochs}", steps

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Tell of a step."""
        self._progress(self._what, batch + 1, self._steps)
        if logs and not np.isfinite(logs.get("loss", 0.0)):
            self.model.stop_training = True


def _load(path: Path) -> keras.Model:
    """Return the model, with its optimizer's state, of the last whole epoch."""
    try:
        return keras.models.load_model(path)
    except Exception as error:  # Keras raises ValueError, OSError, KeyError and others for a broken file.
        raise GenreError(str(path), f"can't be read ({type(error).__name__})", ANEW) from error
