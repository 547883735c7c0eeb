"""Genre heads: from tag activations to calibrated probabilities of ten genres, fitted and judged by artist.

The densities are in training/gaussians.py; here they are calibrated, cross-validated, and written as ONNX for the
service. Start at `fit`; `Linear` is the published baseline, kept to compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError
from training import metrics, splits
from training.gaussians import fit_gaussians
from training.gtzan import GENRES, Clip
from training.onnx_graph import Graph

Matrix = NDArray[np.float64]
Ints = NDArray[np.intp]
FOLDS, SEEDS = 5, (0, 1, 2)


class Classifier(Protocol):
    """What turns activations into logits, in numpy and in ONNX."""

    @property
    def parameters(self) -> int:
        """How many numbers were fitted."""
        ...

    def logits(self, tags: NDArray[np.floating]) -> Matrix:
        """Return logits [windows, genres] of activations [windows, tags]."""
        ...

    def append(self, graph: Graph, tags: str, temperature: float) -> str:
        """Write the same into a graph; return the name of logits / temperature."""
        ...


@dataclass(frozen=True)
class Linear:
    """Multinomial logistic regression on log(tags + 1e-4): the baseline with a published figure."""

    weights: Matrix
    bias: Matrix

    def logits(self, tags: NDArray[np.floating]) -> Matrix:
        """Return logits [windows, genres]."""
        return np.asarray(np.log(np.asarray(tags, np.float64) + 1e-4) @ self.weights + self.bias)

    def append(self, graph: Graph, tags: str, temperature: float) -> str:
        """Write one matrix product."""
        x = graph.add("Log", graph.add("Add", tags, graph.weight(np.array([1e-4]))))
        return graph.add("Gemm", x, graph.weight(self.weights / temperature), graph.weight(self.bias / temperature))

    @property
    def parameters(self) -> int:
        """Return how many numbers were fitted."""
        return int(self.weights.size + self.bias.size)


Fitter = Callable[[NDArray[np.floating], Ints, Ints, Sequence[str]], Classifier]
"""(tags [windows, 50], labels, clip of each window, artist group of each clip) -> a classifier."""


def fit_linear(tags: NDArray[np.floating], labels: Ints, clip_of: Ints, artists: Sequence[str]) -> Linear:
    """Fit the baseline; artists are not used."""
    from sklearn.linear_model import LogisticRegression

    x = np.log(np.asarray(tags, np.float64) + 1e-4)
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-9
    model = LogisticRegression(C=0.1, max_iter=100).fit((x - mean) / deviation, labels)
    weights = model.coef_.T / deviation[:, None]
    return Linear(weights, model.intercept_ - mean @ weights)


FITTERS: dict[str, Fitter] = {"gaussians": fit_gaussians, "linear": fit_linear}


@dataclass(frozen=True)
class Head:
    """A calibrated classifier.

    Attributes:
        temperature: what the logits are divided by, fitted on windows of artists that were not trained on.
        correlation: the card's window_correlation, fitted on the same windows.
    """

    classifier: Classifier
    temperature: float
    correlation: float

    def scores(self, tags: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return calibrated probabilities [windows, genres]."""
        return metrics.softmax(self.classifier.logits(tags) / self.temperature)

    def append(self, graph: Graph, tags: str, name: str = "scores") -> None:
        """Write the head into an ONNX graph, from activations to calibrated probabilities."""
        graph.add("Softmax", self.classifier.append(graph, tags, self.temperature), name=name, axis=1)

    def model(self, tags: int = 50) -> Any:
        """Return the head alone as an ONNX model: `tags` [batch, 50] to `scores` [batch, 10]."""
        graph = Graph()
        self.append(graph, "tags")
        return graph.model({"tags": [tags]}, {"scores": [len(GENRES)]})


@dataclass(frozen=True)
class Validated:
    """What cross-validation by artist found.

    Attributes:
        logits: of every window, by a classifier that was not trained on its artist; one array a repetition.
        clip_accuracy, window_accuracy: means over the repetitions.
        measured: everything about the repetition nearest to those means.
    """

    logits: list[Matrix]
    clip_accuracy: float
    window_accuracy: float
    temperature: float
    correlation: float
    measured: metrics.Measured


def cross_validate(
    fitter: Fitter, tags: NDArray[np.floating], clip_of: Ints, clips: Sequence[Clip], seeds: Sequence[int] = SEEDS
) -> Validated:
    """Judge a fitter by artist-grouped cross-validation.

    Temperature and correlation are fitted on the held-out logits of all folds: two numbers on thousands of windows.

    Raises:
        GenreError: for too few clips or artists, or a fit that ends in values that are not finite.
    """
    clip_labels = np.array([clip.label for clip in clips], np.intp)
    labels, artists = clip_labels[clip_of], splits.groups(list(clips))
    held_out = []
    for seed in seeds:
        logits = np.zeros((len(tags), len(GENRES)))
        for train, valid in splits.folds(list(clips), FOLDS, seed):
            learn, judge = np.isin(clip_of, train), np.isin(clip_of, valid)
            if len(np.unique(labels[learn])) < len(GENRES):
                raise GenreError("cross-validation", "a fold lacks a genre", "add clips of other artists")
            logits[judge] = fitter(tags[learn], labels[learn], clip_of[learn], artists).logits(tags[judge])
        if not np.isfinite(logits).all():
            raise GenreError("cross-validation", "the fit ended in values that are not finite", "check the taggrams")
        held_out.append(logits)
    temperature = metrics.fit_temperature(np.concatenate(held_out), np.tile(labels, len(held_out)))
    scores = [metrics.softmax(logits / temperature) for logits in held_out]
    correlation = metrics.fit_correlation(scores[0], clip_of, clip_labels)
    measured = [metrics.measure(s, clip_of, clip_labels, GENRES, correlation) for s in scores]
    mean = float(np.mean([m.clip_accuracy for m in measured]))
    return Validated(
        held_out,
        round(mean, 4),
        round(float(np.mean([m.window_accuracy for m in measured])), 4),
        temperature,
        correlation,
        min(measured, key=lambda m: abs(m.clip_accuracy - mean)),
    )


def fit(
    fitter: Fitter, tags: NDArray[np.floating], clip_of: Ints, clips: Sequence[Clip], seeds: Sequence[int] = SEEDS
) -> tuple[Head, Validated]:
    """Fit a head on everything, calibrated by cross-validation; return it with what cross-validation found."""
    validated = cross_validate(fitter, tags, clip_of, clips, seeds)
    labels = np.array([clip.label for clip in clips], np.intp)[clip_of]
    classifier = fitter(tags, labels, clip_of, splits.groups(list(clips)))
    return Head(classifier, validated.temperature, validated.correlation), validated
