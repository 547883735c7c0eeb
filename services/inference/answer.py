"""What a model answers for some windows: genres, kinds of sound, single sounds; and the tensors' names on the way.

Values and their checks; no engine. The names are those of an ONNX file's inputs and outputs. Start at `Answer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.inference.card import OUTPUT, Card

Floats = NDArray[np.float32]
KINDS, SOUNDS = "kinds", "sounds"
_SLACK = 1e-3
"""Rounding that a probability may show outside 0..1."""


@dataclass(frozen=True)
class Answer:
    """Probabilities for n windows, float32.

    Attributes:
        scores: of each genre given that it is music, shape [n, labels]; calibrated, a row sums to 1.
        kinds: of music, speech and other, shape [n, 3]; None where the model can't tell them.
        sounds: of each class of sound by itself, shape [n, sounds]; None where the model has no sound network.
    """

    scores: Floats
    kinds: Floats | None = None
    sounds: Floats | None = None

    def problem(self) -> str:
        """Return why these are no probabilities; '' where they are."""
        for name, values in ((OUTPUT, self.scores), (KINDS, self.kinds), (SOUNDS, self.sounds)):
            if values is None:
                continue
            if not np.isfinite(values).all():
                return f"its {name} are not finite"
            if values.size and (values.min() < -_SLACK or values.max() > 1 + _SLACK):
                return f"its {name} are no probabilities"
        return ""


def outputs_of(card: Card) -> dict[str, int]:
    """Return how many numbers a window each output of a model has, by the output's name."""
    sizes = {OUTPUT: len(card.labels), KINDS: len(card.kinds or ()), SOUNDS: len(card.sounds or ())}
    return {name: size for name, size in sizes.items() if size}


def check_views(card: Card, views: Mapping[str, Floats]) -> int:
    """Return how many windows the tensors hold.

    Raises:
        ValueError: they are not float32 [n, frames, bands] of each view of the card's recipe.
    """
    shapes = card.recipe.shapes
    if views.keys() != shapes.keys():
        raise ValueError(f"views {', '.join(views) or 'none'} are not {', '.join(shapes)}")
    counts = set()
    for name, shape in shapes.items():
        found = views[name]
        if found.dtype != np.float32 or found.ndim != 3 or found.shape[1:] != shape:
            raise ValueError(f"{name} {found.dtype} {list(found.shape)} are not float32 {['n', *shape]}")
        counts.add(len(found))
    if len(counts) != 1:
        raise ValueError(f"views hold {sorted(counts)} windows; each must hold the same")
    return counts.pop()
