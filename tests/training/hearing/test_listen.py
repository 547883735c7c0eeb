"""What `genre train listen` promises: labelled windows with both networks' answers, on disk and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from services.errors import GenreError
from tests.training.hearing.invented import music, sounds
from training.data.gtzan import Clip
from training.hearing import listen
from training.hearing.listen import KINDS, Heard
from training.hearing.networks import RECIPE, Networks


class Counting(Networks):
    """Answers with numbers that say which window was asked about; no network."""

    def __init__(self, broken: bool = False) -> None:
        self.recipe, self._broken = RECIPE, broken

    def answer(self, views: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        level = float(views["mel115"].mean())
        assert views["mel96"].shape[0] == 1
        return np.full((1, 50), 0.5, np.float32), np.full((1, 521), np.nan if self._broken else level, np.float32)


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """A tone, a noise and a silence, the noise named as speech; one file is broken."""
    random = np.random.default_rng(0)
    made = []
    for name, genre, signal in (
        ("a", "disco", 0.3 * np.sin(np.arange(100_000) / 9)),
        ("b", "speech", random.normal(0, 0.1, 66_000)),
        ("c", "other", np.zeros(66_000)),
    ):
        soundfile.write(tmp_path / f"{name}.wav", signal, 22_050)
        made.append(Clip(name, genre, tmp_path / f"{name}.wav", f"package {name}"))
    (tmp_path / "d.wav").write_bytes(b"RIFF")
    return [*made, Clip("d", "rock", tmp_path / "d.wav")]


def test_silent_windows_and_broken_files_are_left_out(clips: list[Clip], capsys: pytest.CaptureFixture[str]) -> None:
    heard = listen.hear(Counting(), clips, None)
    assert [clip.name for clip in heard.clips] == ["a", "b"] and "d.wav" in capsys.readouterr().err
    assert [KINDS[kind] for kind in heard.kinds] == ["music", "music", "music", "speech"]
    assert heard.tags.shape == (4, 50) and set(heard.ways) == {"plain"}


def test_varied_windows_keep_their_kind_and_mixtures_have_the_louder_ones(clips: list[Clip]) -> None:
    heard = listen.hear(Counting(), clips, np.random.default_rng(0))
    assert list(heard.ways).count("plain") == list(heard.ways).count("varied") == 4
    assert list(heard.kinds[heard.ways == "varied"]) == [0, 0, 0, 1]
    mixed = heard.ways == "mixed"
    assert mixed.sum() == 1 and heard.clips[heard.clip_of[mixed][0]].kind == "speech"


def test_answers_that_are_not_finite_name_the_file(clips: list[Clip]) -> None:
    with pytest.raises(GenreError, match=r"a\.wav.*not finite"):
        listen.hear(Counting(broken=True), clips, None)


def test_what_was_heard_comes_back_and_a_clip_is_taken_from_the_first_file(tmp_path: Path) -> None:
    first, second = music(), music(seed=9)
    second = replace(second, clips=[*second.clips[:-1], replace(second.clips[-1], name="new.00001")])
    for name, heard in (("a.npz", first), ("b.npz", second), ("c.npz", sounds())):
        listen.save(tmp_path / name, heard)
    again = listen.load([tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "c.npz"])
    assert len(again.clips) == len(first.clips) + 1 + len(sounds().clips)
    np.testing.assert_array_equal(again.tags[: len(first.tags)], first.tags)
    extra = again.clip_of == len(first.clips)
    np.testing.assert_array_equal(again.logits[extra], second.logits[second.clip_of == len(second.clips) - 1])
    assert [again.clips[i].name for i in again.clip_of[extra]] == ["new.00001"] * int(extra.sum())


@pytest.mark.parametrize("damage", ["no archive", "a column is missing", "columns differ", "not finite"])
def test_a_damaged_file_is_one_clear_line(damage: str, tmp_path: Path) -> None:
    path, heard = tmp_path / "heard.npz", sounds()
    if damage == "not finite":
        heard.logits[3, 7] = np.inf
    listen.save(path, heard)
    arrays = dict(np.load(path))
    if damage == "no archive":
        path.write_bytes(b"PK")
    elif damage == "a column is missing":
        del arrays["tags"]
        np.savez(path, **arrays)
    elif damage == "columns differ":
        arrays["kinds"] = arrays["kinds"][1:]
        np.savez(path, **arrays)
    with pytest.raises(GenreError, match=r"heard\.npz"):
        listen.load([path])


def test_some_windows_keep_the_numbers_of_their_clips() -> None:
    heard: Heard = sounds()
    part = heard.take(heard.kinds == 2)
    assert {part.clips[number].kind for number in part.clip_of} == {"other"}
