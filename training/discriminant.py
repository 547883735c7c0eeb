"""Linear discriminant analysis with a shrunk covariance: the plainest head, and the one that nothing tried here beat.

Numbers in, numbers out; it becomes one matrix product. Start at `fit_discriminant`. Why not more: docs/models.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError
from training.onnx_graph import Graph

Matrix = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Discriminant:
    """Log-densities of classes with a common covariance, all equally likely beforehand: x @ weights + bias.

    Attributes:
        weights: [features, classes].
        bias: [classes].
    """

    weights: Matrix
    bias: Matrix

    def logits(self, x: NDArray[np.floating]) -> Matrix:
        """Return logits [n, classes] of features [n, features]."""
        return np.asarray(np.asarray(x, np.float64) @ self.weights + self.bias)

    def append(self, graph: Graph, x: str, temperature: float) -> str:
        """Write the product into an ONNX graph; return the name of logits / temperature."""
        return graph.add("Gemm", x, graph.weight(self.weights / temperature), graph.weight(self.bias / temperature))

    @property
    def parameters(self) -> int:
        """Return how many numbers were fitted."""
        return int(self.weights.size + self.bias.size)


def fit_discriminant(x: NDArray[np.floating], labels: Ints, weights: Matrix, shrinkage: float) -> Discriminant:
    """Fit the means of classes and their common covariance.

    Args:
        x: features, [n, features].
        labels: class of each row, 0..k-1; every class has a row.
        weights: how much each row counts; classes count alike whatever theirs add up to.
        shrinkage: share of the covariance that is taken from a multiple of the identity (after each feature was
            brought to a variance of 1).

    Raises:
        GenreError: for features that are not finite, or a class without a row.
    """
    x = np.asarray(x, np.float64)
    if not np.isfinite(x).all():
        rows = int((~np.isfinite(x).all(axis=1)).sum())
        raise GenreError("the features to learn from", f"are not finite in {rows} of {len(x)} rows", "find the file")
    classes = int(labels.max()) + 1
    if len(np.unique(labels)) < classes:
        raise GenreError("the examples to learn from", "lack one of the classes", "add examples of each")
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-6
    z = (x - mean) / deviation
    means, scatter = [], np.zeros((x.shape[1], x.shape[1]))
    for number in range(classes):
        own, share = z[labels == number], weights[labels == number]
        share = share / share.sum()
        means.append(share @ own)
        apart = own - means[-1]
        scatter += (apart * share[:, None]).T @ apart / classes
    size = len(scatter)
    common = (1 - shrinkage) * scatter + shrinkage * np.trace(scatter) / size * np.eye(size)
    directions = np.linalg.solve(common, np.array(means).T)
    bias = -0.5 * (np.array(means).T * directions).sum(axis=0)
    unscaled = directions / deviation[:, None]
    return Discriminant(unscaled, bias - mean @ unscaled)
