"""Music files to HLS: what comes out decodes to what went in, and bad files are named, not fatal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import m3u8
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from services.errors import GenreError, UsageError
from services.origin.packager import (
    SUFFIX,
    Packaged,
    Packaging,
    package,
    package_each,
    package_file,
    package_folder,
    stream_name,
)
from services.origin.packed_audio import timestamp_tag
from tests.origin.conftest import RATE, write_flac


def decoded(playlist: Path) -> tuple[np.ndarray, list[Path]]:
    """Decode a variant as a player would: init section and segments one after the other."""
    master = m3u8.loads(playlist.read_text())
    media_file = playlist.parent / master.playlists[0].uri
    media = m3u8.loads(media_file.read_text())
    assert media.is_endlist
    files = [media_file.parent / segment.uri for segment in media.segments]
    init = [media_file.parent / media.segments[0].init_section.uri] if media.segments[0].init_section else []
    whole = media_file.with_name("whole")
    whole.write_bytes(b"".join(file.read_bytes() for file in [*init, *files]))
    with av.open(str(whole)) as container:
        frames = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    for segment in media.segments:
        assert segment.duration <= media.target_duration + 0.5
    return np.concatenate(frames), files


@pytest.mark.parametrize("kind", list(SUFFIX))
def test_every_format_decodes_to_the_same_music(kind: str, tmp_path: Path) -> None:
    source = write_flac(tmp_path / "tone.flac", 7.3, 440)
    sound, files = decoded(package_file(source, tmp_path / "out", "tone", Packaging(2.0, (128,), kind)))
    assert [file.suffix for file in files] == [f".{SUFFIX[kind]}"] * len(files)
    assert len(files) == 4
    # AAC adds 1,024 samples of priming and fills its last frame.
    assert 0 <= len(sound) - int(7.3 * RATE) <= 3 * 1024
    spectrum = np.abs(np.fft.rfft(sound[RATE : 3 * RATE]))
    assert int(spectrum.argmax()) == 880


def test_each_packed_segment_tells_its_timestamp(tmp_path: Path) -> None:
    source = write_flac(tmp_path / "tone.flac", 5)
    package_file(source, tmp_path / "out", "tone", Packaging(2.0, (96,), "aac"))
    first, second = ((tmp_path / "out/tone/96k" / name).read_bytes() for name in ("0000.aac", "0001.aac"))
    assert first.startswith(timestamp_tag(900_000))
    assert second.startswith(timestamp_tag(900_000 + 86 * 1024 * 90_000 // RATE))


def test_two_bit_rates_are_two_variants(tmp_path: Path) -> None:
    source = write_flac(tmp_path / "tone.flac", 3)
    master = m3u8.loads(package_file(source, tmp_path / "out", "tone", Packaging(2.0, (64, 128))).read_text())
    assert [variant.uri for variant in master.playlists] == ["tone/64k/audio.m3u8", "tone/128k/audio.m3u8"]
    assert all(variant.stream_info.codecs == "mp4a.40.2" for variant in master.playlists)


def test_titles_stand_in_the_playlist_on_one_line(tmp_path: Path) -> None:
    source = write_flac(tmp_path / "tone.flac", 3, title="A\n#EXT-X-ENDLIST\nB", artist="C")
    package_file(source, tmp_path / "out", "tone", Packaging())
    text = (tmp_path / "out/tone/128k/audio.m3u8").read_text()
    assert "C - A #EXT-X-ENDLIST B\n" in text
    assert text.count("\n#EXT-X-ENDLIST") == 1


def test_a_second_run_does_nothing_and_a_changed_file_is_made_again(tmp_path: Path) -> None:
    source = write_flac(tmp_path / "tone.flac", 3)
    master = package_file(source, tmp_path / "out", "tone", Packaging())
    stamp = master.stat().st_mtime_ns
    package_file(source, tmp_path / "out", "tone", Packaging())
    assert master.stat().st_mtime_ns == stamp
    write_flac(source, 4)
    package_file(source, tmp_path / "out", "tone", Packaging())
    assert master.stat().st_mtime_ns != stamp
    package_file(source, tmp_path / "out", "tone", Packaging(format="fmp4"))
    assert not list((tmp_path / "out/tone/128k").glob("*.ts"))


def test_bad_files_are_left_out_with_a_reason(tmp_path: Path) -> None:
    write_flac(tmp_path / "good.flac", 2)
    (tmp_path / "garbage.mp3").write_bytes(np.random.default_rng(1).bytes(50_000))
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "page.html").write_text("<html>")
    (tmp_path / "notes.txt").write_text("not tried")
    write_flac(tmp_path / "blink.flac", 0.05)
    whole = write_flac(tmp_path / "cut.flac", 10).read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    result = package_folder(tmp_path, tmp_path / "hls")
    assert sorted(result.names.values()) == ["cut", "good"]
    assert sorted(file.name for file in result.skipped) == ["blink.flac", "empty.wav", "garbage.mp3", "page.html"]
    assert not (tmp_path / "hls" / "blink").exists()
    # What was made is not taken for music the next time.
    assert package_folder(tmp_path, tmp_path / "hls").names == result.names


@pytest.mark.parametrize("kind", list(SUFFIX))
def test_folders_may_have_any_name(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    song = write_flac(tmp_path / "song.flac", 2).read_bytes()
    for folder in (b"50%d", b"AC:DC", b"caf\xe9", b"pipe:1", b"a\nb", b"%s%n ?#[x]"):
        album = Path(os.fsdecode(folder))
        album.mkdir()
        (album / "song.flac").write_bytes(song)
        out = album / "hls"
        assert package_folder(album, out, Packaging(1.0, (64,), kind, "fast")).names == {album / "song.flac": "song"}
        listed = m3u8.loads((out / "song/64k/audio.m3u8").read_text())
        assert len(listed.segments) > 1
        assert all((out / "song/64k" / segment.uri).is_file() for segment in listed.segments)
    assert len(list(tmp_path.iterdir())) == 7


def test_what_lies_beside_the_music_does_not_count_against_it(tmp_path: Path) -> None:
    write_flac(tmp_path / "song.flac", 2)
    for number in range(30):
        (tmp_path / f"a{number}.lrc").write_text("[ti:x]")
        (tmp_path / f"a{number}.strange").write_text("what is this")
    result = Packaged()
    for _ in package_each(tmp_path, tmp_path / "hls", Packaging(coder="fast"), result, most=1):
        pass
    assert list(result.names.values()) == ["song"] and len(result.skipped) == 30


def test_names_that_clash_are_numbered(tmp_path: Path) -> None:
    for name in ("a b.flac", "a_b.flac", "sub/A_B.flac"):
        write_flac(tmp_path / name, 1)
    names = package_folder(tmp_path, tmp_path / "hls").names.values()
    assert sorted(name.casefold() for name in names) == ["a_b", "a_b_2", "a_b_3"]


@given(st.text(max_size=80).filter(lambda name: "/" not in name and "\0" not in name and name not in ("", ".", "..")))
@settings(max_examples=200, deadline=None)
def test_any_file_name_becomes_a_stream_name(name: str) -> None:
    import re

    from services.settings.schema import NAME_PATTERN

    assert re.match(NAME_PATTERN, stream_name(Path(name)))


def test_the_command_names_what_it_skipped_and_prints_playlists(tmp_path: Path) -> None:
    write_flac(tmp_path / "good.flac", 2)
    (tmp_path / "bad.mp3").write_bytes(b"no music" * 100)
    done = CliRunner().invoke(package, [str(tmp_path), "--out", str(tmp_path / "o"), "--segment-s", "1"])
    assert done.exit_code == 0
    assert done.stdout == f"{tmp_path / 'o' / 'good.m3u8'}\n"
    assert "skipped bad.mp3" in done.stderr


def test_no_music_no_folder_and_no_room_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        package_folder(tmp_path / "nowhere", tmp_path / "o")
    with pytest.raises(GenreError, match="holds no music"):
        package_folder(tmp_path, tmp_path / "o")
    write_flac(tmp_path / "good.flac", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(GenreError, match="can't be written"):
        package_folder(tmp_path, tmp_path / "file" / "o")


def test_a_folder_in_any_bytes_is_printed_as_it_is_called(tmp_path: Path) -> None:
    album = os.fsencode(tmp_path) + b"/caf\xe9"
    write_flac(tmp_path / "song.flac", 1)
    Path(os.fsdecode(album)).mkdir()
    (tmp_path / "song.flac").rename(os.fsdecode(album + b"/n\xf8rd.flac"))
    (Path(os.fsdecode(album)) / os.fsdecode(b"b\xe4d.mp3")).write_bytes(b"no music" * 100)
    argv = [sys.executable, "-m", "services.cli", "package", album]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, album + b"/hls/n_rd.m3u8\n"), done.stderr
    assert done.stderr.decode().startswith("skipped b\ufffdd.mp3: can't be read as audio")
