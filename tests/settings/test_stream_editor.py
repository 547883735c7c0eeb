from __future__ import annotations

import json
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.errors import GenreError, UsageError
from services.settings import loading, stream_editor

FILE = """\
# my radios
[broker]
port = 1884  # not the usual one

[[streams]]
name = "a"   # the first
url = "http://example.org/a.m3u8"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "genre.toml"
    path.write_text(FILE)
    return path


def add(name: str) -> stream_editor.Edit:
    return stream_editor.add(stream_editor.stream_of({"name": name, "url": f"http://example.org/{name}.m3u8"}))


def names(path: Path) -> list[str]:
    return [stream.name for stream in loading.load(path).streams]


def test_a_stream_comes_pauses_resumes_and_goes_and_comments_stay(config: Path) -> None:
    stream_editor.change(config, add("b"))
    stream_editor.change(config, stream_editor.pause("a", True))
    assert [(s.name, s.paused) for s in loading.load(config).streams] == [("a", True), ("b", False)]
    stream_editor.change(config, stream_editor.pause("a", False))
    stream_editor.change(config, stream_editor.remove("b"))
    assert config.read_text().rstrip() == FILE.rstrip()


@pytest.mark.parametrize("text", [
    "", "streams = []\n", '[broker]\nhost = "x"\n',
    'streams = [{name = "a", url = "http://x/a.m3u8"}]\n[broker]\nport = 1\n',
])  # fmt: skip
def test_the_first_stream_finds_its_place_in_any_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "genre.toml"
    path.write_text(text)
    before = names(path)
    stream_editor.change(path, add("new"))
    assert names(path) == [*before, "new"]
    stream_editor.change(path, stream_editor.remove("new"))
    assert names(path) == before


def test_json_as_genre_up_writes_it_is_edited_too(tmp_path: Path) -> None:
    path = tmp_path / "genre.json"
    path.write_text(json.dumps({"broker": {"port": 1884}, "streams": []}))
    stream_editor.change(path, add("b"))
    assert names(path) == ["b"]


def test_changes_at_the_same_time_are_all_kept(config: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: stream_editor.change(config, add(f"s{i}")), range(40)))
    assert sorted(names(config)) == sorted(["a", *(f"s{i}" for i in range(40))])


def test_a_refused_edit_leaves_the_file_as_it_was(config: Path) -> None:
    for edit in (add("a"), stream_editor.pause("nobody", True), stream_editor.remove("nobody")):
        with pytest.raises(UsageError):
            stream_editor.change(config, edit)
    config.write_text(FILE + "[[[broken")
    with pytest.raises(UsageError, match="can't be edited"):
        stream_editor.change(config, add("b"))
    assert config.read_text() == FILE + "[[[broken"
    assert [path.name for path in config.parent.iterdir()] == ["genre.toml"], "no leftovers"


def test_mode_and_links_are_kept_and_a_missing_file_is_told(config: Path, tmp_path: Path) -> None:
    config.chmod(0o640)
    link = tmp_path / "link.toml"
    link.symlink_to(config)
    stream_editor.change(link, add("b"))
    assert link.is_symlink() and names(config) == ["a", "b"]
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    with pytest.raises(GenreError, match="is not there"):
        stream_editor.change(tmp_path / "none.toml", add("b"))


def genre(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "services.cli", *args], capture_output=True, text=True, timeout=60)


def test_the_command_lists_adds_and_refuses(config: Path) -> None:
    at = ("streams", "--config", str(config))
    assert genre(*at, "add", "b", "https://example.org/b.m3u8").returncode == 0
    assert [json.loads(line)["name"] for line in genre(*at, "list", "--json").stdout.splitlines()] == ["a", "b"]
    refused = genre(*at, "add", "c/d", "https://example.org/b.m3u8")
    assert refused.returncode == 2 and "name = 'c/d'" in refused.stderr
    assert genre("streams", "list").returncode == 2


# --- genre check-config -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "words"), [
    ("[brokr]\n", "did you mean 'broker'"),
    ("[broker]\nport = 70000\n", "broker.port = 70000"),
    ('[[streams]]\nname = "a"\n', "streams.0.url: Field required"),
    ('[[streams]]\nname = "a b"\nurl = "http://x"\n', "streams.0.name = 'a b'"),
    ("[hls\n", "is not TOML"),
    ('[broker]\npassword_file = "/nonexistent"\n', "broker.password_file: /nonexistent can't be read"),
    ('[inference]\nmodel = "nope"\n', "inference.model: 'nope'"),
    ('[dashboard]\nhost = "0.0.0.0"\n', "dashboard.password_file"),
    ('[[streams]]\nname = "a"\nurl = "http://user:pw@x/"\n', "headers_file"),
])  # fmt: skip
def test_a_wrong_configuration_is_told_by_key_and_reason(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "genre.toml"
    path.write_text(text)
    done = genre("check-config", str(path))
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr and "pw@" not in done.stderr


def test_the_documents_are_those_of_the_settings() -> None:
    from tools import configuration_documents as documents

    assert documents.DOCS.joinpath("configuration.md").read_text() == documents.page(), "run 'make configuration'"
    assert documents.DOCS.joinpath("configuration.schema.json").read_text() == documents.schema()


def test_the_schema_accepts_and_refuses_what_the_settings_do(config: Path) -> None:
    import jsonschema
    import tomlkit

    from tools.configuration_documents import schema

    checker = jsonschema.Draft202012Validator(json.loads(schema()))
    checker.validate(tomlkit.parse(FILE).unwrap())
    for wrong in ({"brokr": {}}, {"broker": {"port": 0}}, {"streams": [{"name": "a"}]}, {"log": {"level": "loud"}}):
        assert list(checker.iter_errors(wrong)), wrong
