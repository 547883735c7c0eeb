"""Reads and writes taggrams: activations of MSD-musicnn's 50 tags, a row a window, with genre and clip of each.

They stand in for audio that can't be passed on. Not a model and not a split. Start at `load`; `save` writes what
`genre train tags` heard.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from services import files
from services.errors import GenreError
from training.data.gtzan import GENRES, Clip
from training.given import UNREADABLE, archive_of

TAGS = (
    "rock",
    "pop",
    "alternative",
    "indie",
    "electronic",
    "female_vocalists",
    "dance",
    "00s",
    "alternative_rock",
    "jazz",
    "beautiful",
    "metal",
    "chillout",
    "male_vocalists",
    "classic_rock",
    "soul",
    "indie_rock",
    "Mellow",
    "electronica",
    "80s",
    "folk",
    "90s",
    "chill",
    "instrumental",
    "punk",
    "oldies",
    "blues",
    "hard_rock",
    "ambient",
    "acoustic",
    "experimental",
    "female_vocalist",
    "guitar",
    "Hip-Hop",
    "70s",
    "party",
    "country",
    "easy_listening",
    "sexy",
    "catchy",
    "funk",
    "electro",
    "heavy_metal",
    "Progressive_rock",
    "60s",
    "rnb",
    "indie_pop",
    "sad",
    "House",
    "happy",
)

_COLUMNS = "X (windows x 50), Y (0-9 in alphabetical order of the genres, or their names), IDS (clip of each window)"
_REMEDY = f"give a .npz with {_COLUMNS}, as plain numbers and text"
_ROUNDING = 1e-6
"""How far beyond 0 and 1 an activation may lie that was stored in another precision."""


@dataclass(frozen=True)
class Taggrams:
    """Windows in the order of the file.

    Attributes:
        tags: activations in 0..1, float32 [windows, 50].
        labels: place of each window's genre in the clips' genres, [windows].
        clip_of: number of each window's clip, [windows].
        clips: the clips, in the order of their numbers.
    """

    tags: NDArray[np.float32]
    labels: NDArray[np.intp]
    clip_of: NDArray[np.intp]
    clips: list[Clip]

    @property
    def clip_labels(self) -> NDArray[np.intp]:
        """Place of each clip's genre in the clips' genres, [clips]."""
        return np.array([clip.label for clip in self.clips], np.intp)


def save(path: Path, tags: NDArray[np.float32], clip_of: NDArray[np.intp], clips: Sequence[Clip]) -> None:
    """Write a taggram file with X, Y (names), IDS and ARTISTS, whole or not at all.

    Args:
        tags: activations, [windows, 50].
        clip_of: number of each window's clip, [windows].

    Raises:
        GenreError: where it can't be written.
    """
    about = np.array([(clip.genre, clip.name, clip.artist) for clip in clips])[clip_of]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as new:
            np.savez(new, X=tags, Y=about[:, 0], IDS=about[:, 1], ARTISTS=about[:, 2])
    except OSError as error:
        raise GenreError(str(path), f"can't be written ({error})", "give --out a place that can") from error


def load(path: Path, artists: Path | None = None, genres: tuple[str, ...] = GENRES) -> Taggrams:
    """Read a taggram file.

    Args:
        path: an .npz file with X, Y and IDS, perhaps ARTISTS, in any order of windows, any type of numbers, and any
            case of the names. Y may name the genres instead of counting them, and must where they are not GTZAN's;
            text may be bytes.
        artists: a CSV file with the columns clip and artist, for artist-grouped cross-validation.
        genres: those there may be, in the order of labels.

    Raises:
        GenreError: for a file that is not one, or holds values that cannot be activations or genres.
    """
    try:
        with archive_of(path) as archive:
            found = {name.upper(): name for name in archive.files}
            tags, labels, ids = (archive[found[name]] for name in ("X", "Y", "IDS"))
            names_of = archive[found["ARTISTS"]] if "ARTISTS" in found else np.full(len(ids), "")
        ids, labels, names_of = _text(ids), _numbers(labels, genres), _text(names_of)
    except KeyError as error:
        raise GenreError(str(path), f"lacks an array ({' '.join(error.args)})", _REMEDY) from error
    except UNREADABLE as error:
        raise GenreError(str(path), f"can't be read ({error})", _REMEDY) from error
    wrong = _wrong(tags, labels, ids, names_of, genres)
    if wrong:
        raise GenreError(str(path), wrong, _REMEDY)
    names, first, clip_of = np.unique(ids, return_index=True, return_inverse=True)
    labels = labels.astype(np.intp)
    tags = np.clip(tags, 0, 1)
    mixed = np.flatnonzero(labels != labels[first][clip_of])
    if mixed.size:
        raise GenreError(str(path), f"clip {names[clip_of[mixed[0]]]} has windows of two genres", "give each clip one")
    artist_of = read_artists(artists) if artists else {}
    clips = []
    for name, label, artist in zip(names, labels[first], names_of[first], strict=True):
        stem = (
            PurePosixPath(str(name)).stem if PurePosixPath(str(name)).suffix in (".au", ".wav", ".flac") else str(name)
        )
        clips.append(Clip(str(name), genres[label], Path(str(name)), artist_of.get(stem, str(artist)), genres))
    return Taggrams(np.ascontiguousarray(tags, np.float32), labels, clip_of.reshape(-1), clips)


def _text(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return names as text: bytes are UTF-8, and clips that are numbered are named by their number."""
    plain = np.char.decode(values.astype(np.bytes_), "utf-8") if values.dtype.kind == "S" else values
    return np.asarray(plain.astype(str))


