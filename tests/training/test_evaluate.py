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
import pytest
import soundfile

from services.cli import main
from services.inference.card import load_card, model_names
from tests.shared_data import shared
from training.degradations import ROBUSTNESS
from training.export import DEFAULT

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


def test_audio_is_measured_and_a_broken_file_named_and_skipped(clips: Path) -> None:
    done = genre("evaluate", "--model", DEFAULT, "--audio", clips, "--index", clips / "index.csv", "--json")
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == 0 and "broken.wav" in done.stderr
    assert (report["n_clips"], report["n_windows"], len(report["skipped"])) == (3, 4, 1)
    assert sum(map(sum, report["confusion"])) == 3 and set(report["per_genre"]) == {"disco", "rock", "jazz"}
    assert report["model"] == DEFAULT and report["fp32"]["n_windows"] == 4 and report["agreement_with_fp32"] == 1.0


def test_kinds_are_counted_by_what_the_index_says(clips: Path) -> None:
    (clips / "index.csv").write_text("file,genre\na.wav,other\nb.wav,music\nquiet.wav,silence\n")
    done = genre("evaluate", "--model", DEFAULT, "--audio", clips, "--index", clips / "index.csv", "--json")
    report = json.loads(done.stdout)
    told = report["kinds"]["told"]
    assert set(told) == {"music", "other", "silence"} and "clip_accuracy" not in report
    assert [sum(row.values()) for row in told.values()] == [1, 2, 1]
    assert told["silence"] == {"music": 0, "speech": 0, "other": 0, "silence": 1} and told["other"]["other"] == 2
    table = genre("evaluate", "--model", DEFAULT, "--audio", clips, "--index", clips / "index.csv").stdout
    assert "silence" in table and "ECE" in table


def test_a_model_without_kinds_says_so_by_null(clips: Path) -> None:
    done = genre("evaluate", "--model", "vgg16", "--audio", clips, "--index", clips / "index.csv", "--json")
    assert json.loads(done.stdout)["kinds"] is None


def test_every_model_is_one_line_under_one_protocol(clips: Path) -> None:
    options = ("--audio", clips, "--index", clips / "index.csv")
    lines = genre("evaluate", "--all", *options).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["model", *model_names(MODELS)]
    reports = json.loads(genre("evaluate", "--all", *options, "--json").stdout)["models"]
    assert [report["n_windows"] for report in reports] == [4] * len(model_names(MODELS))


def test_robustness_is_told_for_each_thing_that_is_done_to_the_sound(clips: Path) -> None:
    (clips / "index.csv").write_text("file,genre\na.wav,disco\nb.wav,speech\n")
    options = ("--model", DEFAULT, "--robustness", "--audio", clips, "--index", clips / "index.csv")
    rows = json.loads(genre("evaluate", *options, "--json").stdout)["robustness"]
    assert list(rows) == ["as it is", *ROBUSTNESS, "one channel", "talk at -12 dB", "talk at -6 dB"]
    assert all(0 <= row["window_accuracy"] <= 1 and set(row["kinds"]) == {"music", "speech"} for row in rows.values())
    assert "AAC 32 kbit/s" in genre("evaluate", *options).stdout


def test_taggrams_are_measured_from_any_folder(tmp_path: Path) -> None:
    path = shared("data", "musicnn-taggrams", "train.npz")
    done = genre("evaluate", "--model", DEFAULT, "--tags", path, "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert {"clip_accuracy", "window_accuracy", "n_clips", "n_windows", "ece", "per_genre", "confusion"} <= set(report)
    assert (report["n_clips"], report["n_windows"]) == (443, 12_415) and report["clip_accuracy"] > 0.8
    table = genre("evaluate", "--model", DEFAULT, "--tags", path)
    assert "classical" in table.stdout and "443" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "needs clips"),
        (["--index", "i.csv"], "needs clips"),
        (["--tags", "x.npz", "--audio", ".", "--index", "i.csv"], "needs clips"),
        (["--tags", "x.npz", "--robustness"], "exclude each other"),
        (["--all", "--model", "vgg16", "--audio", ".", "--index", "i.csv"], "exclude each other"),
        (["--model", DEFAULT, "--tags", "nosuch.npz"], "nosuch.npz: can't be read"),
        (["--model", "vgg16", "--tags", "x.npz"], "has no tag head"),
        (["--model", "nosuch", "--tags", "x.npz"], "choose one of those there"),
        (["--audio", ".", "--index", "nosuch.csv"], "nosuch.csv: can't be read"),
        (["--audio", "nosuch"], "nosuch: is no folder"),
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
        ("file,genre\nmissing.wav,pop\n", "missing.wav is not there"),
    ],
)
def test_a_wrong_index_is_one_clear_line(clips: Path, index: str, said: str) -> None:
    (clips / "index.csv").write_text(index)
    assert said in refused(genre("evaluate", "--model", DEFAULT, "--audio", clips, "--index", clips / "index.csv"))


def test_heads_that_are_none_leave_models_as_they_were(tmp_path: Path) -> None:
    shutil.copytree(MODELS / DEFAULT, tmp_path / DEFAULT)
    (tmp_path / "heads.npz").write_bytes(b"nonsense")
    heads = ("--models", tmp_path, "--heads", tmp_path / "heads.npz")
    assert "holds no heads" in refused(genre("export", *heads, "--networks", tmp_path / "no.onnx"))
    assert load_card(tmp_path, DEFAULT)
    assert sorted(path.name for path in tmp_path.iterdir()) == [DEFAULT, "heads.npz"]
    assert "holds no heads" in refused(genre("export", *heads)), "the shipped model's networks are the default"
    assert "needs --heads" in refused(genre("export", "--networks", tmp_path / "no.onnx"))


def test_a_report_becomes_part_of_the_card_and_another_models_does_not(tmp_path: Path, clips: Path) -> None:
    shutil.copytree(MODELS / DEFAULT, tmp_path / "models" / DEFAULT)
    report = tmp_path / "report.json"
    options = ("--model", DEFAULT, "--audio", clips, "--index", clips / "index.csv")
    report.write_text(genre("evaluate", *options, "--json").stdout)
    arguments = ("export", "--models", tmp_path / "models", "--evaluation", report, "--protocol", "three clips")
    before = len(load_card(MODELS, DEFAULT).evaluations)
    assert genre(*arguments).returncode == 0
    added = load_card(tmp_path / "models", DEFAULT).evaluations
    assert added[-1].command.startswith(
        f"genre train evaluate --model {DEFAULT} --audio {clips.name} --index index.csv"
    )
    assert len(added) == before + 1 and (added[-1].protocol, added[-1].n_clips) == ("three clips", 3)
    report.write_text(report.read_text().replace(f'"{DEFAULT}"', '"other"'))
    assert f"is no report of {DEFAULT}" in refused(genre(*arguments))
    assert "--protocol" in refused(genre(*arguments[:5]))


def test_taggrams_are_evaluated_without_what_run_time_lacks() -> None:
    path = shared("data", "musicnn-taggrams", "train.npz")
    code = f"""
import sys
class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"soundfile", "sklearn", "onnx", "tensorflow", "keras", "librosa", "matplotlib"}}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Lacking())
sys.argv = ["genre", "train", "evaluate", "--model", "{DEFAULT}", "--tags", "{path}", "--json"]
from services.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_clips"] == 443
