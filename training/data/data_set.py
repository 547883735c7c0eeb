"""Reads a data set of labelled clips, of any genres: an index (CSV) or one folder a genre; what is left out is named.

Audio itself is read by training/data/gtzan.py `read`, with the service's decoder. Start at `read_data_set`.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import av.error

from services.classify.audio_file import no_file, tags
from services.classify.files import SUFFIXES, files_below
from services.errors import MOST_TEXT, GenreError
from services.text import clean
from training.data.gtzan import NO_GENRE, Clip

INNER = ("genres", "genres_original", "Data/genres_original")
"""Where the usual archives of GTZAN put the genre folders."""
PARTS = ("train", "valid", "test")
"""What the index's column ``split`` may say."""
INDEX = "index.csv"
LONGEST_GENRE = 64
MOST_NAMED = 10
_TABLE = "give a CSV file in UTF-8"


@dataclass(frozen=True)
class Skipped:
    """A file or folder that was left out, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class DataSet:
    """Clips with their genres.

    Attributes:
        genres: in the order of every label, score and confusion matrix.
        split: part (train, valid or test) of each clip's name, where the index says so.
        skipped: what was left out.
    """

    clips: list[Clip]
    genres: tuple[str, ...]
    split: dict[str, str] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)


def read_data_set(folder: Path, index: Path | None = None, genres: Sequence[str] = ()) -> DataSet:
    """List the clips of a data set.

    Args:
        folder: what the index's files are relative to; without an index, it holds one folder a genre, at any depth
            below it and behind links (GTZAN's inner folders are found).
        index: CSV with a header; columns ``file`` and ``genre``, perhaps ``artist`` and ``split``; others are ignored.
        genres: these alone, in this order; else those of the data, sorted.

    Returns:
        The clips. Their names are unique: a file's name without its suffix, or with its folder where two share that.
        An artist that no index names is taken from the file's own tags.

    Raises:
        GenreError: for a folder that is missing or has no audio, fewer than two genres, a genre that has no clip, or
            an index that is none.
    """
    if not folder.is_dir():
        raise GenreError(str(folder), "is no folder", "give the folder that holds the clips")
    if len(set(genres)) != len(genres):
        raise GenreError("--genres", "names a genre twice", "name each once")
    found = _of_index(folder, index, genres) if index else _of_folders(folder, genres)
    there = {clip.genre for clip in found.clips}
    absent = [genre for genre in genres if genre not in there]
    if absent:
        raise GenreError("--genres", f"{absent[0]} has no clip in {folder}", "add clips or leave it out")
    known = tuple(genres) or tuple(sorted(there - set(NO_GENRE)))
    clips = [replace(clip, genres=known, artist=clip.artist or artist_of(clip.path)) for clip in found.clips]
    return replace(found, clips=clips, genres=known)


def told(skipped: Sequence[Skipped]) -> list[str]:
    """Return lines for a person: what was left out, counted by reason, the first ones named."""
    counts = Counter(item.reason for item in skipped)
    lines = []
    for reason, count in counts.items():
        names = [item.file for item in skipped if item.reason == reason][:MOST_NAMED]
        more = f" and {count - len(names)} more" if count > len(names) else ""
        lines.append(clean(f"skipped {', '.join(names)}{more}: {reason}", MOST_TEXT))
    return lines


def artist_of(path: Path) -> str:
    """Return the artist that a file's tags name; "" where there is none, or the file can't be read."""
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            return tags(container)[1] if container.streams.audio else ""
    except (av.error.FFmpegError, OSError, ValueError):
        return ""


def _of_folders(folder: Path, genres: Sequence[str]) -> DataSet:
    """Return the clips of one folder a genre."""
    root = next((folder / inner for inner in INNER if (folder / inner).is_dir()), folder)
    rows = _rows(root / INDEX, ("file",)) if (root / INDEX).is_file() else []
    artists = {row["file"]: row.get("artist", "") for _, row in rows}
    skipped: list[Skipped] = []
    taken: dict[str, Path] = {}
    found: list[tuple[str, str, Path]] = []

    def unreadable(error: OSError) -> None:
        skipped.append(Skipped(str(error.filename), f"can't be listed ({error.strerror})"))

    for path in sorted(files_below(root, unreadable)):
        file = path.relative_to(root).as_posix()
        genre, stem = file.split("/")[0], file[: len(file) - len(path.suffix)]
        if "/" not in file:
            if path.suffix.lower() in SUFFIXES:
                skipped.append(Skipped(file, "lies in no genre's folder"))
        elif path.suffix.lower() not in SUFFIXES:
            skipped.append(Skipped(file, "is not named as audio"))
        elif genres and genre not in genres:
            skipped.append(Skipped(f"{genre}/", "is none of --genres"))
        elif stem in taken:
            skipped.append(Skipped(file, f"repeats the clip {taken[stem].stem}"))
        else:
            taken[stem] = path
            found.append((file, genre_name(genre, str(root / genre)), path))
    if not found:
        reason = "holds no audio" + (f" of {', '.join(genres)}" if genres else "")
        raise GenreError(str(root), reason, "it must hold one folder a genre with audio files, or give --index")
    skipped += [
        Skipped(f"{each.name}/", "holds no clip")
        for each in sorted(root.iterdir())
        if each.is_dir() and not each.name.startswith(".") and each.name not in {genre for _, genre, _ in found}
    ]
    names = _names([file for file, _, _ in found])
    clips = [
        Clip(name, genre, path, artists.get(file, "")) for name, (file, genre, path) in zip(names, found, strict=True)
    ]
    # A genre that was not asked for is named once, not once a file.
    return DataSet(sorted(clips, key=lambda clip: clip.name), (), {}, list(dict.fromkeys(skipped)))


def _of_index(folder: Path, index: Path, genres: Sequence[str]) -> DataSet:
    """Return the clips that an index names."""
    rows = _rows(index, ("file", "genre"))
    clips: dict[str, Clip] = {}
    split: dict[str, str] = {}
    skipped: list[Skipped] = []
    for line, row in rows:
        file, where = row["file"], f"{index}, line {line}"
        path = Path(file)
        if not file or path.is_absolute() or ".." in path.parts:
            raise GenreError(where, f"{file!r} is no file of {folder}", "name files relative to the audio folder")
        genre, part = genre_name(row["genre"], where), row.get("split", "")
        if part and part not in PARTS:
            raise GenreError(where, f"the split {part!r} is not known", f"take one of {', '.join(PARTS)}, or none")
        key = path.as_posix()
        if key in clips:
            raise GenreError(where, f"{file} stands twice", "name each file once")
        if genres and genre not in genres:
            skipped.append(Skipped(file, f"its genre {genre} is none of --genres"))
            continue
        if what := no_file(folder / path):
            skipped.append(Skipped(file, what))
            continue
        clips[key] = Clip(key, genre, folder / path, row.get("artist", ""))
        if part:
            split[key] = part
    if not clips and skipped:
        left_out = f"names no clip of {folder}: {skipped[0].file} {skipped[0].reason}"
        raise GenreError(str(index), left_out, "name files relative to the audio folder")
    if not clips:
        raise GenreError(str(index), "names no file", "write one line a clip")
    names = dict(zip(clips, _names(list(clips)), strict=True))
    return DataSet(
        [replace(clip, name=names[key]) for key, clip in clips.items()],
        (),
        {names[key]: part for key, part in split.items()},
        skipped,
    )


def _names(files: Sequence[str]) -> list[str]:
    """Return a unique name for each file: its stem; where two share that, with the folder; else the whole path."""
    stems = [Path(file).stem for file in files]
    longer = [Path(file).with_suffix("").as_posix() for file in files]
    shared, still_shared = Counter(stems), Counter(longer)
    return [
        stem if shared[stem] == 1 else (long if still_shared[long] == 1 else file)
        for file, stem, long in zip(files, stems, longer, strict=True)
    ]


def genre_name(text: str, where: str) -> str:
    """Return a genre's name.

    Raises:
        GenreError: for an empty or overlong one, or one that can't be printed.
    """
    if not text:
        raise GenreError(where, "names no genre", "write one in the column genre")
    if len(text) > LONGEST_GENRE or not text.isprintable() or text != text.strip():
        reason = f"{text[:LONGEST_GENRE]!r} can't be a genre's name"
        raise GenreError(where, reason, f"take 1 to {LONGEST_GENRE} printable characters")
    return text


def _rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV file, each with its line number; missing cells are "".

    Raises:
        GenreError: for a file that cannot be read or lacks one of the columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            header = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            rows = [
                (reader.line_num, {key: (text or "").strip() for key, text in row.items() if key}) for row in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GenreError(str(path), f"can't be read ({error})", _TABLE) from error
    for column in columns:
        if column not in header:
            raise GenreError(
                str(path), f"has no column {column!r}", f"its first line must name {', '.join(columns)}, with commas"
            )
    return rows
