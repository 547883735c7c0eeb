"""The genre head: one linear discriminant on musicnn's log tags, one on the sounds' logits, their sum, one temperature.

The plainest head that nested cross-validation by artist does not reject: docs/models.md. Start at `nested` (what it is
worth) and `fit` (what ships).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from services.errors import GenreError
from training import metrics
from training.data import splits
from training.data.gtzan import Clip
from training.data.taggrams import Taggrams
from training.discriminant import Discriminant, fit_discriminant
from training.hearing.listen import Heard
from training.onnx_graph import Graph

Matrix = NDArray[np.float64]
Ints = NDArray[np.intp]

TAG_FLOOR = 1e-3
"""Added to an activation before its logarithm, so that a tag that is certainly absent does not rule the sum."""
TAG_SHRINKAGE, SOUND_SHRINKAGE = 0.1, 0.3
SHARES = (0.0, 0.5, 1.0)
"""How much the sounds' discriminant may count beside musicnn's: what nested cross-validation chooses from."""
ARTIST_POWER = 0.5
"""An artist's n clips count together as n ** 0.5: genres with many clips of one artist are not that artist."""
FOLDS, INNER_FOLDS, SEEDS = 5, 4, (0, 1)


@dataclass(frozen=True)
class GenreHead:
    """A calibrated head.

    Attributes:
        tags, sounds: the discriminants of both networks.
        share: what the second one counts.
        temperature: what their sum is divided by, fitted on artists that were not trained on.
        tag_temperature: the same of the first one alone.
        correlation: the card's window_correlation, fitted on the same windows.
    """

    tags: Discriminant
    sounds: Discriminant
    share: float
    temperature: float
    tag_temperature: float
    correlation: float

    def logits(self, tags: NDArray[np.floating], logits: NDArray[np.floating]) -> Matrix:
        """Return logits [n, genres] of tags [n, 50] and the sounds' logits [n, 521]."""
        return np.asarray(self.tags.logits(_log(tags)) + self.share * self.sounds.logits(logits))

    def append(self, graph: Graph, tags: str, logits: str, name: str) -> None:
        """Write the head into an ONNX graph, from both networks' answers to calibrated probabilities."""
        first = self.tags.append(graph, _append_log(graph, tags), self.temperature)
        second = self.sounds.append(graph, logits, self.temperature / max(self.share, 1e-9))
        graph.add("Softmax", graph.add("Add", first, second), name=name, axis=1)

    def tag_model(self) -> object:
        """Return the head of musicnn's tags alone as an ONNX model: `tags` [n, 50] to `scores` [n, genres]."""
        graph = Graph()
        logits = self.tags.append(graph, _append_log(graph, "tags"), self.tag_temperature)
        graph.add("Softmax", logits, name="scores", axis=1)
        return graph.model({"tags": [50]}, {"scores": [self.tags.bias.size]})


@dataclass(frozen=True)
class Nested:
    """What nested cross-validation by artist found: shares are chosen inside, on artists that are not judged.

    Attributes:
        logits, tag_logits: of every window of audio, by heads that were not fitted on its artist; one array a seed.
        shares: what was chosen in each outer fold.
        measured: of the clips that are judged, for the seed nearest to the mean.
        clip_accuracy, window_accuracy: means over the seeds.
    """

    logits: list[Matrix]
    tag_logits: list[Matrix]
    shares: list[float]
    temperature: float
    tag_temperature: float
    correlation: float
    measured: metrics.Measured
    tag_measured: metrics.Measured
    clip_accuracy: float
    window_accuracy: float


