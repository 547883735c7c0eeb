"""Own genres behind the default model's networks: a folder of music to a model, its card, and results on MQTT."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from click.testing import CliRunner, Result

from services.classify.pipeline import Pipeline
from services.errors import GenreError
from services.inference.card import Card, load_card
from tests.broker.mosquitto import PROGRAM
from tests.training.own_genres import GENRES, hears_it
from training import cli, folder
from training.data import taggrams
from training.data.gtzan import Clip
from training.hearing import kinds_head
from training.hearing.networks import LOGITS, TAGS, trunk

RATE = 22_050
pytestmark = pytest.mark.timeout(400)  # the networks and the exports' measurements, on a machine that may be busy


def train(*arguments: object) -> Result:
    return CliRunner().invoke(cli.train, [str(argument) for argument in arguments])


def done(*arguments: object) -> Result:
    result = train(*arguments)
    assert result.exit_code == 0, result.exception
    return result


def refused(*arguments: object) -> str:
    result = train(*arguments)
    assert isinstance(result.exception, GenreError), result.exception
    return str(result.exception)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with music (five pieces by three artists a genre, told apart by pitch and beat), and what was heard."""
    home, random = tmp_path_factory.mktemp("own"), np.random.default_rng(1)
    time, rows = np.arange(3 * RATE) / RATE, ["file,artist"]
    for at, genre in enumerate(GENRES):
        (home / "music" / genre).mkdir(parents=True)
        for number in range(5):
            pitch = 150 * 2.2**at * (1 + 0.05 * number)
            tone = sum(np.sin(2 * np.pi * pitch * n * time) / n for n in range(1, 5))
            signal = 0.08 * tone * (1 + np.sin(2 * np.pi * (1 + at) * time)) + random.normal(0, 0.005, time.size)
            soundfile.write(home / "music" / genre / f"{number:02d}.wav", signal, RATE)
            rows.append(f"{genre}/{number:02d}.wav,{genre} artist {number % 3}")
    (home / "music" / "index.csv").write_text("\n".join(rows) + "\n")
    (home / "music" / "polka" / "cover.jpg").write_bytes(b"no music")
    heard = done("listen", "--audio", home / "music", "--out", home / "own.npz")
    assert "skipped polka/cover.jpg: is not named as audio" in heard.stderr and "20 clips" in heard.stdout
    return home


