"""Genre heads: small networks from tag activations (or an embedding) to ten genres, fitted and judged by artist.

A head is a few matrices, applied by numpy here and written as ONNX nodes for the service. Start at `Head`; `fit` makes
one and says by artist-grouped cross-validation what it is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError
from training import metrics, splits
from training.gtzan import GENRES, Clip
from training.onnx_graph import Graph
from training.taggrams import SMALLEST

Matrix = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Head:
    """Dense layers with ReLU between them, applied to log(tags + 1e-4); the last one gives logits.

    Attributes:
        layers: (weights [in, out], bias [out]) of each layer, first to last.
        temperature: what the logits are divided by, fitted on windows of artists that were not trained on.
        correlation: window_correlation of the card.
    """

    layers: tuple[tuple[Matrix, Matrix], ...]
    temperature: float = 1.0
    correlation: float = 1.0
    notes: dict[str, str] = field(default_factory=dict)

    def logits(self, inputs: NDArray[np.floating]) -> Matrix:
        """Return logits [windows, genres] of inputs [windows, in], before the temperature."""
        x = np.asarray(inputs, np.float64)
        for place, (weights, bias) in enumerate(self.layers):
            x = x @ weights + bias
            if place + 1 < len(self.layers):
                x = np.maximum(x, 0)
        return x

    def scores(self, tags: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return calibrated probabilities [windows, genres] of tag activations [windows, 50]."""
        return np.exp(metrics.log_softmax(self.logits(log_tags(tags)) / self.temperature)).astype(np.float32)

    def append(self, graph: Graph, tags: str, name: str = "scores") -> None:
        """Write the head into an ONNX graph, from activations to calibrated probabilities."""
        x = graph.add("Log", graph.add("Add", tags, graph.weight(np.array([SMALLEST]))))
        for place, (weights, bias) in enumerate(self.layers):
            last = place + 1 == len(self.layers)
            scale = 1 / self.temperature if last else 1.0
            x = graph.add("Gemm", x, graph.weight(weights * scale), graph.weight(bias * scale))
            if not last:
                x = graph.add("Relu", x)
        graph.add("Softmax", x, name=name, axis=1)

    def model(self) -> Any:
        """Return the head alone as an ONNX model: `tags` [batch, 50] to `scores` [batch, 10]."""
        graph = Graph()
        self.append(graph, "tags")
        return graph.model({"tags": [self.layers[0][0].shape[0]]}, {"scores": [self.layers[-1][1].size]})


def log_tags(tags: NDArray[np.floating]) -> Matrix:
    """Return what heads read: log(tags + 1e-4)."""
    return np.log(np.asarray(tags, np.float64) + SMALLEST)


Fitter = Callable[[Matrix, Ints, Ints], Head]
"""(inputs [windows, in], labels, clip of each window) -> a head."""


def logistic(strength: float) -> Fitter:
    """Multinomial logistic regression on standardised inputs; `strength` is scikit-learn's C."""

    def fit_one(x: Matrix, labels: Ints, clip_of: Ints) -> Head:
        from sklearn.linear_model import LogisticRegression

        mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-9
        model = LogisticRegression(C=strength, max_iter=500).fit((x - mean) / deviation, labels)
        weights = model.coef_.T / deviation[:, None]
        return Head(((weights, model.intercept_ - mean @ weights),))

    return fit_one


def discriminant(shrinkage: float) -> Fitter:
    """Linear discriminant analysis with a shrunk covariance and equal priors."""

    def fit_one(x: Matrix, labels: Ints, clip_of: Ints) -> Head:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        equal = np.full(len(GENRES), 1 / len(GENRES))
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=equal).fit(x, labels)
        return Head(((model.coef_.T, model.intercept_),))

    return fit_one


@dataclass(frozen=True)
class Validated:
    """What cross-validation by artist found.

    Attributes:
        logits: of every window, by a head that was not trained on its artist; one array a repetition.
        measured: mean over repetitions is in `clip_accuracy` and `window_accuracy` here; the rest is of the first.
    """

    logits: list[Matrix]
    clip_accuracy: float
    window_accuracy: float
    temperature: float
    correlation: float
    measured: metrics.Measured


def cross_validate(
    fitter: Fitter,
    inputs: Matrix,
    clip_of: Ints,
    clips: Sequence[Clip],
    seeds: Sequence[int] = (0, 1, 2),
    count: int = 5,
) -> Validated:
    """Judge a fitter by artist-grouped cross-validation.

    Temperature and correlation are fitted on the pooled held-out logits, two numbers on thousands of windows.

    Raises:
        GenreError: for too few clips or artists, or a fit that ends in values that are not finite.
    """
    clip_labels = np.array([clip.label for clip in clips], np.intp)
    labels = clip_labels[clip_of]
    held_out = []
    for seed in seeds:
        logits = np.zeros((len(inputs), len(GENRES)))
        for train, valid in splits.folds(list(clips), count, seed):
            learn, judge = np.isin(clip_of, train), np.isin(clip_of, valid)
            logits[judge] = fitter(inputs[learn], labels[learn], clip_of[learn]).logits(inputs[judge])
        if not np.isfinite(logits).all():
            raise GenreError("cross-validation", "the fit ended in values that are not finite", "check the inputs")
        held_out.append(logits)
    temperature = metrics.fit_temperature(np.concatenate(held_out), np.tile(labels, len(held_out)))
    scores = [np.exp(metrics.log_softmax(logits / temperature)).astype(np.float32) for logits in held_out]
    correlation = metrics.fit_correlation(scores[0], clip_of, clip_labels)
    measured = [metrics.measure(s, clip_of, clip_labels, GENRES, correlation) for s in scores]
    return Validated(
        held_out,
        round(float(np.mean([m.clip_accuracy for m in measured])), 4),
        round(float(np.mean([m.window_accuracy for m in measured])), 4),
        temperature,
        correlation,
        measured[0],
    )


def fit(
    fitter: Fitter, inputs: Matrix, clip_of: Ints, clips: Sequence[Clip], seeds: Sequence[int] = (0, 1, 2)
) -> tuple[Head, Validated]:
    """Fit a head on everything, calibrated by cross-validation; return it with what cross-validation found."""
    validated = cross_validate(fitter, inputs, clip_of, clips, seeds)
    labels = np.array([clip.label for clip in clips], np.intp)[clip_of]
    head = fitter(inputs, labels, clip_of)
    return Head(head.layers, validated.temperature, validated.correlation), validated