@dataclass(frozen=True)
class Material:
    """Labelled windows: of audio that both networks heard, and taggrams, which only musicnn did."""

    heard: Heard
    taggrams: Taggrams
    groups: list[str]
    tag_groups: list[str]

    @classmethod
    def of(cls, heard: Heard, taggrams: Taggrams) -> Material:
        """Join the clips' artists, so that whoever is in both is one group."""
        joined = splits.groups([*heard.clips, *taggrams.clips])
        return cls(heard, taggrams, joined[: len(heard.clips)], joined[len(heard.clips) :])

    @property
    def genres(self) -> tuple[str, ...]:
        """What the labels stand for."""
        return self.heard.clips[0].genres

    @property
    def labels(self) -> Ints:
        """Genre of each clip of audio."""
        return np.array([clip.label for clip in self.heard.clips], np.intp)

    def folds(self, clips: Ints, tag_clips: Ints, count: int, seed: int) -> list[tuple[Ints, Ints, Ints, Ints]]:
        """Return (clips, taggram clips) to learn from and to judge by, no artist on both sides."""
        labels = np.concatenate([self.labels[clips], self.taggrams.clip_labels[tag_clips]])
        groups = [*(self.groups[i] for i in clips), *(self.tag_groups[i] for i in tag_clips)]
        if len(set(groups)) < count or np.bincount(labels).max() < count:
            reason = f"needs {count} clips of a genre, of {count} artists"
            raise GenreError("cross-validation", reason, "add clips of other artists")
        parts = []
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            # A genre with fewer clips than folds is fine, as long as each fold can learn it.
            warnings.filterwarnings("ignore", message="The least populated class")
            cut = list(splitter.split(labels, labels, groups))
        for learn, judge in cut:
            lacking = sorted(set(range(len(self.genres))) - set(labels[learn].tolist()))
            if lacking:
                reason = f"a fold has no clip of {self.genres[lacking[0]]} to learn from: it is of too few artists"
                raise GenreError("cross-validation", reason, "add clips of others, or leave it out with --genres")
            both = [(part[part < len(clips)], part[part >= len(clips)] - len(clips)) for part in (learn, judge)]
            parts.append((clips[both[0][0]], tag_clips[both[0][1]], clips[both[1][0]], tag_clips[both[1][1]]))
        return parts

    def fit(self, clips: Ints, tag_clips: Ints) -> tuple[Discriminant, Discriminant]:
        """Return both discriminants, fitted on some clips."""
        rows, tag_rows = np.isin(self.heard.clip_of, clips), np.isin(self.taggrams.clip_of, tag_clips)
        own, theirs = self.heard.clip_of[rows], self.taggrams.clip_of[tag_rows]
        weights, tag_weights = _weights(own, self.groups), _weights(theirs, self.tag_groups)
        labels = self.labels[own]
        tags = np.concatenate([self.heard.tags[rows], self.taggrams.tags[tag_rows]])
        tag_labels = np.concatenate([labels, self.taggrams.labels[tag_rows]])
        first = fit_discriminant(_log(tags), tag_labels, np.concatenate([weights, tag_weights]), TAG_SHRINKAGE)
        return first, fit_discriminant(self.heard.logits[rows], labels, weights, SOUND_SHRINKAGE)


