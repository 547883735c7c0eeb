"""What the machine that a run is trained on can do, and what is told of it beside the result.

Nothing is trained here. Start at `device`.
"""

from __future__ import annotations

import platform

import keras
import numpy as np
import scipy

from training.vgg16.network import BFLOAT16, FLOAT16, FLOAT32


def device() -> str:
    """Return where Keras' backend puts its arrays; the one question that all three backends answer alike."""
    return str(getattr(keras.ops.zeros(1), "device", "unknown"))


def is_gpu(device: str) -> bool:
    """Return whether a backend's name for where it puts arrays is that of a GPU."""
    return any(word in device.lower() for word in ("gpu", "cuda", "mps"))


def blocks(asked: int | None, device: str) -> int:
    """Return how many of the last blocks to train; where nobody said, what the machine can do in an hour or so."""
    if asked is not None:
        return asked
    return 5 if is_gpu(device) else 1


def precision(mixed: bool, device: str) -> str:
    """Return what layers compute in; processors that know 16 bits at all know bfloat16."""
    if not mixed:
        return FLOAT32
    return FLOAT16 if is_gpu(device) else BFLOAT16


def versions() -> dict[str, str]:
    """Return the versions of what the numbers depend on."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
