"""The default model's way: GTZAN's lists say what heads learn from, taggrams beside audio, and the card tells."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from click.testing import CliRunner, Result

from services.inference.card import Card, load_card
from tests.training.hearing.invented import music
from training import cli, folder
from training.data import splits, taggrams
from training.data.gtzan import GENRES, Clip
from training.hearing import heads, listen

pytestmark = pytest.mark.timeout(300)  # the export's measurement, on a machine that may be busy
PARTS = (*["train"] * 5, "valid", "valid", "test", "")
"""Part of each genre's clips 0 to 8; the last one is on no list, as GTZAN's faulty ones."""


def done(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.train, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.exception
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[heads.Heads, Card]:
    """Heads and model of invented answers about clips of GTZAN's names, and of taggrams of more of them."""
    home, heard = tmp_path_factory.mktemp("lists"), music(len(PARTS), artists_each=len(PARTS))
    listen.save(home / "music.npz", heard)
    # Other artists' clips, as the taggrams of the training list have: numbers 10 to 15, of which 10 to 12 are on it.
    more = music(seed=7)
    clips = [Clip(f"{clip.genre}.{10 + at % 6:05}", clip.genre, clip.path) for at, clip in enumerate(more.clips)]
    taggrams.save(home / "train.npz", more.tags, more.clip_of, clips)
    lists = home / "gtzan-splits"
    lists.mkdir()
    for part, name in splits.LIST_FILES.items():
        names = [f"{genre}.{at:05}" for genre in GENRES for at, own in enumerate(PARTS) if own == part]
        names += [f"{genre}.{at:05}" for genre in GENRES for at in range(10, 13) if part == "train"]
        (lists / name).write_text("".join(f"{clip.split('.')[0]}/{clip}.wav\n" for clip in names))
    rows = [f"{genre}.{at:05},{genre} player {at}" for genre in GENRES for at in range(10, 13)]
    (lists / "artists.csv").write_text("\n".join(["clip,artist", *rows]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        told = done("fit", "--heard", "music.npz", "--tags", "train.npz", "--splits", "gtzan-splits", "--out", "h.npz")
        assert "judged on 70 clips of GTZAN's fault-filtered training and validation lists" in told.stdout
        done("export", "--heads", "h.npz", "--name", "mine")
    return heads.load(home / "h.npz"), load_card(home / "models", "mine")


def test_no_clip_off_the_lists_teaches_and_taggrams_are_of_the_training_list(made: tuple[heads.Heads, Card]) -> None:
    fitted, _ = made
    names = {name for name, _, _ in fitted.clips}
    assert names == {f"{genre}.{at:05}" for genre in GENRES for at in (*range(7), 10, 11, 12)}
    assert (fitted.about["clips"], fitted.about["tag_clips"], fitted.about["tag_windows"]) == (70, 30, 120)
    artists = {name: artist for name, _, artist in fitted.clips}
    assert artists["rock.00011"] == "rock player 11" and artists["rock.00001"] == "rock artist 1"


def test_a_card_of_the_lists_says_so_and_names_its_clips(made: tuple[heads.Heads, Card]) -> None:
    fitted, card = made
    assert card.labels == GENRES and card.evaluations[0].n_clips == 70
    assert "70 clips of audio by 70 artists" in card.training["genres"] and "30 as taggrams" in card.training["genres"]
    command = "genre train fit --heard music.npz --splits gtzan-splits --tags train.npz --out h.npz"
    assert card.evaluations[0].command == command
    with card.path(folder.CLIPS_FILE).open(newline="") as file:
        assert [(row["clip"], row["genre"], row["artist"]) for row in csv.DictReader(file)] == list(fitted.clips)
    assert any("Kereliuk" in each.source for each in card.ingredients)
    assert np.isclose(card.temperature, fitted.genres.temperature)
