"""The folder of `genre up --music`: what is taken of an untidy one, and what is said of the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from services.supervisor import music_hls
from tests.broker.mosquitto import wait_for
from tests.origin.conftest import write_flac


def test_the_first_pieces_are_taken_and_the_rest_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(music_hls, "MOST_FILES", 2)
    music = tmp_path / "music"
    for name in ("b/2.flac", "c/3.flac"):
        write_flac(music / name, 1)
    write_flac(tmp_path / "elsewhere" / "1.flac", 1)
    (music / "a").symlink_to(tmp_path / "elsewhere")
    (music / "a0.mp3").write_bytes(b"no music" * 100)
    for number in range(30):
        (music / f"a{number}.lrc").touch()
    assert music_hls.packaged(music, tmp_path / "hls") == ["1", "2"]
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[:2] for line in told] == [
        ["genre up", " skipped a0.mp3"],
        ["genre up", f" {music} holds more (files"],
    ]


FIRST = "import sys, pathlib; from services.supervisor import music_hls; a, b = map(pathlib.Path, sys.argv[1:])\n"
FIRST += "print(*music_hls.packaged(a, b))"


def test_two_cold_starts_over_one_music_folder_share_what_the_first_packages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    music, hls = tmp_path / "music", tmp_path / "cache" / "hls"
    for name in "abc":
        write_flac(music / f"{name}.flac", 20)
    first = subprocess.Popen([sys.executable, "-c", FIRST, str(music), str(hls)], stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: list(hls.rglob("*.ts")), "the first one packages")
        files = {path: path.stat() for path in hls.rglob("*.ts")}
        assert music_hls.packaged(music, hls) == list("abc")
        assert "another process packages this music; waiting for it" in capsys.readouterr().err, "both were at it"
        assert first.communicate(timeout=60)[0].split() == list("abc")
    finally:
        first.kill()
        first.wait(30)
    later = {path: path.stat() for path in hls.rglob("*.ts")}
    assert len(later) > len(files) and all(later[path].st_ino == stat.st_ino for path, stat in files.items())
    for name in "abc":
        lines = (next((hls / name).rglob("audio.m3u8"))).read_text().splitlines()
        listed = [line for line in lines if not line.startswith("#")]
        assert sum((next((hls / name).rglob(segment))).stat().st_size > 0 for segment in listed) == len(listed) > 1
