"""Whether a model from elsewhere answers as services need it: float32, any number of windows, probabilities, no chance.

Reads nothing and writes nothing. Start at `of`; training/install.py calls it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from services.contract.windows import SAMPLE_RATE, WINDOW
from services.errors import GenreError
from services.featurizer.features import Featurizer
from services.inference.answer import KINDS, Answer, outputs_of
from services.inference.card import OUTPUT, Card
from services.inference.onnx_backend import check_shapes
from training.data.gtzan import Pcm

ALIKE = 1e-3
"""How far a window's scores may move when other windows are asked about with it, and their sum be from 1."""


def of(loaded: onnxruntime.InferenceSession, card: Card, model: Path) -> None:
    """Compare a model with its card and ask it about sounds.

    Raises:
        GenreError: naming the input, output or answer that is not as the card or a service needs it.
    """
    try:
        check_shapes(loaded, card, model)
    except GenreError as error:
        raise GenreError(error.thing, error.reason, "correct the card or the model") from error
    _check_ends(loaded, model)
    _ask(loaded, card, model)


def _check_ends(loaded: onnxruntime.InferenceSession, model: Path) -> None:
    """Refuse inputs and outputs that are not float32 for any number of windows; `check_shapes` saw the rest."""
    for what, values in (("input", loaded.get_inputs()), ("output", loaded.get_outputs())):
        for each in values:
            if each.type != "tensor(float)":
                reason = f"its {what} {each.name!r} is {each.type}, not tensor(float)"
                raise GenreError(str(model), reason, "cast it to float32 inside the model")
            if isinstance(each.shape[0], int):
                reason = f"its {what} {each.name!r} takes {each.shape[0]} windows at a time, not any number"
                raise GenreError(str(model), reason, "export it with a first axis that has a name")


def _sounds() -> Pcm:
    """Return windows that no model may fail at: silence, noise loud and faint, a tone, clicks, full scale."""
    random, at = np.random.default_rng(0), np.arange(WINDOW) / SAMPLE_RATE
    noise = random.normal(0, 1, WINDOW)
    clicks = np.where(np.arange(WINDOW) % 11_025 == 0, 0.9, 0.0)
    square = np.where(np.sin(2 * np.pi * 100 * at) >= 0, 1.0, -1.0)
    waves = np.stack([np.zeros(WINDOW), 0.1 * noise, 1e-3 * noise, 0.3 * np.sin(2 * np.pi * 440 * at), clicks, square])
    return np.asarray(np.clip(waves, -1, 1) * 32_767, np.int16)


def _ask(loaded: onnxruntime.InferenceSession, card: Card, model: Path) -> None:
    """Ask the model about sounds, one by one and together.

    Raises:
        GenreError: where it fails, does not give probabilities, or answers otherwise when windows come together.
    """
    views, names = Featurizer(card.recipe).views(_sounds()), list(outputs_of(card))
    try:
        alone = [
            loaded.run(names, {name: view[place : place + 1] for name, view in views.items()})
            for place in range(len(next(iter(views.values()))))
        ]
        together = loaded.run(names, views)
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        raise GenreError(str(model), f"fails at a trial window ({str(error)[:300]})", "correct the model") from error
    counts = {values.shape[0] for values in together} | {
        each.shape[0] + len(alone) - 1 for row in alone for each in row
    }
    if counts != {len(alone)}:
        raise GenreError(str(model), "does not give one answer a window", "keep the first axis through the model")
    joined = {name: np.concatenate([row[place] for row in alone]) for place, name in enumerate(names)}
    if problem := Answer(**joined).problem():
        raise GenreError(str(model), f"answers sounds, but {problem}", "end the model in a softmax")
    for name in (OUTPUT, *([KINDS] if card.kinds else [])):
        worst = float(np.abs(joined[name].sum(axis=1) - 1).max())
        if worst > ALIKE:
            raise GenreError(str(model), f"its {name} miss a sum of 1 by {worst:.3g}", "end the model in a softmax")
    for name, values in zip(names, together, strict=True):
        moved = float(np.abs(values - joined[name]).max())
        if not moved <= ALIKE:
            reason = f"its {name} move by {moved:.3g} with the windows that come along, or by chance"
            raise GenreError(str(model), reason, "export it for inference, without dropout and batch statistics")
