"""Traps of real streams, each made on purpose: encryption, byte ranges, changing sections, clocks, metadata."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from services.errors import GenreError
from services.fetcher.events import Ended, Track
from services.fetcher.media.decoder import Decoder
from tests.fetcher.builders import (
    Listened,
    ffmpeg,
    frames_of,
    id3,
    id3_timestamp,
    listen,
    listener,
    media_playlist,
    needs_ffmpeg,
)
from tests.fetcher.origin import Reply, ScriptedOrigin, expect_within
from tests.shared_data import shared

pytestmark = needs_ffmpeg


def names_in(folder: Path) -> list[str]:
    return [line for line in (folder / "list.m3u8").read_text().splitlines() if line and line[0] != "#"]


def encrypted(data: bytes, key: bytes, iv: bytes) -> bytes:
    padding = 16 - len(data) % 16
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return encryptor.update(data + bytes([padding]) * padding) + encryptor.finalize()


def plain_of(folder: Path, origin: ScriptedOrigin) -> Listened:
    origin.serve(folder, "/plain/")
    return listen(origin.url("/plain/list.m3u8"))


def test_aes_128_with_iv_from_sequence_explicit_iv_rotation_and_none(made: Any, origin: ScriptedOrigin) -> None:
    folder = made("ts-aac")
    whole = plain_of(folder, origin)
    keys = [os.urandom(16) for _ in range(2)]
    iv = os.urandom(16)
    data = [(folder / name).read_bytes() for name in names_in(folder)]
    ivs = [(7).to_bytes(16, "big"), iv, (9).to_bytes(16, "big"), None, None]
    for number, (body, vector) in enumerate(zip(data, ivs, strict=True)):
        origin.put(f"/{number}.ts", encrypted(body, keys[min(number, 1)], vector) if vector else body)
    origin.put("/k0", keys[0])
    origin.put("/k1", keys[1])
    before = {
        0: '#EXT-X-KEY:METHOD=AES-128,URI="k0"',
        1: f'#EXT-X-KEY:METHOD=AES-128,URI="k1",IV=0x{iv.hex()}',
        2: '#EXT-X-KEY:METHOD=AES-128,URI="k1",KEYFORMAT="identity"',
        3: "#EXT-X-KEY:METHOD=NONE",
    }
    origin.put("/list.m3u8", media_playlist([f"{n}.ts" for n in range(5)], first=7, before=before))
    heard = listen(origin.url("/list.m3u8"))
    assert np.array_equal(heard.pcm(), whole.pcm()) and heard.reasons == ["start"]
    assert (origin.count("/k0"), origin.count("/k1")) == (1, 1)


@pytest.mark.parametrize("name", ["ts-aac", "ts-mp3", "fmp4-aac", "packed-aac"])
def test_a_discontinuity_before_every_segment_changes_nothing_where_nothing_changes(
    made: Any, origin: ScriptedOrigin, name: str
) -> None:
    whole = plain_of(made(name), origin)
    text = (made(name) / "list.m3u8").read_text()
    assert text.count("#EXTINF") > 3
    origin.put("/plain/everywhere.m3u8", text.replace("#EXTINF", "#EXT-X-DISCONTINUITY\n#EXTINF"))
    heard = listen(origin.url("/plain/everywhere.m3u8"))
    assert np.array_equal(heard.pcm(), whole.pcm()) and heard.reasons == ["start"] and not heard.gaps
    heard.check_ledger()


def test_a_changed_key_under_the_same_uri_is_fetched_again(made: Any, origin: ScriptedOrigin) -> None:
    folder = made("ts-aac")
    whole = plain_of(folder, origin)
    keys = [os.urandom(16) for _ in range(2)]
    for number, name in enumerate(names_in(folder)):
        body = (folder / name).read_bytes()
        origin.put(f"/{number}.ts", encrypted(body, keys[number >= 2], number.to_bytes(16, "big")))
    origin.put("/k", [keys[0], keys[1]])
    before = {0: '#EXT-X-KEY:METHOD=AES-128,URI="k"'}
    origin.put("/list.m3u8", media_playlist([f"{n}.ts" for n in range(5)], before=before))
    assert np.array_equal(listen(origin.url("/list.m3u8")).pcm(), whole.pcm())


@pytest.mark.parametrize("key", [b"short", b"x" * 16, b"x" * 17, Reply(b"", 404), Reply(b"x" * 5000)])
def test_a_key_that_is_wrong_missing_or_huge_is_a_gap_not_noise(key: Any, made: Any, origin: ScriptedOrigin) -> None:
    folder = made("ts-aac")
    names = names_in(folder)
    origin.serve(folder)
    origin.put("/bad.ts", encrypted((folder / names[1]).read_bytes(), os.urandom(16), bytes(16)))
    origin.put("/k", key)
    before = {1: '#EXT-X-KEY:METHOD=AES-128,URI="k"', 2: "#EXT-X-KEY:METHOD=NONE"}
    origin.put("/list.m3u8", media_playlist([names[0], "bad.ts", names[2]], before=before))
    heard = listen(origin.url("/list.m3u8"))
    (gap,) = heard.gaps
    assert gap.cause in ("decryption", "http-404", "too-large", "not-media", "undecodable", "no-audio")
    assert abs(gap.samples - 2 * 22_050) < 1_500 and heard.reasons == ["start", "gap"]


@pytest.mark.parametrize("method", ["SAMPLE-AES", "AES-256", "SAMPLE-AES-CTR", "X-SECRET"])
def test_what_cant_be_decrypted_is_refused_by_name_before_any_download(method: str, origin: ScriptedOrigin) -> None:
    before = {1: f'#EXT-X-KEY:METHOD={method},URI="k"'}
    origin.put("/list.m3u8", media_playlist(["a.ts", "b.ts"], before=before))
    with pytest.raises(GenreError, match=method):
        listen(origin.url("/list.m3u8"))
    assert len(origin.requests) == 1


def test_drm_and_the_shared_sample_aes_stream_are_refused_by_name(origin: ScriptedOrigin) -> None:
    origin.serve(shared("data", "hls-streams", "hls-sample-aes"))
    with pytest.raises(GenreError, match="SAMPLE-AES-CTR"):
        listen(origin.url("/index.m3u8"))
    key = '#EXT-X-KEY:METHOD=AES-128,URI="skd://x",KEYFORMAT="com.apple.streamingkeydelivery"'
    origin.put("/drm.m3u8", media_playlist(["a.ts"], before={0: key}))
    with pytest.raises(GenreError, match="DRM"):
        listen(origin.url("/drm.m3u8"))


@pytest.mark.parametrize("path", ["hls-gap/playlist.m3u8", "hls-interstitial/main.m3u8", "hls-chapters/media.m3u8"])
def test_a_shared_stream_of_video_alone_says_that_it_has_no_audio(path: str, origin: ScriptedOrigin) -> None:
    origin.serve(shared("data", "hls-streams", path).parent)
    with pytest.raises(GenreError, match="no audio"):
        listen(origin.url("/" + Path(path).name))


@pytest.mark.parametrize("name", ["ts-aac", "fmp4-aac", "packed-mp3"])
def test_byte_ranges_of_one_file_are_the_same_stream(name: str, made: Any, origin: ScriptedOrigin) -> None:
    folder = made(name)
    whole = plain_of(folder, origin)
    parts = [(folder / part).read_bytes() for part in names_in(folder)]
    init = (folder / "init.mp4").read_bytes() if name.startswith("fmp4") else b""
    origin.put("/all", init + b"".join(parts))
    at, before = len(init), {}
    for number, part in enumerate(parts):
        explicit = f"@{at}" if number % 2 == 0 else ""
        before[number] = f"#EXT-X-BYTERANGE:{len(part)}{explicit}"
        at += len(part)
    head = f'#EXT-X-MAP:URI="all",BYTERANGE="{len(init)}@0"' if init else ""
    origin.put("/list.m3u8", media_playlist(["all"] * len(parts), before=before, head=head))
    heard = listen(origin.url("/list.m3u8"))
    assert np.array_equal(heard.pcm(), whole.pcm()) and heard.reasons == ["start"]


def test_a_map_that_changes_in_mid_list_opens_an_epoch_and_keeps_every_sample(
    made: Any, origin: ScriptedOrigin
) -> None:
    origin.serve(made("fmp4-aac"), "/a/")
    origin.serve(made("fmp4-aac", rate=48_000), "/b/")
    a, b = (names_in(made("fmp4-aac", **more)) for more in ({}, {"rate": 48_000}))
    names = [f"a/{n}" for n in a[:2]] + [f"b/{n}" for n in b[:2]]
    before = {0: '#EXT-X-MAP:URI="a/init.mp4"', 2: '#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI="b/init.mp4"'}
    origin.put("/list.m3u8", media_playlist(names, before=before))
    heard = listen(origin.url("/list.m3u8"))
    assert heard.reasons == ["start", "discontinuity"]
    alone_a = listen(origin.url("/a/list.m3u8")).pcm()
    assert np.array_equal(heard.pcm(0)[:80_000], alone_a[:80_000])
    alone_b = listen(origin.url("/b/list.m3u8")).pcm()
    assert np.array_equal(heard.pcm(1)[:80_000], alone_b[:80_000])


def test_codecs_and_rates_that_change_at_a_discontinuity_are_each_heard_as_alone(
    made: Any, origin: ScriptedOrigin
) -> None:
    kinds = ["ts-aac", "ts-mp3", "ts-ac3", "packed-mp3", "ts-aac-48k"]
    names, before, alone = [], {}, []
    for number, kind in enumerate(kinds):
        folder = made(kind)
        origin.serve(folder, f"/{kind}/")
        before[len(names)] = "#EXT-X-DISCONTINUITY" if number else ""
        names += [f"{kind}/{name}" for name in names_in(folder)]
        alone.append(listen(origin.url(f"/{kind}/list.m3u8")).pcm())
    origin.put("/list.m3u8", media_playlist(names, before=before))
    heard = listen(origin.url("/list.m3u8"))
    assert heard.reasons == ["start"] + ["discontinuity"] * 4 and not heard.gaps
    for number, pcm in enumerate(alone):
        assert np.array_equal(heard.pcm(number), pcm)


def test_a_codec_that_changes_without_a_discontinuity_opens_an_epoch_too(made: Any, origin: ScriptedOrigin) -> None:
    origin.serve(made("ts-aac"), "/a/")
    origin.serve(made("ts-mp3"), "/b/")
    names = [f"a/{names_in(made('ts-aac'))[0]}", f"b/{names_in(made('ts-mp3'))[1]}"]
    origin.put("/list.m3u8", media_playlist(names))
    assert listen(origin.url("/list.m3u8")).reasons == ["start", "format"]


@pytest.mark.parametrize("container", ["ts", "packed"])
def test_a_clock_that_wraps_at_33_bits_is_no_gap(
    container: str, made: Any, origin: ScriptedOrigin, tmp_path: Path
) -> None:
    wrap = (1 << 33) / 90_000
    if container == "ts":
        source = made("ts-aac")
        names = names_in(source)
        whole = b"".join((source / name).read_bytes() for name in names)
        offset = ["-copyts", "-output_ts_offset", f"{wrap - 5:.6f}", "-mpegts_copyts", "1"]
        cut = ["-f", "hls", "-hls_time", "2", "-hls_list_size", "0", str(tmp_path / "list.m3u8")]
        ffmpeg("-f", "mpegts", "-i", "-", "-c", "copy", *offset, *cut, stdin=whole)
    else:
        source = made("packed-aac")
        text = (source / "list.m3u8").read_text()
        (tmp_path / "list.m3u8").write_text(text)
        at = (1 << 33) - 4 * 90_000
        for name in names_in(source):
            body = (source / name).read_bytes()
            start = len(id3_timestamp(0))
            (tmp_path / name).write_bytes(id3_timestamp(at) + body[start:])
            at += round(len(frames_of(body[start:], "adts")[0]) * 1024 / 44_100 * 90_000)
    origin.serve(tmp_path)
    heard = listen(origin.url("/list.m3u8"))
    assert heard.reasons == ["start"] and not heard.gaps
    assert abs(len(heard.pcm()) - 8 * 22_050) < 2_500


def test_titles_of_extinf_become_tracks_once(made: Any, origin: ScriptedOrigin) -> None:
    folder = made("ts-aac")
    origin.serve(folder)
    text = media_playlist(names_in(folder))
    titles = ["Miles Davis - So What", "Miles Davis - So What", 'title="Naima",artist="John Coltrane"', "list3.ts", ""]
    for title in titles:
        text = text.replace("#EXTINF:2,\n", f"#EXTINF:2.0,{title}\n", 1)
    origin.put("/list.m3u8", text)
    tracks = listen(origin.url("/list.m3u8")).tracks
    assert [(track.title, track.artist) for track in tracks] == [("So What", "Miles Davis"), ("Naima", "John Coltrane")]
    assert tracks[0].first_sample == 0 and abs(tracks[1].first_sample - 4 * 22_050) < 2_000


def test_id3_before_packed_audio_and_in_the_shared_transport_stream_become_tracks(
    made: Any, origin: ScriptedOrigin
) -> None:
    folder = made("packed-aac")
    origin.serve(folder)
    name = names_in(folder)[1]
    tag = id3(("TIT2", b"\x03Blue in Green\0"), ("TPE1", b"\x03Bill Evans"))
    origin.put("/" + name, tag + (folder / name).read_bytes())
    (track,) = listen(origin.url("/list.m3u8")).tracks
    assert (track.title, track.artist) == ("Blue in Green", "Bill Evans")
    assert abs(track.first_sample - 2 * 22_050) < 2_000
    origin.put("/id3.ts", shared("data", "hls-streams", "id3-metadata.ts").read_bytes())
    origin.put("/id3.m3u8", media_playlist(["id3.ts"], duration=5))
    heard = listen(origin.url("/id3.m3u8"))
    assert [t.title.split(" - ")[0] for t in heard.tracks] == ["Sam sobie jade", "FUKAJ SWEEPER"]
    assert [round(t.first_sample / 22_050, 1) for t in heard.tracks] == [3.4, 4.8]
    kinds = [type(item).__name__ for item in heard.items]
    assert kinds.index("Track") < kinds.index("Audio")  # a track comes before the audio it falls into
    assert isinstance(heard.items[kinds.index("Track")], Track)


@pytest.mark.parametrize("version", [0, 1])
def test_id3_in_an_emsg_box_becomes_a_track_at_its_time(version: int, made: Any, origin: ScriptedOrigin) -> None:
    folder = made("fmp4-aac")
    origin.serve(folder)
    name = names_in(folder)[1]
    scheme = b"https://aomedia.org/emsg/ID3\0\0"
    times = {0: struct.pack(">IIII", 1000, 500, 0, 7), 1: struct.pack(">IQII", 1000, 2_500, 0, 7)}[version]
    tag = id3(("TIT2", b"\x03Nardis"), ("TPE1", b"\x03Bill Evans"))
    body = bytes([version, 0, 0, 0]) + (times + scheme if version else scheme + times) + tag
    origin.put("/" + name, struct.pack(">I4s", 8 + len(body), b"emsg") + body + (folder / name).read_bytes())
    heard = listen(origin.url("/list.m3u8"))
    (track,) = heard.tracks
    assert (track.title, track.artist) == ("Nardis", "Bill Evans")
    assert track.first_sample / 22_050 == pytest.approx(2.5, abs=0.1)
    assert not heard.gaps and heard.reasons == ["start"]


def test_program_date_time_becomes_the_wall_clock_of_every_sample(made: Any, origin: ScriptedOrigin) -> None:
    folder = made("ts-aac")
    origin.serve(folder)
    before = {0: "#EXT-X-PROGRAM-DATE-TIME:2024-01-01T00:00:00Z"}
    origin.put("/list.m3u8", media_playlist(names_in(folder), before=before))
    for item in listen(origin.url("/list.m3u8")).audio:
        assert item.observed_at == pytest.approx(1704067200 + item.first_sample / 22_050, abs=0.1)


def test_an_edit_list_is_applied_once_at_the_start_of_an_epoch_only(made: Any, origin: ScriptedOrigin) -> None:
    folder = made("fmp4-aac")
    assert struct.pack(">4s", b"elst") in (folder / "init.mp4").read_bytes()
    origin.serve(folder)
    head = '#EXT-X-MAP:URI="init.mp4"'
    names = names_in(folder)
    origin.put("/whole.m3u8", media_playlist(names, head=head))
    origin.put("/later.m3u8", media_playlist(names[1:], head=head))
    whole, later = (listen(origin.url(f"/{name}.m3u8")) for name in ("whole", "later"))
    first = whole.audio[1].first_sample
    assert len(later.pcm()) - (len(whole.pcm()) - first) == pytest.approx(0, abs=1_200)
    assert not whole.gaps and whole.reasons == ["start"]


def test_a_slow_origin_never_delays_another_stream(made: Any, origin: ScriptedOrigin) -> None:
    origin.serve(made("ts-aac"))
    never, stop = threading.Event(), threading.Event()
    origin.put("/slow.m3u8", Reply(b"", hold=never))
    slow = [listener(origin.url("/slow.m3u8"), stop, read_timeout_s=30.0) for _ in range(20)]
    threads = [threading.Thread(target=lambda one=one: list(one.listen()), daemon=True) for one in slow]
    for thread in threads:
        thread.start()
    with expect_within(10):
        assert listen(origin.url("/list.m3u8")).ended is not None
    stop.set()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    never.set()


def test_streams_decode_in_turns(made: Any, origin: ScriptedOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that decode at once hand the interpreter's lock to and fro: a hundred cost ten times as much as one."""
    origin.serve(made("ts-aac"))
    real, at_work, most = Decoder.decode, 0, 0

    def watched(self: Decoder, packet: Any) -> int:
        nonlocal at_work, most
        if packet is None:  # the drain at a stream's end takes no time
            return real(self, packet)
        at_work += 1
        most = max(most, at_work)
        try:
            return real(self, packet)
        finally:
            at_work -= 1

    monkeypatch.setattr(Decoder, "decode", watched)
    streams = [listener(origin.url("/list.m3u8")) for _ in range(12)]
    ended: list[list[Ended]] = []
    threads = [
        threading.Thread(target=lambda one=one: ended.append([i for i in one.listen() if isinstance(i, Ended)]))
        for one in streams
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [len(one) for one in ended] == [1] * 12
    assert most == 1


def test_importing_the_listener_is_light() -> None:
    code = "import sys, services.fetcher.hls.reader; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"librosa", "scipy", "tensorflow", "paho"} & set(done.stdout.split())
