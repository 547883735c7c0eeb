"""Invented answers of both networks, in which genres and kinds can be told."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.data.gtzan import GENRES, Clip
from training.data.taggrams import Taggrams
from training.hearing.listen import Heard

CLASSES = 521


def music(clips_each: int = 6, windows_each: int = 4, artists_each: int = 3, seed: int = 0) -> Heard:
    """Each genre raises tags and classes of its own, each artist some of theirs."""
    random = np.random.default_rng(seed)
    tags, logits, clip_of, clips = [], [], [], []
    for label, genre in enumerate(GENRES):
        for number in range(clips_each):
            taste = np.random.default_rng(label * 100 + number % artists_each).normal(0, 0.5, 50)
            for _ in range(windows_each):
                told = random.normal(-3, 0.7, 50) + taste
                told[label * 5 : label * 5 + 5] += 1.5
                tags.append(1 / (1 + np.exp(-told)))
                heard = random.normal(-8, 1, CLASSES)
                heard[211 + label] += 2
                heard[132] = 4
                logits.append(heard)
                clip_of.append(len(clips))
            name = f"{genre}.{number:05}"
            clips.append(Clip(name, genre, Path(genre), f"{genre} artist {number % artists_each}"))
    count = len(tags)
    return Heard(
        np.array(tags, np.float32),
        np.array(logits, np.float32),
        np.array(clip_of, np.intp),
        clips,
        np.zeros(count, np.intp),
        np.array(["plain"] * count),
    )


def sounds(sources_each: int = 8, windows_each: int = 3, seed: int = 1) -> Heard:
    """Music, speech and rain, each of several packages."""
    random = np.random.default_rng(seed)
    logits, clip_of, clips, kinds = [], [], [], []
    for kind, (name, place) in enumerate((("music", 132), ("speech", 0), ("other", 283))):
        for number in range(sources_each):
            for _ in range(windows_each):
                heard = random.normal(-8, 1, CLASSES)
                heard[place] = random.normal(4, 1)
                logits.append(heard)
                kinds.append(kind)
                clip_of.append(len(clips))
            clips.append(Clip(f"{name}.{number}", name, Path(name), f"package {kind} {number}"))
    count = len(logits)
    return Heard(
        np.full((count, 50), 0.1, np.float32),
        np.array(logits, np.float32),
        np.array(clip_of, np.intp),
        clips,
        np.array(kinds, np.intp),
        np.array(["plain"] * count),
    )


def taggrams(heard: Heard) -> Taggrams:
    """The same windows as a taggram file has them."""
    labels = np.array([clip.label for clip in heard.clips], np.intp)[heard.clip_of]
    return Taggrams(heard.tags, labels, heard.clip_of, heard.clips)
