"""Files as people have them, made by ffmpeg: tags of every container, damage, two rates in one, rates out of bounds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from services.classify.audio_file import Heard, frames
from services.classify.decode import pieces
from services.errors import GenreError
from services.origin.packager import Packaging, package_folder


def ffmpeg(*args: object) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, args)], check=True)


def tone(path: Path, *options: object, seconds: float = 12, rate: int = 44_100, channels: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = f"sine=frequency=440:sample_rate={rate}:duration={seconds}"
    ffmpeg("-f", "lavfi", "-i", source, "-ac", channels, "-ar", rate, *options, path)
    return path


def seconds_heard(path: Path, heard: Heard) -> float:
    return sum(piece.size for piece in pieces(path, heard)) / 22_050


def seconds_packaged(hls: Path) -> float:
    lines = [line for file in hls.rglob("audio.m3u8") for line in file.read_text().splitlines()]
    return sum(float(line[8:].split(",")[0]) for line in lines if line.startswith("#EXTINF:"))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MP3 of 12 s whose frames a third in have broken headers' content: ffmpeg plays 11.9 s of it."""
    path = tone(tmp_path_factory.mktemp("damaged") / "song.mp3", "-b:a", "128k", "-write_xing", 0)
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xfb", len(data) // 3)
    for frame in range(3):
        at = data.index(b"\xff\xfb", start + 400 * frame)
        data[at + 4 : at + 36] = b"\xff" * 32
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a", "a.opus", "a.ogg", "a.flac", "a.mka", "a.wma", "a.webm"])
@pytest.mark.parametrize("keys", [("title", "artist"), ("TITLE", "ARTIST")], ids=["small", "capitals"])
def test_title_and_artist_are_read_from_every_container(name: str, keys: tuple[str, str], tmp_path: Path) -> None:
    codec = ("-c:a", "libvorbis") if name == "a.ogg" else ()
    tags = ("-metadata", f"{keys[0]}=Blue  Mönk", "-metadata", f"{keys[1]}=T. Monk\n\x1b[31m")
    heard = Heard()
    next(frames(tone(tmp_path / name, *codec, *tags, seconds=1, rate=48_000), heard))
    assert (heard.title, heard.artist) == ("Blue  Mönk", "T. Monk [31m")


def test_the_rest_of_a_damaged_file_is_heard_and_packaged_and_what_was_left_out_is_said(damaged: Path) -> None:
    heard = Heard()
    assert seconds_heard(damaged, heard) > 11.5
    assert heard.left_out in ("1 damaged packet was left out", f"{heard.damaged} damaged packets were left out")
    for _ in range(2):  # a second run, which finds all done, says it, too
        result = package_folder(damaged.parent, damaged.parent / "hls", Packaging(coder="fast"))
        assert result.incomplete == {damaged: heard.left_out}
        assert list(result.remarks(damaged.parent)) == [f"song.mp3: {heard.left_out}"]
    assert seconds_packaged(damaged.parent / "hls") > 11.5


@pytest.mark.parametrize("first", [(22_050, 1), (48_000, 2), (44_100, 1)], ids=str)
def test_two_rates_joined_in_one_file_are_both_heard_and_packaged(first: tuple[int, int], tmp_path: Path) -> None:
    parts = [
        tone(tmp_path / "parts" / "1.mp3", "-write_xing", 0, seconds=6, rate=first[0], channels=first[1]),
        tone(tmp_path / "parts" / "2.mp3", "-write_xing", 0, seconds=6, rate=44_100, channels=2),
    ]
    (tmp_path / "in").mkdir()
    both = tmp_path / "in" / "both.mp3"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert seconds_heard(both, Heard()) == pytest.approx(12, abs=0.3)
    package_folder(tmp_path / "in", tmp_path / "hls", Packaging(coder="fast"))
    assert seconds_packaged(tmp_path / "hls") == pytest.approx(12, abs=0.3)


@pytest.mark.parametrize("rate", [1_000, 3_999, 400_000, 655_350])
def test_a_rate_out_of_bounds_is_named(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(2 * rate, np.float32), rate, subtype="PCM_16")
    with pytest.raises(GenreError, match=f"has a sample rate of {rate:,} Hz .heard are 4,000 to 384,000 Hz, "):
        list(frames(path, Heard()))
    result = package_folder(tone(tmp_path / "music" / "good.flac", seconds=1).parent, tmp_path / "hls")
    assert len(result.names) == 1
