"""Weights of MSD_musicnn's shapes, at random."""

from __future__ import annotations

from typing import Any

import numpy as np

NORMALISED = (1, 204, 204, 51, 51, 51, 64, 64, 64, 1506, 200)


def random_weights() -> dict[str, Any]:
    """Return weights of MSD_musicnn's shapes; half of the normalisations turn their channel round."""
    random = np.random.default_rng(0)
    kernels = [(7, 67, 1, 204), (7, 38, 1, 204), (128, 1, 1, 51), (64, 1, 1, 51), (32, 1, 1, 51)]
    kernels += [(7, 561, 1, 64), (7, 64, 1, 64), (7, 64, 1, 64)]
    weights: dict[str, Any] = {}
    for number, shape in enumerate(kernels):
        name = f"conv2d_{number}" if number else "conv2d"
        weights[f"{name}/kernel"] = random.normal(0, 1 / np.sqrt(np.prod(shape[:3])), shape).astype(np.float32)
        weights[f"{name}/bias"] = random.normal(0, 0.05, shape[3]).astype(np.float32)
    for number, size in enumerate(NORMALISED):
        name = f"batch_normalization_{number}" if number else "batch_normalization"
        weights[f"{name}/gamma"] = (
            random.choice([-1.0, 1.0], size).astype(np.float32) if number else np.ones(1, np.float32)
        )
        for part, value in (("beta", 0.1), ("moving_mean", 0.2), ("moving_variance", 1.0)):
            weights[f"{name}/{part}"] = np.full(size, value, np.float32)
    for name, shape in (("dense", (1506, 200)), ("dense_1", (200, 50))):
        weights[f"{name}/kernel"] = random.normal(0, 1 / np.sqrt(shape[0]), shape).astype(np.float32)
        weights[f"{name}/bias"] = np.zeros(shape[1], np.float32)
    return weights
