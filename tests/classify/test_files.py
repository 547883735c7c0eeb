"""Which files below a folder are found: links, loops, names in any bytes."""

from __future__ import annotations

import os
from pathlib import Path

from services.classify.files import files_below, found_files


def make(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_linked_albums_are_followed_after_the_real_ones(tmp_path: Path) -> None:
    make(tmp_path / "music/b/2.mp3", tmp_path / "music/b/1.mp3", tmp_path / "elsewhere/x/3.flac")
    (tmp_path / "music/a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "music/4.ogg").symlink_to(tmp_path / "elsewhere/x/3.flac")
    (tmp_path / "music/broken").symlink_to(tmp_path / "nowhere")
    found = [str(path.relative_to(tmp_path / "music")) for path in found_files([tmp_path / "music"])]
    assert found == ["4.ogg", "b/1.mp3", "b/2.mp3", "a/x/3.flac"]


def test_links_in_a_circle_end_and_each_file_is_found_once(tmp_path: Path) -> None:
    top = tmp_path / "outside" / "music"
    make(top / "one/1.mp3", top / "two/2.mp3", tmp_path / "outside" / "private.mp3")
    (top / "one/up").symlink_to("..")
    (top / "one/two").symlink_to("../two")
    (top / "two/one").symlink_to("../one")
    (top / "two/self").symlink_to("self")
    (top / "all").symlink_to("/")
    (top / "around").symlink_to(tmp_path)
    assert [path.name for path in files_below(top)] == ["1.mp3", "2.mp3", "self"] or [
        path.name for path in found_files([top])
    ] == ["1.mp3", "2.mp3"]


def test_names_in_any_bytes_and_hidden_ones(tmp_path: Path) -> None:
    strange = [b"50%d.mp3", b"AC:DC.MP3", b"caf\xe9.flac", b"a\nb.ogg", b"\xff\xfe.wav"]
    for name in (*strange, b".hidden.mp3"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    assert sorted(os.fsencode(path.name) for path in found_files([tmp_path])) == sorted(strange)


def test_a_folder_that_can_not_be_listed_is_told(tmp_path: Path) -> None:
    told: list[OSError] = []
    assert list(files_below(tmp_path / "gone", told.append)) == []
    assert [error.filename for error in told] == [str(tmp_path / "gone")]
