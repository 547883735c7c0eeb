"""First bytes tell what a URL gives; what is neither HLS nor audio is refused at once, by its name."""

from __future__ import annotations

import threading

import pytest

from services.errors import GenreError
from services.fetcher.continuous.detection import MOST_HEAD, what_is
from tests.fetcher.builders import ffmpeg, listen, needs_ffmpeg
from tests.fetcher.http.asking import raw_server
from tests.fetcher.origin import Reply, ScriptedOrigin, expect_within

TONE = ("-f", "lavfi", "-i", "sine=frequency=440:duration=3")
MADE = {
    "mp3": ("-c:a", "libmp3lame", "-f", "mp3"),
    "mp3 without tags": ("-c:a", "libmp3lame", "-write_xing", "0", "-id3v2_version", "0", "-f", "mp3"),
    "aac": ("-c:a", "aac", "-f", "adts"),
    "ogg vorbis": ("-c:a", "libvorbis", "-f", "ogg"),
    "ogg opus": ("-c:a", "libopus", "-f", "ogg"),
    "ogg flac": ("-c:a", "flac", "-f", "ogg"),
    "flac": ("-c:a", "flac", "-f", "flac"),
}


@pytest.fixture(scope="module")
def audio() -> dict[str, bytes]:
    return {name: ffmpeg(*TONE, *options, "-") for name, options in MADE.items()}


@needs_ffmpeg
@pytest.mark.parametrize("name", MADE)
def test_every_kind_of_audio_is_known_by_few_bytes(name: str, audio: dict[str, bytes]) -> None:
    data = audio[name]
    needed = next(n for n in range(0, len(data), 16) if what_is(data[:n]))
    found = what_is(data[:needed])
    assert found and (found.kind, found.what) == ("audio", name.split()[0])
    assert needed <= 4_096


@needs_ffmpeg
@pytest.mark.parametrize("name", ["mp3 without tags", "aac"])
def test_audio_is_known_when_one_joins_in_the_middle_of_a_frame(name: str, audio: dict[str, bytes]) -> None:
    for skip in range(700, 1_500, 37):
        found = what_is(audio[name][skip : skip + MOST_HEAD])
        assert found and (found.kind, found.what) == ("audio", name.split()[0]), skip


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:6\n", "hls", "HLS"),
        (b"\xef\xbb\xbf#EXTM3U\n#EXT-X-VERSION:3\n", "hls", "HLS"),
        (b"#EXTM3U\n#EXTINF:10,\nseg0.ts\n#EXTINF:9.5,\nseg1.ts\n", "hls", "HLS"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,Low \x1d\x00\x07\na.ts\n", "hls", "HLS"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6," + b"\xe4\xf6\xfc" * 40 + b"\na.ts\n", "hls", "HLS"),
        (b"#EXTM3U\n#EXTINF:-1,Some Station\nhttp://h/stream\n", "list", ".m3u"),
        (b"#EXTM3U\n#EXTINF:213,A song\nhttp://h/song.ogg\n", "list", ".m3u"),
        (b"http://h/stream\n", "list", ".m3u"),
        (b"# comment\nhttps://h/list.m3u8\n", "list", ".m3u"),
        (b"[playlist]\nFile1=http://h/stream\n", "list", ".pls"),
        (b'<?xml version="1.0"?><playlist xmlns="http://xspf.org/ns/0/"><trackList/></playlist>', "list", ".xspf"),
        (b'<ASX version="3"><Entry><Ref href="http://h/s"/></Entry></ASX>', "list", ".asx"),
        (b"<!doctype html><html>hi</html>", "other", "HTML"),
        (b'<?xml version="1.0"?><MPD></MPD>', "other", "DASH"),
        (b"<a>", "other", "HTML page or XML"),
        (b'{"error": "not here"}', "other", "not here"),
        (b"", "other", "empty"),
        (b"RIFF\0\0\0\0WAVEfmt ", "other", "WAV"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "other", "Windows Media"),
        (b"\0\0\0\x20ftypisom", "other", "MP4"),
        ((b"\x47" + b"\0" * 187) * 4, "other", "transport stream"),
        (b"\x89PNG\r\n\x1a\n", "other", "picture"),
        (b"OggS\0\x02" + b"\0" * 20 + b"\x01\x08Speex   ", "other", "Speex"),
        (b"ID3\x04\0\0\0\0\0\x01x", "other", "ID3"),
        (bytes(range(128, 256)) * 4, "other", "it begins 80 81"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_everything_else_has_a_name(body: bytes, kind: str, words: str) -> None:
    found = what_is(body, complete=True)
    assert found and found.kind == kind and words in found.words
    assert found.words.isprintable()


def test_sixteen_kilobytes_are_always_enough() -> None:
    for filler in (b"\0", b"\xff", b"\xff\xfb", b"a", b"<", b"\n", b"OggS", b"ID3\x04\0\0", b"G", b"#"):
        assert what_is((filler * MOST_HEAD)[:MOST_HEAD]) is not None


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"\x00\x01\x02\x80" * 8_192, "binary data"),
        (b"\x1a\x45\xdf\xa3" * 4_096, "WebM"),
        (b"no such station " * 1_024, "text that is no playlist"),
    ],
    ids=["unknown", "webm", "text"],
)
def test_an_endless_response_of_something_else_is_refused_within_seconds(
    origin: ScriptedOrigin, body: bytes, says: str
) -> None:
    origin.put("/live", Reply(body, endless=True))
    with expect_within(4), pytest.raises(GenreError, match=says) as caught:
        listen(origin.url("/live"))
    assert "/live" in str(caught.value) and ".pls" in str(caught.value)
    assert origin.count("/live") == 1


def test_a_few_bytes_and_then_silence_are_judged_by_what_came(origin: ScriptedOrigin) -> None:
    done = threading.Event()

    def answer(sock: object) -> None:
        sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n\x01\x02\x03")  # type: ignore[attr-defined]
        done.wait(5)

    with raw_server(answer) as port, expect_within(4), pytest.raises(GenreError):
        listen(f"http://127.0.0.1:{port}/x", read_timeout_s=0.3)
    done.set()


@needs_ffmpeg
def test_content_types_and_names_are_not_believed(origin: ScriptedOrigin, audio: dict[str, bytes]) -> None:
    origin.put("/list.m3u8", Reply(audio["aac"], headers={"Content-Type": "application/vnd.apple.mpegurl"}))
    assert len(listen(origin.url("/list.m3u8")).pcm()) > 60_000
