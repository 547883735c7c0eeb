"""A stranger's session: a folder of MP3 in four genres of their own, to a model, to results on MQTT."""

import csv
import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
pytest.importorskip("keras")

from services.inference.card import load_card
from tests.broker.mosquitto import PROGRAM
from tests.training.own_genres import DEADLINE_S, GENRES, hears_it
from tests.training.vgg16.thin_network import take_thin_network
from training import cli
from training.folder import CLIPS_FILE

RATE = 22_050
pytestmark = [
    pytest.mark.timeout(3 * DEADLINE_S),
    pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed"),
]


def train(*arguments: object) -> Result:
    """Run a command of `genre train`; it must succeed."""
    done = CliRunner().invoke(cli.train, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.exception
    return done


def write_mp3(path: Path, artist: str, pitch: float, seconds: float, random: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = round(seconds * RATE)
    signal = 0.3 * np.sin(2 * np.pi * pitch * np.arange(count) / RATE) + random.normal(0, 0.01, count)
    with av.open(str(path), "w") as container:
        container.metadata["artist"] = artist
        stream = container.add_stream("libmp3lame", rate=RATE, layout="mono")
        resampler = av.AudioResampler(stream.format, "mono", RATE, frame_size=stream.frame_size)
        frame = av.AudioFrame.from_ndarray((signal * 32_767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        for given in (frame, None):
            for part in resampler.resample(given):
                container.mux(stream.encode(part))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four genres of four artists, told apart by pitch, under the same file names; a picture and a broken file too."""
    folder, random = tmp_path_factory.mktemp("music"), np.random.default_rng(1)
    for at, name in enumerate(GENRES):
        for number in range(4):
            write_mp3(folder / name / f"{number:02d}.mp3", f"{name} artist {number}", 150 * 3.2**at, 4.5, random)
    (folder / "fado" / "cover.jpg").write_bytes(b"no music")
    (folder / "zouk" / "broken.mp3").write_bytes(b"no music" * 100)
    return folder


@pytest.fixture(autouse=True)
def thin_network(monkeypatch: pytest.MonkeyPatch) -> None:
    take_thin_network(monkeypatch)


def test_from_a_folder_of_mp3_to_results_on_mqtt(music: Path, tmp_path: Path) -> None:
    out, models = tmp_path / "own", tmp_path / "models"
    trained = train(
        "reproduce", "--audio", music, "--out", out, "--epochs", 20, "--train-blocks", 1, "--batch", 4,
        "--learning-rate", 0.05, "--share", 0.4,
    )  # fmt: skip
    assert "skipped fado/cover.jpg: is not named as audio" in trained.stdout
    assert "zouk/broken.mp3: can't be read" in trained.stdout
    result = json.loads((out / "reproduce.json").read_text())
    assert result["genres"] == list(GENRES) and result["data"]["clips"] == 16
    assert result["protocols"]["artist"]["songs_on_both_sides"] == 0

    train("figures", "--audio", music, "--result", out / "reproduce.json", "--out", tmp_path / "figures")
    assert len(list((tmp_path / "figures").iterdir())) == 3

    train("export-vgg16", "--reproduced", out, "--models", models, "--name", "own", "--calibration", 16)
    card = load_card(models, "own")
    assert card.labels == GENRES
    said = card.model_dump_json(exclude={"recipe"})
    assert "GTZAN" not in said and "blues" not in said and str(tmp_path) not in said
    with card.path(CLIPS_FILE).open(encoding="utf-8", newline="") as file:
        parts = {row["clip"]: row["part"] for row in csv.DictReader(file)}
    assert len(parts) == 16 and set(parts.values()) == {"train", "valid"}

    judged = train("evaluate", "--models", models, "--model", "own", "--audio", music, "--json")
    assert "16 of 16 clips are of those it learnt from" in judged.stderr
    assert json.loads(judged.stdout)["clip_accuracy"] > 0.8

    hears_it(music / "gnawa" / "00.mp3", "gnawa", models, tmp_path)
