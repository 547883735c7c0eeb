"""`genre train reproduce` as a user runs it: all the way on a small set, killed and resumed, refusing bad input."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from services.errors import GenreError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
keras = pytest.importorskip("keras")

from training import reproduce, reproduction  # noqa: E402
from training.gtzan import GENRES  # noqa: E402

RATE = 22_050
ARTISTS = ("One", "Two", "Three", "Four")
DEADLINE_S = 300
pytestmark = pytest.mark.timeout(2 * DEADLINE_S)  # On a busy machine TensorFlow alone takes half a minute to load.


def run(*arguments: object) -> Result:
    return CliRunner().invoke(reproduce.reproduce, [str(argument) for argument in arguments])


def refused(done: Result, *words: str) -> None:
    assert isinstance(done.exception, GenreError), done.exception
    for word in words:
        assert word in str(done.exception)


@pytest.fixture(scope="module")
def gtzan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three genres of four artists, a clip of two windows each, told apart by their pitch; one clip is broken."""
    folder = tmp_path_factory.mktemp("gtzan")
    rng = np.random.default_rng(1)
    rows = ["file,artist"]
    for at, genre in enumerate(GENRES[:3]):
        (folder / genre).mkdir()
        for number, artist in enumerate(ARTISTS):
            file = f"{genre}/{genre}.{number:05d}.wav"
            tone = np.sin(2 * np.pi * 200 * 4**at * np.arange(99_000) / RATE)
            soundfile.write(folder / file, 0.3 * tone + rng.normal(0, 0.01, 99_000), RATE)
            rows.append(f"{file},{genre} {artist}")
    (folder / "blues" / "blues.00054.au").write_bytes(b"no audio" * 1_000)
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGG16 with random weights, in the form of Keras' file."""
    path = tmp_path_factory.mktemp("weights") / "notop.weights.h5"
    keras.utils.set_random_seed(1)
    keras.applications.VGG16(include_top=False, weights=None, input_shape=(129, 128, 3)).save_weights(path)
    return path


def options(gtzan: Path, weights: Path, out: Path, epochs: int) -> Sequence[object]:
    where = ("--gtzan", gtzan, "--weights", weights, "--out", out)
    return (*where, "--epochs", epochs, "--train-blocks", 0, "--batch", 4, "--share", 0.4)


@pytest.fixture(scope="module")
def whole(gtzan: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run from start to end: its folder and what it printed."""
    out = tmp_path_factory.mktemp("whole")
    done = run(*options(gtzan, weights, out, 6))
    assert done.exit_code == 0, done.exception
    assert not done.stderr, "progress in a pipe"
    return out, done.stdout


def test_both_accuracies_the_figures_and_one_json_come_out(whole: tuple[Path, str]) -> None:
    out, printed = whole
    result = json.loads((out / "reproduce.json").read_text())
    for name, title in (("random", "random segments (leaky)"), ("artist", "artists separated")):
        told = result["protocols"][name]
        assert f"{100 * told['window_accuracy']:.1f} %" in next(line for line in printed.splitlines() if title in line)
        assert len(told["history"]) == 6
        assert np.sum(told["confusion"]) == told["n_windows"]
        assert told["history"][-1]["valid_accuracy"] == pytest.approx(told["window_accuracy"])
    assert result["protocols"]["random"]["songs_on_both_sides"] > 0
    assert result["protocols"]["artist"]["songs_on_both_sides"] == 0
    assert result["data"]["shape"] == [24, 129, 128, 1]
    assert result["settings"]["seed"] == 1 and result["versions"]["keras"]
    assert "can't confirm or refute" in printed and "97.02 %" in printed
    assert "skipped blues/blues.00054.au: can't be read" in printed
    assert sorted(path.name for path in out.iterdir()) == [
        "figure-2-spectrograms.png", "figure-3-confusion.png", "figure-4-epochs.png", "reproduce.json",
        "vgg16-artist.keras", "vgg16-random.keras", "work",
    ]  # fmt: skip


def test_killed_and_started_again_it_ends_as_if_it_had_not_been(
    whole: tuple[Path, str], gtzan: Path, weights: Path, tmp_path: Path
) -> None:
    # More epochs than it will be let do, so that the kill falls into training and not behind it.
    arguments = map(str, options(gtzan, weights, tmp_path, 5_000))
    child = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "train", "reproduce", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    state = tmp_path / "work" / "random" / "state.json"
    deadline = time.monotonic() + DEADLINE_S
    try:
        while not (state.is_file() and len(json.loads(state.read_text())["history"]) >= 3):
            assert child.poll() is None and child.stdout, child.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        child.kill()
        child.communicate()
    before = json.loads(state.read_text())["history"]
    assert not (tmp_path / "reproduce.json").exists()
    epochs = max(6, len(before))
    done = run(*options(gtzan, weights, tmp_path, epochs))
    assert done.exit_code == 0, done.exception
    history = json.loads((tmp_path / "reproduce.json").read_text())["protocols"]["random"]["history"]
    assert history[: len(before)] == before and len(history) == epochs
    expected = json.loads((whole[0] / "reproduce.json").read_text())["protocols"]["random"]["history"]
    for line, other in zip(history[:6], expected, strict=True):
        assert line["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3, abs=1e-4)


def test_bad_input_is_one_line_each(gtzan: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(run("--gtzan", tmp_path / "empty", "--out", tmp_path / "out"), "holds no audio")
    refused(run("--gtzan", tmp_path / "absent", "--out", tmp_path / "out"), "is no folder")
    refused(run("--gtzan", gtzan, "--splits", tmp_path, "--out", tmp_path / "out"), "train_filtered.txt")
    assert run("--gtzan", gtzan, "--epochs", 0).exit_code == 2
    (tmp_path / "text.h5").write_text("no weights")
    refused(run("--gtzan", gtzan, "--weights", tmp_path / "text.h5", "--out", tmp_path / "out"), "text.h5")
    (tmp_path / "few" / "blues").mkdir(parents=True)
    soundfile.write(tmp_path / "few" / "blues" / "blues.00000.wav", np.zeros(99_000), RATE)
    refused(run("--gtzan", tmp_path / "few", "--out", tmp_path / "out"), "one genre only")
    assert not (tmp_path / "out").exists()


def test_accuracy_is_of_windows_and_of_clips() -> None:
    scores = np.full((5, 10), 0.01, np.float32)
    scores[[0, 1, 2, 3, 4], [0, 0, 1, 1, 1]] = [0.9, 0.5, 0.6, 0.9, 0.2]
    told = reproduction.judge(scores, np.array([0, 0, 0, 1, 1]), np.array([7, 7, 7, 9, 9]))
    assert (told["window_accuracy"], told["n_windows"]) == (0.8, 5)
    assert (told["clip_accuracy"], told["n_clips"]) == (1.0, 2)
    assert told["per_genre"] == {"blues": pytest.approx(2 / 3), "classical": 1.0}
    assert told["confusion"][0][:2] == [2, 1]
