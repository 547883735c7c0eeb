from __future__ import annotations

import csv
import io
import json
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


@pytest.mark.parametrize(("args", "code", "words"), [
    ((), 2, "which files?"), (("--windows", "x.wav"), 2, "--json"), (("--model", "nope", "x.wav"), 1, "nope"),
    (("/dev/null",), 1, "/dev/null"), (("no-such-file.wav",), 1, "1 of 1 files"),
])  # fmt: skip
def test_wrong_use_is_told_in_one_line(args: tuple[str, ...], code: int, words: str) -> None:
    done = genre(*args)
    assert done.returncode == code, done.stderr
    assert words in done.stderr + done.stdout and len(done.stderr.splitlines()) == 1
