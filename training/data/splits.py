"""Divides clips or windows into training and validation parts: the paper's leaky way, and the honest one.

Only names and numbers, no audio. Start at `random_windows` (pieces of one song fall on both sides) and `by_artist`
(no artist is on both sides). The published fault-filtered lists are read by `load_lists`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from services.errors import GenreError
from training.data.data_set import DataSet
from training.data.gtzan import GENRES, Clip
from training.data.taggrams import read_artists

LIST_FILES = {"train": "train_filtered.txt", "valid": "valid_filtered.txt", "test": "test_filtered.txt"}
GET_LISTS = "get the fault-filtered lists (Kereliuk 2015; GitHub: jongpillee/music_dataset_split)"
FOLDINGS = 40
"""How many foldings are tried for an even one."""
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Lists:
    """The fault-filtered, artist-separated split of GTZAN (443/197/290 clips) and who plays what.

    Attributes:
        train, valid, test: clip names such as ``blues.00042``. A clip in none of them was filtered out as faulty.
        artists: artist of a clip, where known.
        source: what they are, for the protocol.
    """

    train: frozenset[str] = frozenset()
    valid: frozenset[str] = frozenset()
    test: frozenset[str] = frozenset()
    artists: Mapping[str, str] = field(default_factory=dict)
    source: str = "fault-filtered artist-separated lists"


@dataclass(frozen=True)
class Split:
    """Which clips are learnt from and which are judged by.

    Attributes:
        protocol: one line that says what was done, to stand beside every accuracy.
        train, valid, test: places in the list of clips; test is empty where the official test clips are not there.
    """

    protocol: str
    train: Indices
    valid: Indices
    test: Indices


def load_lists(folder: Path) -> Lists:
    """Read train_filtered.txt, valid_filtered.txt and test_filtered.txt, and artists.csv where it lies beside them.

    Raises:
        GenreError: for a file that is missing, unreadable or empty.
    """
    names: dict[str, frozenset[str]] = {}
    for part, file in LIST_FILES.items():
        path = folder / file
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise GenreError(str(path), f"can't be read ({error})", GET_LISTS) from error
        names[part] = frozenset(Path(line.strip()).stem for line in lines if line.strip())
        if not names[part]:
            raise GenreError(str(path), "names no clip", GET_LISTS)
    named = folder / "artists.csv"
    artists = read_artists(named) if named.is_file() else {}
    return Lists(names["train"], names["valid"], names["test"], artists)


def find_lists(gtzan: Path) -> Lists | None:
    """Return the lists that lie in a data set's folder or in ``gtzan-splits`` beside it; None where there are none."""
    for folder in (gtzan, gtzan / "gtzan-splits", gtzan.parent / "gtzan-splits"):
        if (folder / LIST_FILES["train"]).is_file():
            return load_lists(folder)
    return None


def lists_of(data: DataSet) -> Lists | None:
    """Return the parts that a data set's own index names; None where it names none.

    Raises:
        GenreError: where an artist is on both sides: the split would not be honest.
    """
    if not data.split:
        return None
    parts = {part: frozenset(name for name, own in data.split.items() if own == part) for part in LIST_FILES}
    side: dict[str, str] = {}
    for clip, group in zip(data.clips, groups(data.clips), strict=True):
        part = data.split.get(clip.name, "")
        if clip.artist and part and side.setdefault(group, part) != part:
            reason = f"{clip.artist} is in {side[group]} and in {part}"
            raise GenreError("the index's split", reason, "keep an artist on one side, or leave the column out")
    return Lists(parts["train"], parts["valid"], parts["test"], source="the index's own split")


def with_artists(clips: Sequence[Clip], lists: Lists | None) -> list[Clip]:
    """Return the clips with the artists that the lists know and the data set's own index does not."""
    known = lists.artists if lists else {}
    return [clip if clip.artist else replace(clip, artist=known.get(clip.name, "")) for clip in clips]


