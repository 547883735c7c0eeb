"""Splits do what their names say: the random one leaks on purpose, the artist one never does."""

from pathlib import Path

import numpy as np
import pytest

from services.errors import GenreError
from tests.shared_data import shared
from training.data import splits
from training.data.data_set import read_data_set
from training.data.gtzan import GENRES, Clip


def clip(name: str, artist: str = "") -> Clip:
    return Clip(name, name.split(".")[0], Path(name), artist)


def clips_of(genres: int, artists: int, each: int) -> list[Clip]:
    return [
        clip(f"{genre}.{artist * each + number:05d}", f"{genre} {artist}")
        for genre in GENRES[:genres]
        for artist in range(artists)
        for number in range(each)
    ]


def lists_for(clips: list[Clip], valid: set[str], test: set[str] = frozenset()) -> splits.Lists:  # type: ignore[assignment]
    names = {item.name for item in clips}
    return splits.Lists(frozenset(names - valid - test), frozenset(valid), frozenset(test), {})


def test_spellings_and_bands_of_one_artist_are_one_group() -> None:
    same = ["Bob Marley & The Wailers", "bob marley", "Bob Marley feat. Lauryn Hill", "The Wailers"]
    found = splits.groups(
        [*(clip(f"reggae.{at:05d}", name) for at, name in enumerate(same)), clip("pop.00000", "Queen")]
    )
    assert len(set(found[:4])) == 1
    assert found[4] != found[0]


def test_unknown_artists_of_a_genre_stay_together() -> None:
    found = splits.groups([clip("rock.00000"), clip("rock.00001", "Various Artists"), clip("jazz.00000")])
    assert found[0] == found[1] != found[2]


def test_random_windows_are_divided_in_each_genre_and_by_the_seed() -> None:
    labels = np.repeat(np.arange(10), 50)
    train, valid = splits.random_windows(labels, 0.2, 1)
    assert sorted([*train, *valid]) == list(range(500))
    assert set(np.bincount(labels[valid])) == {10}
    np.testing.assert_array_equal(valid, splits.random_windows(labels, 0.2, 1)[1])
    assert not np.array_equal(valid, splits.random_windows(labels, 0.2, 2)[1])


@pytest.mark.parametrize("labels", [[0] * 9, [0] * 9 + [1], [], [0, 0, 1, 1]])
def test_too_few_windows_for_a_random_split_are_one_line(labels: list[int]) -> None:
    with pytest.raises(GenreError, match="add clips"):
        splits.random_windows(labels, 0.2, 1)


def test_folds_never_part_an_artist_and_validate_each_clip_once() -> None:
    clips = clips_of(10, 6, 3)
    seen: list[int] = []
    for train, valid in splits.folds(clips, 5, 1):
        assert not {clips[at].artist for at in train} & {clips[at].artist for at in valid}
        seen += list(valid)
    assert sorted(seen) == list(range(len(clips)))


def test_lists_are_followed_to_the_letter_where_the_clips_are_there() -> None:
    clips = clips_of(3, 3, 2)
    valid, test = {item.name for item in clips if item.artist.endswith("1")}, {clips[0].name}
    split = splits.by_artist(clips, lists_for(clips, valid, test), 0.25, 1)
    assert {clips[at].name for at in split.valid} == valid
    assert {clips[at].name for at in split.test} == test
    assert not test & {clips[at].name for at in split.train}
    assert split.protocol.startswith("fault-filtered artist-separated lists: 11 clips")


def test_a_subset_is_divided_anew_by_artist_without_faulty_or_test_clips() -> None:
    clips = clips_of(4, 5, 3)
    test, faulty = {clips[0].name}, clips[1].name
    lists = lists_for(clips, {item.name for item in clips if item.genre == "blues"} - test - {faulty}, test)
    lists = splits.Lists(lists.train - {faulty}, lists.valid, lists.test, {})
    split = splits.by_artist(clips, lists, 0.25, 1)
    train, valid = [clips[at] for at in split.train], [clips[at] for at in split.valid]
    assert not {item.artist for item in train} & {item.artist for item in valid}
    assert {item.genre for item in train} == {item.genre for item in valid} == set(GENRES[:4])
    assert not {faulty, *test} & {item.name for item in [*train, *valid]}
    assert "divided anew by artist" in split.protocol


def test_without_lists_the_artists_of_the_index_serve() -> None:
    split = splits.by_artist(clips_of(2, 4, 2), None, 0.25, 1)
    assert "no fault-filtered lists were taken" in split.protocol
    assert len(split.train) + len(split.valid) == 16


@pytest.mark.parametrize(
    ("clips", "word"),
    [
        ([], "one genre only"), (clips_of(1, 3, 3), "one genre only"), (clips_of(2, 1, 5), "clips of one artist"),
        ([clip(f"{genre}.{n:05d}") for genre in ("rock", "pop") for n in range(9)], "no clip's artist is known"),
        ([*clips_of(1, 2, 1), clip("rock.00009", "x")], "clips of one artist"),
    ],
)  # fmt: skip
def test_too_few_clips_for_an_artist_split_are_one_line(clips: list[Clip], word: str) -> None:
    with pytest.raises(GenreError, match=word):
        splits.by_artist(clips, None, 0.25, 1)


def test_lists_that_are_missing_or_empty_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(GenreError, match=r"train_filtered\.txt.*can't be read"):
        splits.load_lists(tmp_path)
    (tmp_path / "train_filtered.txt").write_text("\n")
    with pytest.raises(GenreError, match="names no clip"):
        splits.load_lists(tmp_path)
    assert splits.find_lists(tmp_path.joinpath("elsewhere")) is None


def test_the_real_lists_have_443_197_and_290_clips_and_divide_the_subset() -> None:
    folder = shared("data", "gtzan-subset")
    lists = splits.find_lists(folder)
    assert lists is not None
    assert (len(lists.train), len(lists.valid), len(lists.test)) == (443, 197, 290)
    clips = splits.with_artists(read_data_set(folder).clips, lists)
    split = splits.by_artist(clips, lists, 0.25, 1)
    group = splits.groups(clips)
    assert not {group[at] for at in split.train} & {group[at] for at in split.valid}
    assert {clips[at].genre for at in split.train} == {clips[at].genre for at in split.valid} == set(GENRES)
    assert not {clips[at].name for at in [*split.train, *split.valid]} & lists.test
