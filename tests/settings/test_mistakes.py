"""Mistakes that people make in a configuration: each is named in words, or understood; nothing is ignored silently."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.errors import GenreError, UsageError
from services.settings import check, headers_file, loading, stream_editor
from services.settings.environment import over
from services.settings.schema import Inference, Settings, Stream

STREAM = stream_editor.stream_of({"name": "r", "url": "http://example.org/r.m3u8"})
UNSHARE = shutil.which("unshare")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[streams]\nname="a"\nurl="http://x/a.m3u8"\n', "streams = .*list of tables: write [[streams]] before each"),
        ('streams = "radio"\n', "is a list of tables: write [[streams]] before each"),
        ('streams = ["http://x/a.m3u8"]\n', "streams.0 = 'http://x/a.m3u8': is a table with keys of its own"),
        ('[[broker]]\nhost="x"\n', "broker = .*is one table: write [broker], and its keys below it"),
        ('broker = "x"\n', "is one table: write [broker]"),
        ('[[stream]]\nname="a"\n', "stream: is not a setting; did you mean 'streams'?"),
        ('[hls]\nsegment_retry = 3\n', "hls.segment_retry = 3: is one table"),
        ('[dashboard]\nhosts="genre.local"\n', 'dashboard.hosts = \'genre.local\': is a list: write ["..."]'),
        ('[broker]\nusername = 5\n', "broker.username = 5: is text: write it in quotes"),
        ('[[streams]]\nname="Café"\nurl="http://x/a.m3u8"\n', "streams.0.name = 'Café': is no name: letters, digits"),
        ('[[streams]]\nname="a"\nurl="rtsp://x/a"\n', "streams.0.url = 'rtsp://x/a': is no http or https URL"),
        ('[[streams]]\nname="a"\nurl="x"\n', "streams.0.url = 'x': is no http or https URL"),
        ("[hls]\nread_timeout_s=nan\n", "hls.read_timeout_s = nan: .*finite number"),
        ("[hls]\nread_timeout_s=inf\n", "hls.read_timeout_s = inf: .*finite number"),
        ('[broker]\ncert_file="x"\n', "broker.cert_file: is not a setting; did you mean 'certificate_file'?"),
        ('[broker]\nhost="mqtt://me:secret@x"\n', "'mqtt://...@x'"),
        ('[inference]\ntriton_url="http://x:8001"\n', "inference.triton_url = 'http://x:8001': is no host:port"),
        ('[inference]\ntriton_url="x:99999"\n', "is no host:port"),
        ('[inference]\nwait_for_reader="A"\n', "inference.wait_for_reader"),
        ('[paths]\nstate_dir="a\\u0000b"\n', r"'a\x00b' holds a character that no name of a file can have"),
        ('[broker]\nhots="x"\n', "broker.hots: is not a setting; did you mean 'host'?"),
        ("broker:\n  host: x\n", "is not TOML"),
        ('[paths]\nstate_dir = "C:\\Users\\x"\n', "write a path with backslashes in single quotes"),
        ("a = 1\x00", "is not TOML"),
    ],
)  # fmt: skip
def test_a_wrong_shape_is_told_in_words(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "genre.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        loading.load(path)
    assert re.search(".*".join(map(re.escape, words.split(".*"))), str(caught.value)), str(caught.value)
    assert "secret" not in str(caught.value)
    assert "Input should be a valid" not in str(caught.value) and "\n" not in str(caught.value)


def test_backslashes_and_a_file_that_is_not_there_are_named_when_streams_are_added(tmp_path: Path) -> None:
    path = tmp_path / "genre.toml"
    with pytest.raises(GenreError, match=r"genre\.toml: is not there; give the --config that the services have"):
        stream_editor.change(path, stream_editor.add(STREAM))
    path.write_text('[paths]\nstate_dir = "C:\\Users\\x"\n')
    with pytest.raises(GenreError, match="write a path with backslashes in single quotes"):
        stream_editor.change(path, stream_editor.add(STREAM))


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("[hls]\nread_timeout_s = 10000\n", "hls.read_timeout_s = 10000: times are in seconds, so this is 167 minutes"),
        ("[fetcher]\nack_timeout_s = 3000\n", "fetcher.ack_timeout_s = 3000: times are in seconds"),
        ('[[streams]]\nname="Radio"\nurl="http://x/a"\n[[streams]]\nname="radio"\nurl="http://x/b"\n',
         "'Radio' and 'radio' differ by case alone"),
        ("[hls]\nread_timeout_s = 60\nended_reload_s = 3600\n", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_what_is_allowed_and_looks_like_a_slip_is_noted_and_no_error(text: str, note: str, tmp_path: Path) -> None:
    path = tmp_path / "genre.toml"
    path.write_text(text + f'[paths]\nstate_dir = "{tmp_path}"\n')
    done = CliRunner().invoke(check.check_config, [str(path)])
    assert done.exit_code == 0 and "good (" in done.output
    assert note in done.output and ("note: " in done.output) == bool(note)


def test_what_windows_editors_write_is_read_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "genre.toml"
    path.write_bytes(b'\xef\xbb\xbf# mine\r\n[broker]\r\nhost = "a" # here\r\n')
    stream_editor.change(path, stream_editor.add(STREAM))
    after = path.read_bytes()
    assert after.startswith(b'\xef\xbb\xbf# mine\r\n[broker]\r\nhost = "a" # here\r\n')
    assert after.count(b"\n") == after.count(b"\r\n") > 3 and after.count(b"\xef\xbb\xbf") == 1
    assert [stream.name for stream in loading.load(path).streams] == ["r"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[broker]\nhost="a"\n'.encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (b'# caf\xe9\n', "is not UTF-8"),
        (b"#" * (9 << 20), "is longer than 8,388,608 bytes"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "genre.toml"
    path.write_bytes(content)
    for attempt in (lambda: loading.load(path), lambda: stream_editor.change(path, stream_editor.add(STREAM))):
        with pytest.raises(UsageError, match=words):
            attempt()
    assert path.read_bytes() == content


def test_a_file_without_an_end_is_not_read_to_it() -> None:
    with pytest.raises(UsageError, match="/dev/zero: is longer"):
        loading.load(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GENRE_BROKER_HOST", "GENRE_BROKER__HOST"),
        ("GENRE_BROKR__HOST", "GENRE_BROKER__HOST"),
        ("genre_brokr__host", "GENRE_BROKER__HOST"),
        ("GENRE_BROKER_PASSWORD_FILE", "GENRE_BROKER__PASSWORD_FILE"),
        ("GENRE_STREAM", "GENRE_STREAMS"),
        ("GENRE_DASHBOARD_PORT", "GENRE_DASHBOARD__PORT"),
        ("GENRE_XYZZY__QQ", "one of GENRE_BROKER__KEY"),
    ],
)
def test_a_misspelt_variable_is_named_with_the_one_that_is_meant(name: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        over({}, {name: "x"}, Settings)
    assert str(caught.value).startswith(f"{name}: is no setting; write {meant}")


def test_variables_that_are_like_no_setting_are_left_alone() -> None:
    others = dict.fromkeys(
        ("GENRE_CONFIG", "GENRE_WEB", "GENRE_WHEELHOUSE", "GENRE_TRITON", "GENRE_HOME", "GENRES"), "1"
    )
    assert over({}, others, Settings) == {}


@pytest.mark.skipif(UNSHARE is None or os.getuid() != 0, reason="mounting needs root and unshare")
@pytest.mark.parametrize("text", ["", "[broker]\nport = 1884\n" + "# long\n" * 50])
def test_a_single_file_that_is_mounted_is_changed_in_place(text: str, tmp_path: Path) -> None:
    (tmp_path / "host.toml").write_text(
        text + '[[streams]]\nname = "long_name_here"\nurl = "http://example.org/x.m3u8"\n'
    )
    (tmp_path / "inside.toml").touch()
    genre = f"{sys.executable} -m services.cli streams --config inside.toml"
    script = f"mount --bind host.toml inside.toml && {genre} remove long_name_here && {genre} add r http://example.org/r.m3u8"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [str(UNSHARE), "-m", "sh", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    if "mount" in done.stderr:
        pytest.skip(f"mounting is not allowed here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    after = (tmp_path / "host.toml").read_text()
    assert after.startswith(text) and [s.name for s in loading.load(tmp_path / "host.toml").streams] == ["r"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["host.toml", "inside.toml"]


def test_the_model_is_found_from_anywhere_as_genre_up_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()  # somebody's other models
    wrong = list(check.findings(Settings()))
    assert not [line for line in wrong if "model" in line], wrong
    nowhere = Settings(inference=Inference(model="nope"))
    assert [line for line in check.findings(nowhere) if line.startswith("inference.model: 'nope' is not in /")]
    assert Inference(models_dir=tmp_path / "models").models_path == tmp_path / "models"


def test_the_missing_file_of_a_password_names_its_own_key(tmp_path: Path) -> None:
    config = loading.checked({"dashboard": {"password_file": str(tmp_path / "pw")}}, "test")
    assert f"dashboard.password_file: {tmp_path}/pw can't be read (No such file or directory)" in check.findings(config)
    path = tmp_path / "genre.toml"
    path.write_text(f'[dashboard]\nport = 1\npassword_file = "{tmp_path}/pw"\n')
    argv = [sys.executable, "-m", "services.cli", "dashboard", "--config", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.rstrip().endswith("check dashboard.password_file")


@pytest.mark.parametrize(("text", "wrong"), [
    ("# mine\n\n  # indented\nReferer: x\nX-Empty:\n", None), ("\ufeffReferer: x\r\n", None), ("Referer\n", "line 1"),
    ("A: b\nbad name: x\n", "line 2"), ("Authorization: Bär\u0100\n", "line 1"),
])  # fmt: skip
def test_a_file_of_headers_means_the_same_to_check_config_and_to_the_fetcher(
    text: str, wrong: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "headers"
    path.write_text(text, encoding="utf-8")
    stream = Stream(name="a", url="http://x/a.m3u8", headers_file=path)
    found = [line for line in check.findings(Settings(streams=(stream,))) if "headers_file" in line]
    if wrong is None:
        assert found == [] and headers_file.read_headers(stream)
    else:
        assert len(found) == 1 and wrong in found[0]
        with pytest.raises(UsageError, match=wrong):
            headers_file.read_headers(stream)


def test_blanks_that_were_pasted_around_a_url_are_no_part_of_it() -> None:
    assert stream_editor.stream_of({"name": "a", "url": " http://x/a.m3u8\t\n"}).url == "http://x/a.m3u8"
    with pytest.raises(UsageError, match="http or https URL"):
        stream_editor.stream_of({"name": "a", "url": "http://"})
