"""ONNX Runtime as the engine, in this process.

The same file that Triton serves, behind the same call; no batching, no network. Start at `OnnxBackend.scores`.
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from services.errors import GenreError
from services.inference.card import INPUT, OUTPUT, Card


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
    """A model loaded into this process; `scores` may be called by several threads.

    Args:
        card: from `load_card`, which has checked the file.
        path: another form of the same model, such as the float32 one; None takes the one that is deployed.
    """

    def __init__(self, card: Card, path: Path | None = None) -> None:
        self._card = card
        self._session = session(path or card.path())

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return calibrated probabilities of some windows.

        Each window is computed by itself: batching gains 15 % at most (the smallest model), and so a window's answer is
        the same to the bit whatever came with it.

        Args:
            features: float32, shape [n, frames, bands], by the card's recipe.

        Returns:
            float32, shape [n, labels]; each row sums to 1.

        Raises:
            ValueError: for another shape or type.
        """
        if features.dtype != np.float32 or features.ndim != 3 or features.shape[1:] != self._card.recipe.shape:
            wanted = ["n", *self._card.recipe.shape]
            raise ValueError(f"features {features.dtype} {list(features.shape)} are not float32 {wanted}")
        rows = [self._one(features[i : i + 1]) for i in range(len(features))]
        return np.concatenate(rows or [np.empty((0, len(self._card.labels)), np.float32)])

    def _one(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probabilities of one window, [1, labels]."""
        scores: NDArray[np.float32] = self._session.run([OUTPUT], {INPUT: features})[0]
        return scores
