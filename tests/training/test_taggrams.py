"""Taggram files are what they should be, or one clear line says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.errors import GenreError
from tests.shared_data import shared
from training.taggrams import load, read_artists

GOOD: dict[str, Any] = {
    "X": np.full((4, 50), 0.1, np.float32),
    "Y": np.array([0, 0, 9, 9]),
    "IDS": np.array(["blues/blues.00001.au", "blues/blues.00001.au", "rock/rock.00001.au", "rock/rock.00001.au"]),
}


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "tags.npz"
    np.savez(path, **{name: value for name, value in {**GOOD, **changes}.items() if value is not None})
    return path


def test_windows_clips_and_artists_are_read(tmp_path: Path) -> None:
    (tmp_path / "artists.csv").write_text("clip,artist\nblues.00001,John Lee Hooker\n")
    data = load(written(tmp_path), tmp_path / "artists.csv")
    assert data.tags.shape == (4, 50) and data.clip_of.tolist() == [0, 0, 1, 1]
    assert [clip.genre for clip in data.clips] == ["blues", "rock"]
    assert data.clips[0].artist == "John Lee Hooker" and data.clips[1].artist == ""


def test_the_official_training_taggrams_are_read() -> None:
    path = shared("data", "musicnn-taggrams", "train.npz")
    data = load(path, shared("data", "gtzan-splits", "artists.csv"))
    assert (len(data.tags), len(data.clips)) == (12_415, 443)
    assert sum(bool(clip.artist) for clip in data.clips) > 420


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"X": None}, "lacks an array"),
        ({"IDS": None}, "lacks an array"),
        ({"X": np.zeros((4, 49), np.float32)}, r"\[4, 49\]"),
        ({"X": np.zeros((0, 50)), "Y": np.zeros(0, int), "IDS": np.zeros(0, str)}, "no windows"),
        ({"X": np.full((4, 50), np.nan)}, "not activations"),
        ({"X": np.full((4, 50), 1.5)}, "not activations"),
        ({"X": np.full((4, 50), "a")}, "not numbers"),
        ({"Y": np.array([0, 0, 9])}, "differ in length"),
        ({"Y": np.array([0, 0, 10, 10])}, "unknown genre"),
        ({"Y": np.array([0.5, 0, 9, 9])}, "unknown genre"),
        ({"Y": np.array([0, 1, 9, 9])}, "windows of two genres"),
        ({"IDS": np.array([{}, {}, {}, {}], object)}, "can't be read"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(GenreError, match=said):
        load(written(tmp_path, **changes))


@pytest.mark.parametrize("content", [None, b"", b"PK\3\4 broken", b"X,Y\n1,2\n"])
def test_a_file_that_is_none_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tags.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GenreError, match=r"tags\.npz"):
        load(path)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n"])
def test_a_table_without_artists_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "artists.csv").write_text(text)
    with pytest.raises(GenreError, match="columns clip and artist"):
        read_artists(tmp_path / "artists.csv")
