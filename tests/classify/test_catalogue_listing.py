from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.classify.catalogue.listing import Feed, tracks
from services.classify.catalogue.work import Track
from services.errors import GenreError
from tests.broker.mosquitto import wait_for


def paths(*sources: Path | str) -> list[str]:
    return [track.path for track in tracks(map(str, sources))]


@pytest.fixture
def music(tmp_path: Path) -> Path:
    folder = tmp_path / "music"
    (folder / "b").mkdir(parents=True)
    for name in ("1.mp3", "2.flac", "b/3.wav", "b/cover.jpg", ".hidden.mp3"):
        (folder / name).write_bytes(b"x")
    return folder


def test_a_folder_gives_its_audio_and_each_track_says_size_and_time(music: Path) -> None:
    found = list(tracks([str(music)]))
    assert [Path(track.path).name for track in found] == ["1.mp3", "2.flac", "3.wav"]
    assert all(track.seen and track.size == 1 and track.mtime_ns > 0 for track in found)


@pytest.mark.parametrize("text", ["{a}\n{b}\n", "{a}\r\n\n{b}", "{a}\0{b}\0", "{a}\0{b}"])
def test_a_list_has_a_path_a_line_or_a_nul_after_each(music: Path, tmp_path: Path, text: str) -> None:
    a, b = music / "1.mp3", music / "no such file.mp3"
    (tmp_path / "list.txt").write_bytes(text.format(a=a, b=b).encode())
    assert paths(tmp_path / "list.txt") == [str(a), str(b)]
    assert [track.seen for track in tracks([str(tmp_path / "list.txt")])] == [True, False]


def test_a_list_may_name_folders_and_bytes_that_are_no_text(music: Path, tmp_path: Path) -> None:
    odd = os.fsencode(music / "b") + b"/\xff\xfe.mp3"
    Path(os.fsdecode(odd)).write_bytes(b"x")
    (tmp_path / "list").write_bytes(os.fsencode(music / "b") + b"\n" + odd)
    assert sorted(map(os.fsencode, paths(tmp_path / "list"))) == sorted([os.fsencode(music / "b" / "3.wav"), odd, odd])


def test_a_list_comes_through_a_pipe_longer_than_any_buffer(tmp_path: Path) -> None:
    names = b"".join(b"/nowhere/%06d.mp3\n" % index for index in range(20_000))
    code = "from services.classify.catalogue.listing import tracks; print(sum(1 for _ in tracks(['-'])))"
    done = subprocess.run([sys.executable, "-c", code], input=names, capture_output=True, timeout=60)
    assert done.stdout.strip() == b"20000", done.stderr


def test_a_folder_that_can_not_be_listed_is_a_track_with_the_reason(music: Path) -> None:
    reading = tracks([str(music)])
    assert next(reading).path.endswith("1.mp3")
    shutil.rmtree(music / "b")
    rest = list(reading)
    assert [track.folder_error[:20] for track in rest] == ["", "folder can't be read"]
    assert rest[1].path == str(music / "b")


@pytest.mark.parametrize(("name", "content"), [("none.mp3", None), ("none.txt", None), ("big.txt", b"x" * 200_000)])
def test_what_is_no_source_is_told_in_one_line(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(GenreError) as error:
        paths(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_an_endless_list_is_read_only_a_few_batches_ahead() -> None:
    read = itertools.count()
    feed = Feed((Track(f"/{next(read)}") for _ in itertools.count()), lambda track: not track.path.endswith("0"), 10)
    wait_for(lambda: feed.listed >= 80, "the feed reads ahead")
    assert feed.next() is not None
    assert feed.listed <= 10 * (Feed.AHEAD + 3) * 10 / 9 + 10
    assert feed.skipped == pytest.approx(feed.listed / 10, abs=1)


def test_an_error_of_the_list_comes_out_where_batches_are_taken(tmp_path: Path) -> None:
    feed = Feed(tracks([str(tmp_path / "none.txt")]), lambda track: True, 10)
    with pytest.raises(GenreError, match=r"none\.txt"):
        wait_for(lambda: feed.next() is not None, "the list's error")
