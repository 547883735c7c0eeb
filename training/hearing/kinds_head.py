"""The kinds head: music, speech or other, from a dozen groups of AudioSet's classes.

The sound network says Speech and Music by itself; what is fitted is only how its groups weigh against each other, so
that few examples do and a new voice or machine changes nothing. Start at `fit`; `judge` leaves whole packages out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from services.errors import GenreError
from training import metrics
from training.hearing.listen import KINDS, Heard
from training.onnx_graph import Graph

Matrix = NDArray[np.float64]
Ints = NDArray[np.intp]

GROUPS: dict[str, tuple[str, str]] = {
    "speech": ("Speech", "Speech synthesizer"),
    "voice": ("Shout", "Sigh"),
    "singing": ("Singing", "Humming"),
    "people": ("Groan", "Children playing"),
    "animals": ("Animal", "Whale vocalization"),
    "music": ("Music", "Music"),
    "instruments": ("Musical instrument", "Harp"),
    "bells": ("Bell", "Change ringing (campanology)"),
    "more instruments": ("Harmonica", "Scratching (performance technique)"),
    "styles": ("Pop music", "Scary music"),
    "weather and water": ("Wind", "Crackle"),
    "vehicles": ("Vehicle", "Accelerating, revving, vroom"),
    "things": ("Door", "Silence"),
    "noise": ("Sine wave", "Vibration"),
}
"""Runs of classes in AudioSet's order, by their first and last one; a group counts by its strongest class."""
LOW, HIGH = -12.0, 8.0
"""Logits are cut off here: beyond, they say nothing more."""
PENALTY = 20.0
"""Of squared weights in logistic regression (1 / C)."""
MUSIC_WEIGHT = 4.0
"""Music counts four times: on a radio, music called talk is the worse error."""
FOLDS = 6


@dataclass(frozen=True)
class KindsHead:
    """Multinomial logistic regression on the groups.

    Attributes:
        weights: [groups, 3].
        bias: [3].
        ranges: first and last class of each group, by number.
    """

    weights: Matrix
    bias: Matrix
    ranges: tuple[tuple[int, int], ...]

    def scores(self, logits: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return probabilities of music, speech and other, [n, 3], of the sound network's logits [n, 521]."""
        return metrics.softmax(grouped(logits, self.ranges) @ self.weights + self.bias)

    def append(self, graph: Graph, logits: str, name: str) -> None:
        """Write the head into an ONNX graph."""
        x = graph.add("Clip", logits, graph.weight(np.array(LOW)), graph.weight(np.array(HIGH)))
        parts = []
        for first, last in self.ranges:
            edges = (graph.weight(np.array([value]), np.int64) for value in (first, last + 1, 1))
            parts.append(graph.add("ReduceMax", graph.add("Slice", x, *edges), axes=[1], keepdims=1))
        groups = graph.add("Concat", *parts, axis=1)
        product = graph.add("Gemm", groups, graph.weight(self.weights), graph.weight(self.bias))
        graph.add("Softmax", product, name=name, axis=1)

    @property
    def parameters(self) -> int:
        """Return how many numbers were fitted."""
        return int(self.weights.size + self.bias.size)


def ranges_of(classes: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return the numbers of each group's first and last class.

    Raises:
        GenreError: where the classes are not AudioSet's.
    """
    try:
        return tuple((classes.index(first), classes.index(last)) for first, last in GROUPS.values())
    except ValueError as error:
        remedy = "take those of genre-sounds"
        raise GenreError("the sound network's classes", f"are not AudioSet's ({error})", remedy) from error


def of_model(model: onnx.ModelProto, classes: Sequence[str]) -> KindsHead:
    """Return the head of a finished model, for one whose data holds music alone.

    Raises:
        GenreError: where the model has none.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    try:
        _, kernel, bias = makers[makers["kinds"].input[0]].input
        ranges, matrix = ranges_of(classes), np.asarray(weights[kernel], np.float64)
        if matrix.shape != (len(ranges), len(KINDS)):
            raise ValueError(f"it has the shape {list(matrix.shape)}")
        return KindsHead(matrix, np.asarray(weights[bias], np.float64), ranges)
    except (KeyError, ValueError, IndexError) as error:
        raise GenreError("the base model", f"has no head for kinds ({error})", "give --base genre-sounds") from error


def grouped(logits: NDArray[np.floating], ranges: Sequence[tuple[int, int]]) -> Matrix:
    """Return the strongest class of each group, [n, groups], of logits [n, 521]."""
    x = np.clip(np.asarray(logits, np.float64), LOW, HIGH)
    return np.stack([x[:, first : last + 1].max(axis=1) for first, last in ranges], axis=1)


def fit(heard: Heard, classes: Sequence[str]) -> KindsHead:
    """Fit the head.

    Raises:
        GenreError: where one of the kinds has no example.
    """
    if len(np.unique(heard.kinds)) < len(KINDS):
        found = ", ".join(KINDS[kind] for kind in np.unique(heard.kinds)) or "none"
        raise GenreError("--heard", f"holds {found} only", f"add sounds of each kind: {', '.join(KINDS)}")
    ranges = ranges_of(classes)
    x = grouped(heard.logits, ranges)
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-6
    model = LogisticRegression(C=1 / PENALTY, max_iter=1_000)
    model.fit((x - mean) / deviation, heard.kinds, sample_weight=_weights(heard))
    weights = model.coef_.T / deviation[:, None]
    return KindsHead(weights, model.intercept_ - mean @ weights, ranges)


def judge(heard: Heard, classes: Sequence[str]) -> NDArray[np.float32]:
    """Return probabilities [n, 3] by heads that were fitted without any sound of the window's package or speaker."""
    sources = np.array([clip.artist or clip.name for clip in heard.clips])[heard.clip_of]
    scores = np.zeros((len(heard.kinds), len(KINDS)), np.float32)
    for learn, test in GroupKFold(FOLDS).split(scores, groups=sources):
        rows = np.zeros(len(scores), bool)
        rows[learn] = True
        scores[test] = fit(heard.take(rows), classes).scores(heard.logits[test])
    return scores


def _weights(heard: Heard) -> Matrix:
    """Return window weights: a source's n windows count as n ** 0.5, kinds count alike but for music."""
    sources = np.array([clip.artist or clip.name for clip in heard.clips])[heard.clip_of]
    _, place, counts = np.unique(sources, return_inverse=True, return_counts=True)
    weights = counts[place] ** -0.5
    for kind in range(len(KINDS)):
        rows = heard.kinds == kind
        weights[rows] *= (MUSIC_WEIGHT if kind == 0 else 1.0) / weights[rows].sum()
    return np.asarray(weights * len(weights) / len(KINDS))