def groups(clips: Sequence[Clip]) -> list[str]:
    """Return the group of each clip: clips that share any artist are in one, and never to be separated.

    "Bob Marley & The Wailers" and "Bob Marley" are one group, and so is everyone who plays with either. Joining too
    much costs little, separating one artist leaks. Clips of unknown artists stay together, a genre at a time.
    """
    parts = [_names(clip) for clip in clips]
    leader: dict[str, str] = {}

    def lead(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for first, *others in parts:
        for other in others:
            leader[lead(other)] = lead(first)
    return [lead(first) for first, *_ in parts]


def _names(clip: Clip) -> list[str]:
    """Return the artists of a clip, each boiled down so that one artist has one spelling."""
    names = []
    for part in re.split(r"[,;/&()]|\b(?:feat|featuring|ft|with|and|vs)\b", clip.artist.casefold()):
        plain = " ".join(re.sub(r"[^\w]+", " ", part).split())
        plain = re.sub(r"^the | (trio|quartet|quintet|band)$", "", plain)
        if plain and plain != "various artists":
            names.append(plain)
    return names or [f"unknown artist, {clip.genre}"]


def random_windows(
    labels: Sequence[int], share: float, seed: int, genres: Sequence[str] = GENRES
) -> tuple[Indices, Indices]:
    """Split windows at random, each genre by the same share, as the paper does: pieces of a song fall on both sides.

    Args:
        labels: genre of each window.
        share: part of the windows to validate on.
        genres: what the labels stand for.

    Returns:
        Places of the training and of the validation windows, sorted.

    Raises:
        GenreError: for too few windows of a genre.
    """
    count = np.bincount(np.asarray(labels, np.intp), minlength=len(genres))
    least = [genres[int(label)] for label in np.flatnonzero((count > 0) & (count < 2))]
    if least or (count > 0).sum() < 2:
        what = f"only one window of {least[0]}" if least else "fewer than two genres"
        raise GenreError("random split", f"there is {what}", "add clips")
    try:
        parts = train_test_split(np.arange(len(labels)), test_size=share, stratify=labels, random_state=seed)
    except ValueError as error:
        raise GenreError("random split", f"too few windows ({error})", "add clips") from error
    return np.sort(parts[0]), np.sort(parts[1])


def folds(clips: Sequence[Clip], count: int, seed: int) -> list[tuple[Indices, Indices]]:
    """Cross-validation by artist: each clip is validated on once, and never with its artist in the training part.

    Returns:
        Per fold, places of training and of validation clips.

    Raises:
        GenreError: for a genre with fewer artists than folds need to train on it each time.
    """
    together = groups(clips)
    for genre in sorted({clip.genre for clip in clips}):
        artists = {name for clip, name in zip(clips, together, strict=True) if clip.genre == genre}
        if len(artists) < 2:
            raise GenreError("artist split", f"{genre} has clips of one artist only", "add clips of others")
    if len(set(together)) < count or len(clips) < count:
        raise GenreError("artist split", f"{len(set(together))} artists are too few for {count} folds", "add clips")
    labels = [clip.label for clip in clips]
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return [(train, valid) for train, valid in splitter.split(np.zeros(len(clips)), labels, together)]


def by_artist(clips: Sequence[Clip], lists: Lists | None, share: float, seed: int) -> Split:
    """Split clips so that no artist is on both sides, with the published lists if the clips allow it.

    The lists serve when each genre has a clip in both their training and their validation part. Where a subset lacks
    some, its clips of those two parts are divided anew: the most even of several artist-grouped foldings. Faulty
    clips and test clips are never trained on where the lists are known.

    Raises:
        GenreError: for too few clips or artists.
    """
    names = [clip.name for clip in clips]
    genres = {clip.genre for clip in clips}
    if len(genres) < 2:
        raise GenreError("artist split", "there are clips of one genre only", "add clips of others")
    places = {
        part: np.array([at for at, name in enumerate(names) if lists and name in getattr(lists, part)], np.intp)
        for part in LIST_FILES
    }
    if lists and all({clips[at].genre for at in places[part]} == genres for part in ("train", "valid")):
        return Split(
            _told(lists.source, places["train"], places["valid"]), places["train"], places["valid"], places["test"]
        )
    if lists:
        pool = np.sort(np.concatenate([places["train"], places["valid"]]))
        where = f"clips of {lists.source}, training and validation parts, divided anew by artist"
    else:
        pool = np.arange(len(clips))
        where = "all clips, divided by artist (no fault-filtered lists were taken)"
    missing = sorted(genres - {clips[at].genre for at in pool})
    if missing:
        raise GenreError("artist split", f"no clip of {missing[0]} is in the fault-filtered lists", "add clips")
    if not any(clips[at].artist for at in pool):
        raise GenreError(
            "artist split",
            "no clip's artist is known",
            "name artists in an index or in the files' tags, or give --splits a folder with artists.csv",
        )
    train, valid = _most_even([clips[at] for at in pool], share, seed)
    return Split(_told(where, train, valid), pool[train], pool[valid], places["test"])


def _told(where: str, train: Indices, valid: Indices) -> str:
    """Return the line that says how clips were divided."""
    return f"{where}: {len(train)} clips to train, {len(valid)} to validate"


def _most_even(clips: Sequence[Clip], share: float, seed: int) -> tuple[Indices, Indices]:
    """Return the artist-grouped fold whose genres come nearest to the wanted share, each genre on both sides."""
    labels = np.array([clip.label for clip in clips])
    count = len(clips[0].genres)
    total = np.bincount(labels, minlength=count)
    present = total > 0
    best: tuple[float, Indices, Indices] | None = None
    for attempt in range(FOLDINGS):
        for train, valid in folds(clips, max(2, round(1 / share)), seed + attempt):
            part = np.bincount(labels[valid], minlength=count)[present] / total[present]
            if part.min() == 0 or part.max() == 1:
                continue
            unevenness = float(np.abs(np.log(part / share)).mean())
            if best is None or unevenness < best[0]:
                best = unevenness, train, valid
    if best is None:
        raise GenreError(
            "artist split", "too few artists to have each genre on both sides", "add clips of other artists"
        )
    return best[1], best[2]
