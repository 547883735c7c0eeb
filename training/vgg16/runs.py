"""What is trained of a data set: the paper's leaky split and the honest one, and by how many folds and seeds again.

Places of windows; nothing is trained here. Start at `protocols` and `again`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.data.splits import Lists, by_artist, folds, random_windows

if TYPE_CHECKING:
    from training.vgg16.arrays import Windowed
    from training.vgg16.fit import Plan

ARTIST_SHARE = 0.25
"""Part of the clips to validate on, where the folder lacks clips of the published validation list."""


@dataclass(frozen=True)
class Run:
    """One split, ready to train: places of windows, and how to call it."""

    name: str
    title: str
    protocol: str
    train: NDArray[np.intp]
    valid: NDArray[np.intp]
    test: NDArray[np.intp]


def protocols(windowed: Windowed, lists: Lists | None, share: float, seed: int) -> list[Run]:
    """Return the paper's split and the honest one."""
    train, valid = random_windows(windowed.labels.tolist(), share, seed, windowed.genres)
    told = f"{1 - share:.0%} of the windows to train, {share:.0%} to validate, at random within each genre"
    none = np.empty(0, np.intp)
    artist = by_artist(windowed.clips, lists, ARTIST_SHARE, seed)
    parts = [np.flatnonzero(np.isin(windowed.clip, part)) for part in (artist.train, artist.valid, artist.test)]
    return [
        Run("random", "random segments (leaky)", f"{told}; pieces of a song are on both sides", train, valid, none),
        Run("artist", "artists separated", artist.protocol, *parts),
    ]


def again(windowed: Windowed, lists: Lists | None, plan: Plan, count: int, seeds: int) -> Iterator[tuple[Run, Plan]]:
    """Yield what `--folds` and `--seeds` train beside the two splits; official test clips are in none of them."""
    for seed in range(plan.seed, plan.seed + seeds if count or seeds > 1 else plan.seed):
        split = by_artist(windowed.clips, lists, ARTIST_SHARE, plan.seed)
        pool = np.sort(np.concatenate([split.train, split.valid]))
        parts = [(split.train, split.valid)]
        if count:
            cut = folds([windowed.clips[at] for at in pool], count, seed)
            parts = [(pool[train], pool[valid]) for train, valid in cut]
        for number, part in enumerate(parts, 1):
            train, valid = (np.flatnonzero(np.isin(windowed.clip, places)) for places in part)
            name = f"fold-{number}-of-{count}-seed-{seed}"
            if not count:  # the first one is the artist split itself, and not trained twice
                name = "artist" if seed == plan.seed else f"artist-seed-{seed}"
            yield Run(name, name, split.protocol, train, valid, np.empty(0, np.intp)), replace(plan, seed=seed)
