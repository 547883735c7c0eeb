"""What a person edits in the file of `genre up --config`, and what of it the run takes over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.errors import GenreError
from services.settings import loading
from services.settings.schema import Stream
from services.supervisor.config_file import ConfigFile

ONE, TWO, THREE = (Stream(name=name, url=f"http://radio.example/{name}.m3u8") for name in ("one", "two", "three"))


def text(*streams: Stream, more: str = "") -> str:
    return more + "".join(f'[[streams]]\nname = "{each.name}"\nurl = "{each.url}"\n' for each in streams)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "genre.toml"
    path.write_text(text(ONE))
    return path


def test_a_file_that_nobody_touches_changes_nothing(path: Path) -> None:
    file = ConfigFile(path, loading.load(path))
    assert file.changes(lambda: [ONE]) is None
    assert ConfigFile(None, loading.load(path)).changes(lambda: [ONE]) is None
    path.unlink()
    assert file.changes(lambda: [ONE]) is None, "an editor that replaces a file takes it away for a moment"


def test_added_changed_and_removed_streams_are_taken_over_and_others_stay(path: Path) -> None:
    file = ConfigFile(path, loading.load(path))
    other = ONE.model_copy(update={"url": "http://radio.example/other.m3u8"})
    path.write_text(text(other, TWO))
    assert file.changes(lambda: [ONE, THREE]) == ((other, THREE, TWO), "")
    path.write_text(text(TWO))
    assert file.changes(lambda: [other, THREE, TWO]) == ((THREE, TWO), "")
    assert file.changes(lambda: [THREE, TWO]) is None


def test_what_takes_a_restart_is_named(path: Path) -> None:
    file = ConfigFile(path, loading.load(path))
    path.write_text(text(ONE, more='[log]\nlevel = "debug"\n[inference]\nmodel = "vgg16"\n'))
    assert file.changes(lambda: [ONE]) == ((ONE,), "[inference], [log]")


def test_a_broken_file_is_told_of_once_and_followed_again_once_it_is_mended(path: Path) -> None:
    file = ConfigFile(path, loading.load(path))
    path.write_text("[[streams]\n")
    with pytest.raises(GenreError, match="the streams stay as they were"):
        file.changes(lambda: [ONE])
    assert file.changes(lambda: [ONE]) is None
    path.write_text(text(ONE, TWO))
    assert file.changes(lambda: [ONE]) == ((ONE, TWO), "")


def test_what_is_changed_on_the_page_reaches_the_file_and_options_do_not(path: Path, tmp_path: Path) -> None:
    path.write_text("# mine\n" + text(ONE, TWO))
    written = tmp_path / "run.json"
    file = ConfigFile(path, loading.load(path))

    def page_says(*streams: Stream) -> list[tuple[str, bool]]:
        written.write_text(json.dumps({"streams": [each.model_dump(mode="json") for each in streams]}))
        file.keep(written)
        file.changes(lambda: streams)
        return [(each.name, each.paused) for each in loading.load(path).streams]

    option, paused = Stream(name="option", url="http://o/x.m3u8"), ONE.model_copy(update={"paused": True})
    assert page_says(ONE, TWO, option) == [("one", False), ("two", False)], "what the run began with is no change"
    assert page_says(paused, TWO, option.model_copy(update={"paused": True})) == [("one", True), ("two", False)]
    assert page_says(paused, option, THREE) == [("one", True), ("three", False)]
    assert page_says(ONE, THREE) == [("one", False), ("three", False)]
    assert path.read_text().startswith("# mine\n")


def test_what_the_file_gave_the_run_is_not_written_back(path: Path, tmp_path: Path) -> None:
    written = tmp_path / "run.json"
    file = ConfigFile(path, loading.load(path))
    for streams in ((ONE,), (ONE, TWO), (TWO,)):
        path.write_text(text(*streams))
        file.changes(lambda: [ONE])
        before = path.read_bytes()
        written.write_text(json.dumps({"streams": [each.model_dump(mode="json") for each in streams]}))
        file.keep(written)
        assert path.read_bytes() == before
