"""Reads a GTZAN folder: which clips there are, their samples, their windows; a broken file is named and skipped.

Not a download and not a split: the folder is yours, `training/splits.py` divides it. Start at `find` (a folder) or
`from_index` (a CSV file that names files and genres), then `windows`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from services.errors import GenreError
from services.featurizer.recipe import PCM_RATE
from services.featurizer.windows import HOP, WINDOW, cut

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
"""GTZAN's ten genres, alphabetical: the order of every label, score and confusion matrix."""
SUFFIXES = (".au", ".wav", ".flac")
INNER = ("genres", "genres_original", "Data/genres_original")
"""Where the usual archives of the data set put the genre folders."""
LONGEST_S = 600
"""A longer file is no clip; it would only fill the memory."""

Pcm = NDArray[np.int16]


@dataclass(frozen=True)
class Clip:
    """One piece of music with its genre.

    Attributes:
        name: the data set's own name for it, for example ``blues.00042``; unique within a folder.
        artist: where an index says so; "" where it does not.
    """

    name: str
    genre: str
    path: Path
    artist: str = ""

    @property
    def label(self) -> int:
        """Place of the genre in `GENRES`."""
        return GENRES.index(self.genre)


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Windows:
    """The windows of one clip.

    Attributes:
        pcm: int16, shape [windows, 66000].
        padded: the clip is shorter than a window and was repeated to fill one.
    """

    pcm: NDArray[np.int16]
    padded: bool


def find(folder: Path) -> tuple[list[Clip], list[Skipped]]:
    """List the clips of a folder that has one folder a genre, or holds such a folder (``genres``, ``genres_original``).

    Artists are read from the folder's own index.csv (columns file, artist), where there is one.

    Returns:
        The clips, sorted by name; and the files of a second format that repeat a clip's name.

    Raises:
        GenreError: for a folder that is missing, has no audio, or has audio under the name of an unknown genre.
    """
    if not folder.is_dir():
        raise GenreError(str(folder), "is no folder", "give --gtzan the folder that holds blues, classical, ...")
    root = next((inner for inner in (folder, *(folder / name for name in INNER)) if _has_genre(inner)), folder)
    artists = _artists(root / "index.csv")
    clips: dict[str, Clip] = {}
    skipped: list[Skipped] = []
    for genre_folder in sorted(path for path in root.iterdir() if path.is_dir()):
        files = sorted(path for path in genre_folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
        if files and genre_folder.name not in GENRES:
            raise GenreError(str(genre_folder), "is no genre of GTZAN", f"keep only {', '.join(GENRES)} in the folder")
        for path in files:
            file = f"{genre_folder.name}/{path.name}"
            if path.stem in clips:
                skipped.append(Skipped(file, f"repeats the clip {path.stem}"))
            else:
                clips[path.stem] = Clip(path.stem, genre_folder.name, path, artists.get(file, ""))
    if not clips:
        raise GenreError(
            str(root),
            "holds no audio",
            f"it must hold {GENRES[0]}/, ..., {GENRES[-1]}/ with {', '.join(SUFFIXES)} files",
        )
    return sorted(clips.values(), key=lambda clip: clip.name), skipped


def from_index(folder: Path, index: Path) -> list[Clip]:
    """List the clips that a CSV file names.

    Args:
        folder: what the file names in the index are relative to.
        index: CSV with a header; columns ``file`` and ``genre``, perhaps ``artist``; others are ignored.

    Raises:
        GenreError: for an index that cannot be read, lacks a column, names an unknown genre, leads out of the folder,
            or names a file twice; and for one with no rows.
    """
    clips: dict[str, Clip] = {}
    for line, row in _rows(index, ("file", "genre")):
        file, genre = row["file"], row["genre"]
        where = f"{index}, line {line}"
        if genre not in GENRES:
            raise GenreError(where, f"the genre {genre!r} is not known", f"take one of {', '.join(GENRES)}")
        path = folder / file
        if not file or not path.resolve().is_relative_to(folder.resolve()):
            raise GenreError(where, f"{file!r} is no file of {folder}", "name files relative to the audio folder")
        name = Path(file).stem if Path(file).stem not in clips else file
        if name in clips:
            raise GenreError(where, f"{file} stands twice", "name each file once")
        clips[name] = Clip(name, genre, path, row.get("artist", ""))
    if not clips:
        raise GenreError(str(index), "names no file", "write one line a clip: file,genre")
    return list(clips.values())


def read(path: Path) -> Pcm:
    """Read one audio file: int16, mono, 22,050 Hz, shape [samples].

    Raises:
        GenreError: for a file that is missing, broken, empty, shorter than one second or longer than ten minutes.
    """
    remedy = "replace the file or leave it out"
    try:
        with soundfile.SoundFile(path) as sound:
            rate = int(sound.samplerate)
            if sound.format == "RAW":
                # libsndfile takes an .au file without a header (GTZAN's broken jazz.00054) for telephone audio: noise.
                raise GenreError(str(path), "can't be read (it has no header)", remedy)
            if sound.frames > LONGEST_S * rate:
                raise GenreError(str(path), f"lasts longer than {LONGEST_S} s", "cut it into clips")
            signal = sound.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise GenreError(str(path), f"can't be read ({error})", remedy) from error
    if not signal.size:
        raise GenreError(str(path), "holds no samples", remedy)
    if not np.isfinite(signal).all():
        raise GenreError(str(path), "holds samples that are not finite", remedy)
    mono = signal.mean(axis=1)
    if rate != PCM_RATE:
        mono = soxr.resample(mono, rate, PCM_RATE)
    if mono.size < PCM_RATE:
        raise GenreError(str(path), f"lasts {mono.size / PCM_RATE:.2f} s, less than one second", remedy)
    # What the service hears is int16; the scale is the decoder's (32,768 is full scale).
    pcm: Pcm = np.clip(np.rint(mono * 32_768), -32_768, 32_767).astype(np.int16)
    return pcm


def windows(pcm: Pcm, tail: Literal["moved back", "dropped"] = "moved back", hop: int = HOP) -> Windows:
    """Cut one clip into windows.

    Args:
        pcm: the clip, from `read`.
        tail: what is left after the last whole hop. ``moved back`` covers it with a window that ends with the audio,
            as the service does (20 windows in a GTZAN clip of 661,794 samples); ``dropped`` leaves it out, as the
            paper does (19 windows in each of GTZAN's clips, whose lengths differ a little).
        hop: samples between windows.
    """
    if tail == "dropped" and pcm.size > WINDOW:
        pcm = pcm[: WINDOW + (pcm.size - WINDOW) // hop * hop]
    return Windows(cut(pcm, WINDOW, hop), pcm.size < WINDOW)


def _has_genre(folder: Path) -> bool:
    """Tell whether a folder has a folder of any genre."""
    return any((folder / genre).is_dir() for genre in GENRES)


def _artists(index: Path) -> dict[str, str]:
    """Return the artist of each file of an index, which need not exist."""
    if not index.is_file():
        return {}
    return {row["file"]: row.get("artist", "") for _, row in _rows(index, ("file",))}


def _rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV file, each with its line number; missing cells are "".

    Raises:
        GenreError: for a file that cannot be read or lacks one of the columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            rows = [
                (reader.line_num, {key: (text or "").strip() for key, text in row.items() if key}) for row in reader
            ]
            header = reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GenreError(str(path), f"can't be read ({error})", "give a CSV file in UTF-8") from error
    for column in columns:
        if column not in header:
            raise GenreError(str(path), f"has no column {column!r}", f"its first line must name {', '.join(columns)}")
    return rows
