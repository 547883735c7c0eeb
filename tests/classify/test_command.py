from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import soundfile

MODELS = Path(__file__).resolve().parents[2] / "models"


def genre(*args: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "services.cli", "classify", *map(str, args)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with names that hurt, a file that is no audio, and one that is hidden."""
    folder = tmp_path_factory.mktemp("music")
    sound = np.random.default_rng(1).normal(0, 0.1, 22_050 * 4)
    for name in ("a.wav", "=cmd|' .wav", "b <script>&.wav", "c\x1b[31m\n.wav", "-x.wav"):
        soundfile.write(folder / name, sound, 22_050)
    (folder / "broken.mp3").write_bytes(b"nothing")
    (folder / ".hidden.wav").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("no audio")
    (folder / "loop").symlink_to(folder)
    return folder


def test_a_folder_gives_a_line_a_file_and_says_which_failed(folder: Path) -> None:
    done = genre("--jobs", "1", folder)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert "\x1b" not in done.stdout
    assert "1 of 6 files" in done.stderr and len(done.stderr.splitlines()) == 1


def test_json_lines_hold_scores_and_windows_and_svg_is_valid(folder: Path, tmp_path: Path) -> None:
    done = genre("--jobs", "2", "--json", "--windows", "--pictures", tmp_path / "svg", folder)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(one["file"]).name for one in found] == sorted(Path(one["file"]).name for one in found)
    good = [one for one in found if not one["problem"]]
    assert len(good) == 5
    assert all(abs(sum(one["scores"].values()) - 1) < 0.01 and len(one["windows"]) == 2 for one in good)
    pictures = list((tmp_path / "svg").iterdir())
    assert len(pictures) == 5
    for picture in pictures:
        assert ElementTree.parse(picture).getroot().tag.endswith("svg")


def test_csv_is_safe_to_open_in_a_spreadsheet(folder: Path) -> None:
    done = genre("--jobs", "1", "--csv", folder / "=cmd|' .wav", folder / "a.wav")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["kind"] != "" for row in rows] == [True, True]
    assert all(row["file"][0] not in "=+-@" for row in rows)


def test_a_files_name_is_true_in_a_csv_and_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    name = "\x1b[2J\x9b31m\u202egnp.wav"
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(1).normal(0, 0.1, 22_050 * 2), 22_050)
    (tmp_path / "a.wav").rename(tmp_path / name)
    argv = [sys.executable, "-m", "services.cli", "classify", "--jobs", "1", str(tmp_path)]
    written = subprocess.run([*argv, "--csv"], capture_output=True, text=True, timeout=100)
    (row,) = csv.DictReader(io.StringIO(written.stdout))
    assert row["file"] == str(tmp_path / name)
    told = subprocess.run([*argv, "--json"], capture_output=True, text=True, timeout=100).stdout
    assert told.rstrip("\n").isprintable() and json.loads(told)["file"] == str(tmp_path / name)
    end, terminal = pty.openpty()
    try:
        done = subprocess.run([*argv, "--csv"], stdout=terminal, stderr=subprocess.PIPE, timeout=100)
        os.close(terminal)
        seen = _all_of(end).decode()
    finally:
        os.close(end)
    assert done.returncode == 0, done.stderr
    lines = seen.replace("\r\n", "\n").splitlines()
    assert len(lines) == 2 and all(line.isprintable() for line in lines) and f"{tmp_path}/ [2J 31mgnp.wav" in lines[1]


def _all_of(end: int) -> bytes:
    """Return what was written to a terminal that nobody writes to any more; Linux then says EIO."""
    parts = []
    with contextlib.suppress(OSError):
        while part := os.read(end, 65_536):
            parts.append(part)
    return b"".join(parts)


def test_csv_and_json_name_the_model_and_csv_has_its_scores(folder: Path, tmp_path: Path) -> None:
    models = tmp_path / "own models"
    models.mkdir()
    (models / "vgg16").symlink_to(MODELS / "vgg16")
    given = ("--jobs", "1", "--models", models, "--model", "vgg16", folder / "a.wav", folder / "broken.mp3")
    good, bad = csv.DictReader(io.StringIO(genre(*given, "--csv").stdout))
    one = json.loads(genre(*given, "--json").stdout.splitlines()[0])
    card = json.loads((MODELS / "vgg16" / "card.json").read_text())
    assert [(row["model"], row["model_version"]) for row in (good, bad, one)] == 3 * [("vgg16", card["version"])]
    assert {label: float(good[f"score_{label}"]) for label in card["labels"]} == one["scores"]
    assert {bad[f"score_{label}"] for label in card["labels"]} == {""}


@pytest.mark.parametrize(("args", "code", "words"), [
    ((), 2, "which files?"), (("--windows", "x.wav"), 2, "--json"), (("--model", "nope", "x.wav"), 1, "nope"),
    (("--models", "no-such-folder", "x.wav"), 1, "no-such-folder"),
    (("/dev/null",), 1, "/dev/null"), (("no-such-file.wav",), 1, "1 of 1 files"),
])  # fmt: skip
def test_wrong_use_is_told_in_one_line(args: tuple[str, ...], code: int, words: str) -> None:
    done = genre(*args)
    assert done.returncode == code, done.stderr
    assert words in done.stderr + done.stdout and len(done.stderr.splitlines()) == 1


def test_a_name_in_any_bytes_is_told_so_that_its_file_can_be_found_again(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9 \xe2\x80\xa8.wav"
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(1).normal(0, 0.1, 22_050 * 2), 22_050)
    (tmp_path / "a.wav").rename(os.fsdecode(name))
    argv = [sys.executable, "-m", "services.cli", "classify", "--jobs", "1", name]
    for locale in ("C.UTF-8", "C"):
        run = {"capture_output": True, "timeout": 100, "env": {**os.environ, "LC_ALL": locale}}
        told = json.loads(subprocess.run([*argv, "--json"], **run).stdout)  # type: ignore[call-overload]
        assert os.fsencode(told["file"]) == name and told["kind"]
        table = subprocess.run(argv, **run)  # type: ignore[call-overload]
        assert table.returncode == 0 and "caf\ufffd" in table.stdout.decode() and not table.stderr
        rows = subprocess.run([*argv, "--csv"], **run).stdout.decode()  # type: ignore[call-overload]
        assert r"caf\xe9" in next(csv.DictReader(io.StringIO(rows)))["file"]