@pytest.fixture(scope="module")
def own(home: Path) -> Card:
    """The model that the documented commands make where the music lies, taggrams of the same pieces among them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert "40 windows of 20 clips" in done("tags", "--audio", "music", "--out", "tags.npz").stdout
        fitted = done("fit", "--heard", "own.npz", "--tags", "tags.npz", "--out", "own-heads.npz")
        assert "judged on all 20 clips" in fitted.stdout and "the head of genre-sounds" in fitted.stdout
        assert "name the new model with --name" in refused("export", "--heads", "own-heads.npz")
        assert not (home / "models").exists()
        done("export", "--heads", "own-heads.npz", "--name", "own")
    return load_card(home / "models", "own")


def test_the_card_of_own_genres_is_of_this_run(home: Path, own: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    card = own
    assert card.labels == GENRES and card.kinds == ("music", "speech", "other")
    said = card.model_dump_json(exclude={"recipe", "sounds"})
    for word in ("GTZAN", "blues", "rock", str(home), "The default"):
        assert word not in said, word
    assert "20 clips of audio by 12 artists" in card.training["genres"]
    with card.path(folder.CLIPS_FILE).open(newline="") as file:
        clips = list(csv.DictReader(file))
    assert {row["part"] for row in clips} == {"train"} and len(clips) == 20
    assert clips[0] == {"clip": "fado/00", "genre": "fado", "artist": "fado artist 0", "part": "train"}

    # The commands that the card names run where the first ones did, beside a folder of models without the shipped one.
    for command in (card.evaluations[0].command, card.costs[0].command):
        assert done(*shlex.split(command)[2:]).exit_code == 0

    judged = done("evaluate", "--model", "own", "--models", "models", "--audio", "music", "--json")
    assert "20 of 20 clips are of those it learnt from" in judged.stderr
    assert json.loads(judged.stdout)["clip_accuracy"] > 0.8
    of_tags = json.loads(done("evaluate", "--model", "own", "--tags", "tags.npz", "--json").stdout)
    assert of_tags["clip_accuracy"] > 0.8 and of_tags["n_clips"] == 20
    found = Pipeline(home / "models", "own").classify(home / "music" / "gnawa" / "00.wav")
    assert found.verdict and max(found.verdict.scores, key=found.verdict.scores.__getitem__) == "gnawa"


@pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed")
def test_a_stranger_hears_own_genres_on_mqtt(home: Path, own: Card, tmp_path: Path) -> None:
    hears_it(home / "music" / "gnawa" / "00.wav", "gnawa", home / "models", tmp_path)


def test_the_networks_and_the_head_for_kinds_come_out_of_a_finished_model_as_they_were() -> None:
    whole = onnx.load(folder.shipped())
    card = load_card(folder.models_folder(), folder.BASE)
    head = kinds_head.of_model(whole, card.sounds or ())
    assert head.weights.shape == (len(kinds_head.GROUPS), 3) and np.isfinite(head.weights).all()
    assert {value.name for value in trunk(folder.shipped()).graph.output} == {TAGS, LOGITS}
    with pytest.raises(GenreError, match="has no head for kinds"):
        kinds_head.of_model(trunk(folder.shipped()), card.sounds or ())
    with pytest.raises(GenreError, match="holds no tags and logits"):
        trunk(folder.models_folder() / "vgg16" / "1" / "model.onnx")


def test_what_can_not_be_fitted_is_one_line(home: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "heads.npz")
    assert "holds no clip of rock" in refused("fit", "--heard", home / "own.npz", "--genres", "fado,rock", *out)
    assert "are no two genres" in refused("fit", "--heard", home / "own.npz", "--genres", "fado", *out)
    assert "x.npz: can't be read" in refused("fit", "--heard", home / "own.npz", "--tags", home / "x.npz", *out)
    other = Clip("a", "rock", home, "", ("rock",))
    taggrams.save(tmp_path / "other.npz", np.full((1, 50), 0.1, np.float32), np.zeros(1, np.intp), [other])
    said = refused("fit", "--heard", home / "own.npz", "--tags", tmp_path / "other.npz", *out)
    assert "unknown genre (fado, gnawa, polka, zouk are known)" in said
    (tmp_path / "speech" / "speech").mkdir(parents=True)
    (tmp_path / "speech" / "speech" / "a.wav").symlink_to(home / "music" / "gnawa" / "00.wav")
    assert "no music that has a genre" in refused("tags", "--audio", tmp_path / "speech", "--out", tmp_path / "t.npz")
    assert "choose one of those there" in refused("fit", "--heard", home / "own.npz", "--base", "nosuch", *out)
    arrays = dict(np.load(home / "own.npz"))
    arrays["clips"][:, 2] = ""
    np.savez(tmp_path / "unknown.npz", **arrays)
    assert "no clip's artist is known" in refused("fit", "--heard", tmp_path / "unknown.npz", *out)
    arrays = dict(np.load(home / "own.npz"))
    few = arrays["clip_of"] < 16  # the last of the four genres has five clips: one of them
    for name in set(arrays) - {"clips"}:
        arrays[name] = arrays[name][few]
    np.savez(tmp_path / "none.npz", **arrays)
    assert "lists a clip without windows" in refused("fit", "--heard", tmp_path / "none.npz", *out)
    arrays["clips"] = arrays["clips"][:16]
    np.savez(tmp_path / "one.npz", **arrays)
    assert "a fold has no clip of zouk to learn from" in refused("fit", "--heard", tmp_path / "one.npz", *out)
    assert not (tmp_path / "heads.npz").exists()
