"""ONNX Runtime as the engine, in this process.

The same file that Triton serves, behind the same call; no batching, no network. Start at `OnnxBackend.answer`.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from services.errors import GenreError
from services.inference.answer import Answer, check_views, outputs_of
from services.inference.card import Card

_EXPORT = "make the folder again with 'genre train export'"


def session(path: Path) -> onnxruntime.InferenceSession:
    """Load an ONNX file for the CPU; a run takes one thread, the caller's.

    Raises:
        GenreError: where ONNX Runtime refuses the file.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        loaded = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no public base class
        reason = f"ONNX Runtime {onnxruntime.__version__} can't load it ({error})"
        raise GenreError(str(path), reason, "export the model again") from error
    with contextlib.suppress(AttributeError):  # only glibc has it
        # What loading took for a moment goes back to the system: 11 of 133 MiB with VGG16 int8 (measured).
        ctypes.CDLL(None).malloc_trim(0)
    return loaded


class OnnxBackend:
    """A model loaded into this process; `answer` may be called by several threads.

    Args:
        card: from `load_card`, which has checked the file.
        path: another form of the same model, such as the float32 one; None takes the one that is deployed.

    Raises:
        GenreError: ONNX Runtime refuses the file, or its inputs and outputs are not those of the card.
    """

    def __init__(self, card: Card, path: Path | None = None) -> None:
        self._card = card
        self._session = session(path or card.path())
        check_shapes(self._session, card, path or card.path())
        self._outputs = list(outputs_of(card))

    def answer(self, views: Mapping[str, NDArray[np.float32]]) -> Answer:
        """Return the probabilities of some windows.

        Each window is computed by itself: batching gains 15 % at most (the smallest model), and so a window's answer is
        the same to the bit whatever came with it.

        Args:
            views: float32, shape [n, frames, bands] each, by the card's recipe.

        Raises:
            ValueError: for other views, shapes or types.
        """
        count = check_views(self._card, views)
        rows = [
            self._session.run(self._outputs, {name: view[i : i + 1] for name, view in views.items()})
            for i in range(count)
        ]
        sizes = outputs_of(self._card)
        return Answer(**{
            name: np.concatenate([row[place] for row in rows] or [np.empty((0, size), np.float32)])
            for place, (name, size) in enumerate(sizes.items())
        })  # fmt: skip


def check_shapes(loaded: onnxruntime.InferenceSession, card: Card, path: Path) -> None:
    """Refuse a model whose inputs or outputs do not fit its card's recipe, labels, kinds or sounds.

    Raises:
        GenreError: naming what the card says and what the file says.
    """
    for what, found, wanted in (
        ("input", loaded.get_inputs(), card.recipe.shapes),
        ("output", loaded.get_outputs(), {name: (size,) for name, size in outputs_of(card).items()}),
    ):
        shapes = {each.name: tuple(each.shape[1:]) for each in found}
        for name, shape in wanted.items():
            if name not in shapes:
                raise GenreError(str(path), f"has no {what} {name!r} but {', '.join(sorted(shapes))}", _EXPORT)
            if shapes[name] != shape:
                reason = f"its {what} {name!r} is {list(shapes[name])}, its card says {list(shape)}"
                raise GenreError(str(path), reason, _EXPORT)
        more = sorted(shapes.keys() - wanted.keys())
        if more and what == "input":
            raise GenreError(str(path), f"has an input {more[0]!r} that is no view of its card's recipe", _EXPORT)
        if more:
            reason = f"has an output {more[0]!r} that its card does not speak of"
            raise GenreError(str(path), reason, _EXPORT)