def nested(material: Material, judged: NDArray[np.bool_], seeds: Sequence[int] = SEEDS) -> Nested:
    """Judge the head by nested cross-validation by artist.

    Args:
        judged: which clips count in the figures; the others only teach.
    """
    heard = material.heard
    everything = np.arange(len(heard.clips)), np.arange(len(material.taggrams.clips))
    found, found_tags, shares = [], [], []
    for seed in seeds:
        logits, tag_logits = (np.zeros((len(heard.tags), len(material.genres))) for _ in range(2))
        for learn, tag_learn, judge, _ in material.folds(*everything, FOLDS, seed):
            share = _choose(material, learn, tag_learn, judged, seed)
            shares.append(share)
            rows = np.isin(heard.clip_of, judge)
            first, second = material.fit(learn, tag_learn)
            tag_logits[rows] = first.logits(_log(heard.tags[rows]))
            logits[rows] = tag_logits[rows] + share * second.logits(heard.logits[rows])
        found.append(logits)
        found_tags.append(tag_logits)
    rows = judged[heard.clip_of]
    numbers = np.cumsum(judged) - 1
    clip_of, clip_labels = numbers[heard.clip_of[rows]].astype(np.intp), material.labels[judged]

    def measure(parts: list[Matrix]) -> tuple[float, float, list[metrics.Measured]]:
        kept = [part[rows] for part in parts]
        temperature = metrics.fit_temperature(np.concatenate(kept), np.tile(clip_labels[clip_of], len(kept)))
        scores = [metrics.softmax(part / temperature) for part in kept]
        correlation = metrics.fit_correlation(scores[0], clip_of, clip_labels)
        made = [metrics.measure(each, clip_of, clip_labels, material.genres, correlation) for each in scores]
        return temperature, correlation, made

    temperature, correlation, each = measure(found)
    tag_temperature, _, tags_each = measure(found_tags)
    clips, windows = (float(np.mean([getattr(m, f"{n}_accuracy") for m in each])) for n in ("clip", "window"))
    nearest = min(range(len(each)), key=lambda i: abs(each[i].clip_accuracy - clips))
    return Nested(
        found, found_tags, shares, temperature, tag_temperature, correlation, each[nearest], tags_each[nearest],
        round(clips, 4), round(windows, 4),
    )  # fmt: skip


def fit(material: Material, found: Nested) -> GenreHead:
    """Fit the head on everything, calibrated by what nested cross-validation found."""
    tags, sounds = material.fit(np.arange(len(material.heard.clips)), np.arange(len(material.taggrams.clips)))
    share = float(np.median(found.shares))
    return GenreHead(tags, sounds, share, found.temperature, found.tag_temperature, found.correlation)


def _choose(material: Material, clips: Ints, tag_clips: Ints, judged: NDArray[np.bool_], seed: int) -> float:
    """Return the share with the least cross-entropy in an inner cross-validation."""
    heard = material.heard
    first, second = (np.zeros((len(heard.tags), len(material.genres))) for _ in range(2))
    for learn, tag_learn, judge, _ in material.folds(clips, tag_clips, INNER_FOLDS, seed):
        rows = np.isin(heard.clip_of, judge)
        by_tags, by_sounds = material.fit(learn, tag_learn)
        first[rows], second[rows] = by_tags.logits(_log(heard.tags[rows])), by_sounds.logits(heard.logits[rows])
    rows = np.isin(heard.clip_of, clips) & judged[heard.clip_of]
    labels = material.labels[heard.clip_of[rows]]

    def loss(share: float) -> float:
        logits = first[rows] + share * second[rows]
        told = metrics.log_softmax(logits / metrics.fit_temperature(logits, labels))
        return -float(told[np.arange(len(labels)), labels].mean())

    return min(SHARES, key=loss)


def _log(tags: NDArray[np.floating]) -> Matrix:
    """Return log tags as the discriminant takes them."""
    return np.asarray(np.log(np.asarray(tags, np.float64) + TAG_FLOOR))


def _append_log(graph: Graph, tags: str) -> str:
    """Write the same into a graph."""
    return graph.add("Log", graph.add("Add", tags, graph.weight(np.array([TAG_FLOOR]))))


def _weights(clip_of: Ints, groups: Sequence[str]) -> Matrix:
    """Return window weights: clips count alike, and an artist's n clips together as n ** ARTIST_POWER."""
    used, place, windows = np.unique(clip_of, return_inverse=True, return_counts=True)
    names = [groups[clip] for clip in used]
    clips_of = {name: names.count(name) for name in set(names)}
    # Clips of unknown artists are held together when folds are cut, but are not one artist's.
    power = np.array([1.0 if name.startswith("unknown artist") else clips_of[name] ** -ARTIST_POWER for name in names])
    return np.asarray((power / windows)[place])


__all__ = ["Clip", "GenreHead", "Material", "Nested", "fit", "nested"]
