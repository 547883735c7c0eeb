"""`genre train evaluate`, `fit` and `export` as a person runs them: numbers that add up, or one clear line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile

from services.cli import main
from services.inference.card import MODEL_FILE, REFERENCE_FILE, load_card
from tests.shared_data import shared
from training import folder
from training.quantize import OPSET, PRECISION, int8_front

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def genre(*arguments: object, cwd: Path = ROOT) -> Done:
    """Run `genre train ...` as its entry point does, in this process: imports cost more than the work."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv, before = sys.argv, Path.cwd()
    sys.argv = ["genre", "train", *map(str, arguments)]
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = argv
        os.chdir(before)
    return Done(code, out.getvalue(), err.getvalue())


def refused(done: Done) -> str:
    assert done.returncode in (1, 2) and done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("genre: ") and not any("Traceback" in line for line in lines)
    return lines[-1]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Two short clips, a silent one, a broken file and their index."""
    rng = np.random.default_rng(0)
    for name, signal in (
        ("a.wav", rng.normal(0, 0.1, 70_000) * (np.arange(70_000) % 11_025 < 3_000)),
        ("b.wav", 0.3 * np.sin(np.arange(30_000) ** 1.5 / 5_000)),
        ("quiet.wav", np.zeros(66_000)),
    ):
        soundfile.write(tmp_path / name, signal, 22_050)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    (tmp_path / "index.csv").write_text("file,genre\na.wav,disco\nb.wav,rock\nquiet.wav,jazz\nbroken.wav,pop\n")
    return tmp_path


@pytest.fixture
def int8_models(tmp_path: Path) -> Path:
    """The shipped musicnn with two convolutions in int8, as the only model of a folder."""
    card = load_card(MODELS, "musicnn")
    content = card.path(MODEL_FILE).read_bytes()
    windows = np.random.default_rng(0).random((4, *card.recipe.shape), np.float32) * 3
    small = int8_front(onnx.load_from_string(content), windows).SerializeToString()
    contents = {MODEL_FILE: (small, "answers", PRECISION), REFERENCE_FILE: (content, "to compare with", "fp32")}
    values = card.model_dump(exclude={"files"})
    folder.write(tmp_path / "int8", {**values, "precision": PRECISION, "opset": OPSET}, contents)
    return tmp_path / "int8"


def test_audio_is_measured_and_a_broken_file_named_and_skipped(clips: Path) -> None:
    done = genre("evaluate", "--audio", clips, "--index", clips / "index.csv", "--json")
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == 0 and "broken.wav" in done.stderr
    assert (report["n_clips"], report["n_windows"], len(report["skipped"])) == (3, 4, 1)
    assert sum(map(sum, report["confusion"])) == 3 and set(report["per_genre"]) == {"disco", "rock", "jazz"}
    assert report["model"] == "musicnn" and report["fp32"]["n_windows"] == 4 and report["agreement_with_fp32"] == 1.0


def test_the_deployed_precision_is_measured_beside_the_float_form(clips: Path, int8_models: Path) -> None:
    options = ("--models", int8_models, "--audio", clips, "--index", clips / "index.csv", "--json")
    report = json.loads(genre("evaluate", *options).stdout)
    assert report["deployed_form"] == PRECISION and report["fp32"]["n_windows"] == report["n_windows"] == 4
    assert 0.5 <= report["agreement_with_fp32"] <= 1


def test_taggrams_are_measured_from_any_folder_with_the_default_model(tmp_path: Path) -> None:
    path = shared("data", "musicnn-taggrams", "train.npz")
    done = genre("evaluate", "--tags", path, "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert {"clip_accuracy", "window_accuracy", "n_clips", "n_windows", "ece", "per_genre", "confusion"} <= set(report)
    assert (report["n_clips"], report["n_windows"]) == (443, 12_415) and report["clip_accuracy"] > 0.9
    table = genre("evaluate", "--model", "musicnn", "--tags", path)
    assert "classical" in table.stdout and "443" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "needs clips"),
        (["--audio", "."], "needs clips"),
        (["--tags", "x.npz", "--audio", ".", "--index", "i.csv"], "needs clips"),
        (["--tags", "nosuch.npz"], "nosuch.npz: can't be read"),
        (["--model", "nosuch", "--tags", "x.npz"], "choose one of those there"),
        (["--audio", "nosuch", "--index", "nosuch.csv"], "nosuch.csv: can't be read"),
        (["--wrong"], "No such option"),
    ],
)
def test_wrong_arguments_are_one_clear_line(arguments: list[str], said: str) -> None:
    assert said in refused(genre("evaluate", *arguments))


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("file,genre\n", "names no file"),
        ("file,genre\na.wav,polka\n", "polka"),
        ("name\na.wav\n", "column"),
        ("file,genre\n../../etc/passwd,rock\n", "is no file of"),
        ("file,genre\nbroken.wav,pop\n", "no clip that can be read"),
        ("file,genre\nmissing.wav,pop\n", "no clip that can be read"),
    ],
)
def test_a_wrong_index_is_one_clear_line(clips: Path, index: str, said: str) -> None:
    (clips / "index.csv").write_text(index)
    assert said in refused(genre("evaluate", "--audio", clips, "--index", clips / "index.csv"))


def test_a_fit_reports_cross_validation_and_writes_a_head_whole(tmp_path: Path) -> None:
    tags, artists = shared("data", "musicnn-taggrams", "train.npz"), shared("data", "gtzan-splits", "artists.csv")
    done = genre("fit", "--tags", tags, "--artists", artists, "--out", tmp_path / "out" / "head.npz", "--json")
    report = json.loads(done.stdout)
    assert report["clip_accuracy_mean"] > 0.82 and report["window_accuracy_mean"] > 0.74 and report["ece"] < 0.05
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["head.npz"]


def test_a_head_that_is_none_leaves_models_as_they_were(tmp_path: Path) -> None:
    shutil.copytree(MODELS / "musicnn", tmp_path / "musicnn")
    (tmp_path / "head.npz").write_bytes(b"nonsense")
    said = refused(
        genre("export", "--models", tmp_path, "--head", tmp_path / "head.npz", "--wheel", tmp_path / "no.whl")
    )
    assert "is not a fitted head" in said
    assert load_card(tmp_path, "musicnn") and sorted(path.name for path in tmp_path.iterdir()) == [
        "head.npz",
        "musicnn",
    ]
    assert "belong together" in refused(genre("export", "--models", tmp_path, "--head", tmp_path / "head.npz"))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("cpu", 'backend: "python"'),
        ("jetson-onnxruntime", 'platform: "onnxruntime_onnx"'),
        ("jetson-tensorrt", 'platform: "tensorrt_plan"'),
    ],
)
def test_a_model_is_rewritten_for_another_target(int8_models: Path, target: str, said: str) -> None:
    done = genre("export", "--models", int8_models, "--target", target)
    config = (int8_models / "musicnn" / "config.pbtxt").read_text()
    assert done.returncode == 0 and said in config and "dims: [187, 96]" in config
    assert ("FP16" not in config) and config.count("{") == config.count("}")
    assert (int8_models / "musicnn" / "1" / "model.py").exists() == (target == "cpu")
    assert ("trtexec --onnx=1/fp32.onnx" in done.stdout) == (target == "jetson-tensorrt")
    # TensorRT takes no int8 as a CPU's: a GPU is given the float form.
    assert (int8_models / "musicnn" / "1" / "fp32.onnx").exists() == (target != "cpu")
    assert ('default_model_filename: "fp32.onnx"' in config) == (target == "jetson-onnxruntime")
    assert [path.name for path in int8_models.iterdir()] == ["musicnn"]


@pytest.mark.parametrize("target", ["jetson-onnxruntime", "jetson-tensorrt"])
def test_a_float_model_goes_to_a_gpu_as_it_is(tmp_path: Path, target: str) -> None:
    shutil.copytree(MODELS / "musicnn", tmp_path / "musicnn")
    done = genre("export", "--models", tmp_path, "--target", target)
    assert done.returncode == 0 and "fp32.onnx" not in (tmp_path / "musicnn" / "config.pbtxt").read_text()
    assert ("trtexec --onnx=1/model.onnx" in done.stdout) == (target == "jetson-tensorrt")


def test_a_report_becomes_part_of_the_card_and_another_models_does_not(tmp_path: Path, clips: Path) -> None:
    shutil.copytree(MODELS / "musicnn", tmp_path / "models" / "musicnn")
    report = tmp_path / "report.json"
    report.write_text(genre("evaluate", "--audio", clips, "--index", clips / "index.csv", "--json").stdout)
    arguments = ("export", "--models", tmp_path / "models", "--evaluation", report, "--protocol", "three clips")
    before = len(load_card(MODELS, "musicnn").evaluations)
    assert genre(*arguments).returncode == 0
    added = load_card(tmp_path / "models", "musicnn").evaluations
    assert len(added) == before + 1 and (added[-1].protocol, added[-1].n_clips) == ("three clips", 3)
    report.write_text(report.read_text().replace('"musicnn"', '"other"'))
    assert "is no report of musicnn" in refused(genre(*arguments))
    assert "--protocol" in refused(genre(*arguments[:5]))


def test_tensorflow_is_not_imported_to_evaluate() -> None:
    code = "import sys, training.evaluate; print([m for m in ('tensorflow', 'keras', 'librosa') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
