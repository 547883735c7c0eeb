"""Taggram files are what they should be, or one clear line says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.errors import GenreError
from tests.shared_data import shared
from training.data.gtzan import Clip
from training.data.taggrams import load, read_artists, save

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
    "changes",
    [
        {"X": GOOD["X"].astype(np.float64)},
        {"X": GOOD["X"].astype(np.float16)},
        {"Y": np.array([0.0, 0.0, 9.0, 9.0])},
        {"Y": np.array([0, 0, 9, 9], np.uint8)},
        {"Y": np.array(["blues", "blues", "Rock", "rock"])},
        {"Y": np.array([b"blues", b"blues", b"rock", b"rock"])},
        {"IDS": GOOD["IDS"].astype("S")},
        {"IDS": np.array([7, 7, 11, 11])},
    ],
)
def test_any_type_that_means_the_same_is_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    data = load(written(tmp_path, **changes))
    assert data.labels.tolist() == [0, 0, 9, 9] and len(data.clips) == 2
    assert data.tags.dtype == np.float32 and np.allclose(data.tags, 0.1, atol=1e-4)
    assert [clip.genre for clip in data.clips][data.clip_of[0]] == "blues"


def test_arrays_may_be_named_in_small_letters(tmp_path: Path) -> None:
    np.savez(tmp_path / "tags.npz", **{name.lower(): value for name, value in GOOD.items()})
    assert load(tmp_path / "tags.npz").labels.tolist() == [0, 0, 9, 9]


def test_windows_of_a_clip_need_not_stand_together(tmp_path: Path) -> None:
    order = [2, 0, 3, 1]
    data = load(written(tmp_path, **{name: value[order] for name, value in GOOD.items()}))
    assert data.clip_of.tolist() == [1, 0, 1, 0] and data.clip_labels.tolist() == [0, 9]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Y": np.array(["blues", "blues", "polka", "polka"])}, "unknown genre"),
        ({"IDS": np.array([b"\xff", b"\xff", b"a", b"a"])}, "can't be read"),
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
        ({"ARTISTS": np.array(["x", "y"])}, "IDS and ARTISTS differ in length"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(GenreError, match=said):
        load(written(tmp_path, **changes))


def test_own_genres_come_back_as_they_were_written_and_need_names(tmp_path: Path) -> None:
    genres, path = ("zouk", "hip hop"), tmp_path / "own.npz"
    clips = [Clip("a", "hip hop", path, "Ann", genres), Clip("b", "zouk", path, "", genres)]
    save(path, GOOD["X"], np.array([0, 0, 0, 1]), clips)
    data = load(path, genres=genres)
    assert data.labels.tolist() == [1, 1, 1, 0] and data.clip_labels.tolist() == [1, 0]
    assert [(clip.name, clip.genre, clip.artist) for clip in data.clips] == [("a", "hip hop", "Ann"), ("b", "zouk", "")]
    with pytest.raises(GenreError, match=r"unknown genre \(zouk, hip hop are known\)"):
        load(written(tmp_path), genres=genres)


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
