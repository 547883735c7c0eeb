"""`genre train reproduce` as a user runs it: all the way on a small set, killed and resumed, refusing bad input."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from click.testing import CliRunner, Result

from services.errors import GenreError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from services.inference.card import load_card  # noqa: E402
from tests.training.vgg16.thin_network import take_thin_network  # noqa: E402
from training.data.gtzan import GENRES  # noqa: E402
from training.vgg16 import export, reproduce, reproduction  # noqa: E402

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
    keras.utils.set_random_seed(4_321)  # no seed that a run begins with: fresh layers would equal these
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
    told = done.stderr.splitlines()
    assert len(told) == 12 and all("validation loss" in line for line in told), "one line an epoch in a pipe"
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


def test_each_epoch_is_logged_and_fewer_epochs_than_a_folder_holds_are_refused(
    whole: tuple[Path, str], gtzan: Path, weights: Path
) -> None:
    out, _ = whole
    with (out / "work" / "artist" / "epochs.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == [str(number) for number in range(1, 7)]
    refused(run(*options(gtzan, weights, out, 3)), "6 epochs, more than --epochs 3", "--epochs 6 or more")
    assert json.loads((out / "reproduce.json").read_text())["settings"]["epochs"] == 6


@pytest.mark.parametrize("installed", [True, False])
def test_tensorboard_gets_the_epochs_of_each_start_where_it_is_installed(
    installed: bool,
    whole: tuple[Path, str],
    gtzan: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its being there is all that counts: TensorFlow writes the file, and reads it here.
    (tmp_path / "packages" / "tensorboard").mkdir(parents=True)
    (tmp_path / "packages" / "tensorboard" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "tensorboard", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    if not installed:
        monkeypatch.setitem(sys.modules, "tensorboard", None)
    out = tmp_path / "out"
    shutil.copytree(whole[0], out)
    for old in out.rglob("events.out.*"):  # of a TensorBoard that this environment has
        old.unlink()
    done = run(*options(gtzan, weights, out, 7))
    assert done.exit_code == 0, done.exception
    assert "tensorboard" not in (done.stdout + done.stderr).replace(str(out), "").casefold()
    found = sorted((out / "work").rglob("events.out.tfevents.*"))
    assert [path.parent.name for path in found] == (["artist", "random"] if installed else [])
    result = json.loads((out / "reproduce.json").read_text())
    for path in found:
        told = {}
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            told |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        last = result["protocols"][path.parent.name]["history"][-1]
        assert told == {
            (f"{what}/{part}", 7): pytest.approx(last[f"{key}_{what}"], rel=1e-6)
            for what in ("loss", "accuracy")
            for part, key in (("training", "train"), ("validation", "valid"))
        }


def test_folds_and_seeds_give_a_mean_and_a_spread(whole: tuple[Path, str], gtzan: Path, weights: Path) -> None:
    out, _ = whole
    done = run(*options(gtzan, weights, out, 6), "--folds", 2, "--seeds", 2, "--patience", 3)
    assert done.exit_code == 0, done.exception
    again = json.loads((out / "reproduce.json").read_text())["repeats"]
    each = again["each"]
    assert [(one["name"], one["seed"]) for one in each] == [
        (f"fold-{fold}-of-2-seed-{seed}", seed) for seed in (1, 2) for fold in (1, 2)
    ]
    assert [sum(one["n_clips"] for one in each if one["seed"] == seed) for seed in (1, 2)] == [12, 12]
    values = [one["window_accuracy"] for one in each]
    assert again["window_mean"] == pytest.approx(np.mean(values))
    assert again["window_spread"] == pytest.approx(np.std(values, ddof=1))
    assert "2 folds by artist, 2 seeds: windows" in done.stdout and "of 4 runs" in done.stdout
    refused(run(*options(gtzan, weights, out, 6), "--folds", 50), "too few for 50 folds")


def thin(gtzan: Path, out: Path, blocks: int, epochs: int, *more: object) -> Sequence[object]:
    where = ("--gtzan", gtzan, "--out", out, "--train-blocks", blocks, "--epochs", epochs)
    return (*where, "--batch", 4, "--share", 0.4, "--learning-rate", 0.003, *more)


def judged_is_written(out: Path, tolerance: float) -> None:
    """The networks beside a result give the losses that the result tells, from features, in float32."""
    result = json.loads((out / "reproduce.json").read_text())
    features = np.fromfile(out / result["data"]["features"], np.float32).reshape(result["data"]["shape"])
    for name, told in result["protocols"].items():
        windows = np.load(out / "work" / name / reproduce.WINDOWS)
        valid = windows["valid"]
        model = keras.models.load_model(out / f"vgg16-{name}.keras", compile=False)
        assert {layer.compute_dtype for layer in model.layers} == {"float32"}
        scores = model.predict(features[valid], verbose=0)
        loss = -np.log(scores[np.arange(len(valid)), windows["labels"][valid]]).mean()
        assert 0.01 < loss == pytest.approx(told["history"][-1]["valid_loss"], rel=tolerance)


@pytest.mark.parametrize("blocks", [1, 5])
def test_the_network_that_is_written_is_the_one_that_was_judged(
    blocks: int, gtzan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_thin_network(monkeypatch)
    done = run(*thin(gtzan, tmp_path, blocks, 2))
    assert done.exit_code == 0, done.exception
    judged_is_written(tmp_path, 0.01)


def test_mixed_precision_is_told_goes_on_as_begun_and_ends_in_a_float32_model(
    gtzan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_thin_network(monkeypatch)
    out, models = tmp_path / "out", tmp_path / "models"
    assert run(*thin(gtzan, out, 1, 2, "--mixed-precision")).exit_code == 0
    judged_is_written(out, 0.05)
    before = json.loads((out / "reproduce.json").read_text())
    assert before["settings"]["mixed_precision"] is True
    assert before["settings"]["precision"] == "mixed_bfloat16", "there is no GPU where this runs"
    assert "--mixed-precision" in before["command"]
    refused(run(*thin(gtzan, out, 1, 3)), "holds a run with other audio, weights or options")
    assert run(*thin(gtzan, out, 1, 6, "--mixed-precision")).exit_code == 0
    after = json.loads((out / "reproduce.json").read_text())
    history = after["protocols"]["artist"]["history"]
    assert history[:2] == before["protocols"]["artist"]["history"] and len(history) == 6
    done = CliRunner().invoke(
        export.export_vgg16,
        ["--reproduced", str(out), "--models", str(models), "--name", "m", "--precision", "fp32"],
    )
    assert done.exit_code == 0, done.exception
    card = load_card(models, "m")
    assert card.training["method"].endswith("precision mixed_bfloat16") and card.gpu_precision == "fp32"
    kinds = {onnx.TensorProto.DataType.Name(kept.data_type) for kept in onnx.load(card.path()).graph.initializer}
    assert kinds <= {"FLOAT", "INT64"}


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
    assert told["clip_confusion"][0][:2] == [1, 0] and np.sum(told["clip_confusion"]) == 2
