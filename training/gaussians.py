"""The genre head that generalises best: one regularised Gaussian a genre over log tags, with Student-t tails.

Quadratic discriminant analysis between two extremes: each genre's covariance is mostly the common one, with a little of
its own (Friedman 1989, "Regularized Discriminant Analysis"); genres with many clips of one artist are kept from being
that artist. Start at `fit_gaussians`. Chosen by artist-grouped cross-validation: docs/models.md has the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.onnx_graph import Graph

Matrix = NDArray[np.float64]
Ints = NDArray[np.intp]

SMALLEST = 3e-4
"""Added to an activation before its logarithm, so that a tag that is certainly absent does not rule the sum."""
OWN_COVARIANCE = 0.15
BETWEEN_ARTISTS = 0.3
SHRINKAGE = 0.07
ARTIST_POWER = 0.5
FREEDOM = 30.0


@dataclass(frozen=True)
class Gaussians:
    """One Student-t density a genre over log(tags + 3e-4); all genres are equally likely beforehand.

    Attributes:
        means: [genres, tags].
        whiten: per genre, the matrix that makes its covariance the identity, [genres, tags, tags].
        constants: -log|covariance| / 2 of each genre, [genres].
    """

    means: Matrix
    whiten: Matrix
    constants: Matrix

    def logits(self, tags: NDArray[np.floating]) -> Matrix:
        """Return log-densities up to a constant, [windows, genres], of tag activations [windows, tags]."""
        x = np.log(np.asarray(tags, np.float64) + SMALLEST)
        genres, width = self.means.shape
        distances = np.stack([(((x - self.means[g]) @ self.whiten[g]) ** 2).sum(axis=1) for g in range(genres)], axis=1)
        return np.asarray(self.constants - (FREEDOM + width) / 2 * np.log1p(distances / FREEDOM))

    def append(self, graph: Graph, tags: str, temperature: float) -> str:
        """Write the densities into an ONNX graph; return the name of logits / temperature."""
        genres, width = self.means.shape
        x = graph.add("Log", graph.add("Add", tags, graph.weight(np.array([SMALLEST]))))
        joined = self.whiten.transpose(1, 0, 2).reshape(width, genres * width)
        shift = -np.einsum("gi,gij->gj", self.means, self.whiten).reshape(-1)
        white = graph.add("Gemm", x, graph.weight(joined), graph.weight(shift))
        sums = np.repeat(np.eye(genres), width, axis=0) / FREEDOM
        distances = graph.add("MatMul", graph.add("Mul", white, white), graph.weight(sums))
        tails = graph.add("Log", graph.add("Add", distances, graph.weight(np.ones(1))))
        slope = np.full(genres, -(FREEDOM + width) / 2 / temperature)
        return graph.affine(tails, slope, self.constants / temperature, [1, -1])

    @property
    def parameters(self) -> int:
        """Return how many numbers were fitted: means, and symmetric covariances."""
        genres, width = self.means.shape
        return int(genres * (width + width * (width + 1) // 2))


def fit_gaussians(tags: NDArray[np.floating], labels: Ints, clip_of: Ints, artists: Sequence[str]) -> Gaussians:
    """Fit the densities.

    Args:
        tags: activations, [windows, tags].
        labels: genre of each window, 0..n; every genre has a window.
        clip_of: clip of each window.
        artists: artist group of each clip number (from training.splits.groups).
    """
    x = np.log(np.asarray(tags, np.float64) + SMALLEST)
    weights = _weights(clip_of, artists)
    genres = int(labels.max()) + 1
    means = np.stack([np.average(x[labels == g], axis=0, weights=weights[labels == g]) for g in range(genres)])
    residuals = x - means[labels]
    own = np.stack([_scatter(residuals[labels == g], weights[labels == g]) for g in range(genres)])
    common = (1 - BETWEEN_ARTISTS) * own.mean(axis=0) + BETWEEN_ARTISTS * _between(residuals, labels, clip_of, artists)
    whiten, constants = np.empty_like(own), np.empty(genres)
    for g in range(genres):
        covariance = (1 - OWN_COVARIANCE) * _shrunk(common) + OWN_COVARIANCE * _shrunk(own[g])
        whiten[g] = np.linalg.cholesky(np.linalg.inv(covariance))
        constants[g] = -0.5 * np.linalg.slogdet(covariance)[1]
    return Gaussians(means, whiten, constants)


def _weights(clip_of: Ints, artists: Sequence[str]) -> Matrix:
    """Return window weights: clips count alike, and an artist's n clips together as the square root of n."""
    used, place, windows = np.unique(clip_of, return_inverse=True, return_counts=True)
    names = [artists[clip] for clip in used]
    clips_of = {name: names.count(name) for name in set(names)}
    # Clips of unknown artists are held together when folds are cut, but are not one artist's.
    power = np.array([1.0 if name.startswith("unknown artist") else clips_of[name] ** -ARTIST_POWER for name in names])
    weights = (power / windows)[place]
    return np.asarray(weights / weights.mean())


def _scatter(residuals: Matrix, weights: Matrix) -> Matrix:
    """Return the weighted covariance of centred rows."""
    return np.asarray((residuals * weights[:, None]).T @ residuals / weights.sum())


def _between(residuals: Matrix, labels: Ints, clip_of: Ints, artists: Sequence[str]) -> Matrix:
    """Return the covariance of artists around their genre: what differs from artist to artist must count for less."""
    keys = [f"{label} {artists[clip]}" for label, clip in zip(labels, clip_of, strict=True)]
    names, place = np.unique(keys, return_inverse=True)
    sums = np.zeros((len(names), residuals.shape[1]))
    np.add.at(sums, place, residuals)
    means = sums / np.bincount(place)[:, None]
    return np.asarray(means.T @ means / len(means))


def _shrunk(covariance: Matrix) -> Matrix:
    """Pull a covariance towards its diagonal."""
    return np.asarray((1 - SHRINKAGE) * covariance + SHRINKAGE * np.diag(np.diag(covariance)))