def _numbers(labels: NDArray[np.generic], genres: Sequence[str]) -> NDArray[np.generic]:
    """Return genres as numbers; -1 for a name or a fraction that is none."""
    if labels.dtype.kind in "SU":
        place = {_plain(genre): number for number, genre in enumerate(genres)}
        names = _text(labels).reshape(-1)
        return np.array([place.get(_plain(str(name)), -1) for name in names], int).reshape(labels.shape)
    if tuple(genres) != GENRES:
        return np.full(labels.shape, -1)  # a number says GTZAN's genre alone
    if labels.dtype.kind == "f":
        whole = np.isfinite(labels) & (labels == np.rint(labels))
        return np.where(whole, labels, -1).astype(np.int64)
    return labels


def _plain(genre: str) -> str:
    """Return a genre's name as it is compared: hip-hop, Hip Hop and hiphop are one."""
    return genre.casefold().strip().replace("-", "").replace(" ", "")


def _wrong(
    tags: NDArray[np.generic],
    labels: NDArray[np.generic],
    ids: NDArray[np.generic],
    artists: NDArray[np.generic],
    genres: Sequence[str],
) -> str:
    """Return what is wrong with the arrays, or ""."""
    if tags.ndim != 2 or tags.shape[1] != len(TAGS) or tags.dtype.kind not in "fiu":
        return f"X is {tags.dtype} {list(tags.shape)}, not numbers [windows, {len(TAGS)}]"
    if not len(tags):
        return "holds no windows"
    if labels.shape != (len(tags),) or ids.shape != (len(tags),):
        return f"X, Y and IDS differ in length: {len(tags)}, {list(labels.shape)}, {list(ids.shape)}"
    if artists.shape != ids.shape:
        return f"IDS and ARTISTS differ in length: {len(ids)}, {list(artists.shape)}"
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(genres):
        numbers = f"0 to {len(GENRES) - 1} and " if tuple(genres) == GENRES else ""
        return f"Y holds an unknown genre ({numbers}{', '.join(genres)} are known)"
    if not np.isfinite(tags).all() or tags.min() < -_ROUNDING or tags.max() > 1 + _ROUNDING:
        return "X holds values that are not activations between 0 and 1"
    return ""


def read_artists(path: Path) -> dict[str, str]:
    """Read clip -> artist.

    Raises:
        GenreError: for a file that is not such a table.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GenreError(
            str(path), f"can't be read ({error})", "give a CSV file with columns clip and artist"
        ) from error
    if not rows or "clip" not in rows[0] or "artist" not in rows[0]:
        raise GenreError(str(path), "has no columns clip and artist", "its first line must name clip and artist")
    return {row["clip"]: (row["artist"] or "").strip() for row in rows}
