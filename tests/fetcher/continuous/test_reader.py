"""What stations do to a listener: each becomes audio, an epoch, a gap with its cause, or one clear error."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from services.errors import GenreError
from services.fetcher.events import Report, ResumePoint
from services.fetcher.media import frames
from services.fetcher.source import StreamSource
from services.settings.schema import Stream
from tests.fetcher.builders import ffmpeg, hls, listen, media_playlist, needs_ffmpeg
from tests.fetcher.continuous.hearing import Station, hear, oracle, same
from tests.fetcher.http.asking import raw_server
from tests.fetcher.origin import Reply, ScriptedOrigin, expect_within

pytestmark = needs_ffmpeg
HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n"
NOISE = "aevalsrc=0.4*sin(2*PI*(200+60*t)*t)+0.1*random(0)|0.3*sin(2*PI*(300+50*t)*t):s={rate}:d={seconds}"


def made(seconds: float, *options: str, rate: int = 44_100) -> bytes:
    return ffmpeg("-f", "lavfi", "-i", NOISE.format(rate=rate, seconds=seconds), *options, "-")


@pytest.fixture(scope="module")
def mp3() -> bytes:
    return made(8, "-c:a", "libmp3lame", "-b:a", "128k", "-write_xing", "0", "-id3v2_version", "0", "-f", "mp3")


@pytest.fixture(scope="module")
def aac() -> bytes:
    return made(6, "-c:a", "aac", "-b:a", "96k", "-f", "adts", rate=48_000)


@pytest.fixture(scope="module")
def opus() -> bytes:
    return made(4, "-c:a", "libopus", "-metadata", "title=One", "-f", "ogg", rate=48_000)


@pytest.fixture(scope="module")
def vorbis() -> bytes:
    return made(4, "-c:a", "libvorbis", "-metadata", "title=Two", "-metadata", "artist=A", "-f", "ogg")


Answer = Callable[[socket.socket], Any]


@contextmanager
def station(*answers: Answer) -> Iterator[str]:
    """A station that gives each listener the next answer, the last one again and again; yields its URL."""
    turns = itertools.chain(answers, itertools.repeat(answers[-1]))
    with raw_server(lambda sock: next(turns)(sock)) as port:
        yield f"http://127.0.0.1:{port}/live"


def sends(*parts: bytes, stays: threading.Event | None = None, lasts: float = 0.0) -> Answer:
    """Send and close; stays: not before this event; lasts: not before so many seconds, as a station that plays."""

    def answer(sock: socket.socket) -> None:
        for part in parts:
            sock.sendall(part)
        (stays or threading.Event()).wait(20 if stays is not None else lasts)

    return answer


@pytest.fixture
def for_ever() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def with_titles(audio: bytes, interval: int, *titles: str) -> bytes:
    """Put a metadata block after every so many bytes; an empty one where there are no titles left."""
    out = bytearray()
    left = list(titles)
    for at in range(0, len(audio), interval):
        out += audio[at : at + interval]
        block = f"StreamTitle='{left.pop(0)}';StreamUrl='';".encode() if left else b""
        out += bytes([-(-len(block) // 16)]) + block.ljust(-(-len(block) // 16) * 16, b"\0")
    return bytes(out)


# --- as stations are -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [4_096, 417, 16_000])
def test_shoutcast_1_and_its_titles(mp3: bytes, interval: int, for_ever: threading.Event) -> None:
    head = f"ICY 200 OK\r\nicy-name: Radio\r\nicy-br: 128\r\nicy-metaint:{interval}\r\n\r\n".encode()
    body = with_titles(mp3, interval, "Björk - Jóga", "Björk - Jóga", "It's - o'clock")
    with station(sends(head + body, stays=for_ever)) as url:
        heard = hear(url, lambda h: h.seconds > 5 and len(h.tracks) == 2)
    assert [(t.artist, t.title) for t in heard.tracks] == [("Björk", "Jóga"), ("It's", "o'clock")]
    assert same(heard.samples(0), oracle(mp3, "mp3"))
    chosen = heard.of(Report)[0]
    assert "MP3" in chosen.reason and "(Radio)" in chosen.reason and chosen.numbers == {"bandwidth_bps": 128_000}


def test_joining_in_the_middle_of_a_frame_gives_what_ffmpeg_gives(
    mp3: bytes, aac: bytes, for_ever: threading.Event
) -> None:
    for data, format in ((mp3[1_111:], "mp3"), (aac[777:], "aac")):
        with station(sends(HEAD + data, stays=for_ever)) as url:
            heard = hear(url, lambda h: h.seconds > 4)
        assert same(heard.samples(0), oracle(data, format))


def test_a_break_is_a_gap_of_the_time_away_and_another_codec_may_come_back(
    mp3: bytes, aac: bytes, for_ever: threading.Event
) -> None:
    mp3 = mp3[: len(mp3) // 8]
    with station(sends(HEAD, mp3, lasts=1.2), sends(HEAD, aac, stays=for_ever)) as url:
        began = time.monotonic()
        heard = hear(url, lambda h: h.seconds > 5)
        took = time.monotonic() - began
    [gap] = heard.gaps
    assert gap.cause == "closed" and 0 < gap.samples / 22_050 < took
    assert heard.reasons == ["start", "reconnected"]
    assert same(heard.samples(0), oracle(mp3, "mp3")) and len(heard.samples(0)) == len(oracle(mp3, "mp3"))
    assert same(heard.samples(1), oracle(aac, "aac"))


def test_another_rate_in_the_same_response_begins_an_epoch_without_a_gap(aac: bytes, for_ever: threading.Event) -> None:
    other = made(3, "-c:a", "aac", "-ac", "1", "-f", "adts", rate=22_050)
    with station(sends(HEAD + aac + other, stays=for_ever)) as url:
        heard = hear(url, lambda h: h.seconds > 7.5)
    assert heard.reasons == ["start", "format"] and not heard.gaps
    assert len(heard.samples(0)) == len(oracle(aac, "aac"))


def test_a_packet_that_changes_its_format_within_itself_is_left_out(aac: bytes, for_ever: threading.Event) -> None:
    """A broken length makes one frame of two: every new decoder finds two formats in it, again and again."""
    other = made(1, "-c:a", "aac", "-ac", "1", "-f", "adts", rate=22_050)
    cut = 0
    while cut < len(aac) // 2:
        header = frames.adts(aac, cut)
        assert header is not None
        cut += header.length
    first, second = frames.adts(aac, cut), frames.adts(other, 0)
    assert first is not None and second is not None
    head = int.from_bytes(aac[cut : cut + 7], "big") & ~(0x1FFF << 13) | (first.length + second.length) << 13
    joined = head.to_bytes(7, "big") + aac[cut + 7 : cut + first.length] + other[: second.length]
    with station(sends(HEAD + aac[:cut] + joined + aac[cut + first.length :], stays=for_ever)) as url:
        heard = hear(url, lambda h: h.seconds > 5)
    assert sum(piece.samples for piece in heard.gaps) / 22_050 < 0.1


def test_each_link_of_an_ogg_chain_is_heard_whatever_its_codec(
    opus: bytes, vorbis: bytes, for_ever: threading.Event
) -> None:
    with station(sends(HEAD + opus + vorbis + opus, stays=for_ever)) as url:
        heard = hear(url, lambda h: h.seconds > 9)
    assert heard.reasons[:3] == ["start", "link", "link"] and not heard.gaps
    assert [track.title for track in heard.tracks] == ["One", "Two", "One"]
    for epoch, data in ((0, opus), (1, vorbis)):
        assert same(heard.samples(epoch), oracle(data, "ogg")) and len(heard.samples(epoch)) == len(oracle(data, "ogg"))
    assert heard.tracks[1].first_sample == 4 * 22_050


def test_frames_that_do_not_decode_are_a_gap_and_the_position_goes_on(aac: bytes, for_ever: threading.Event) -> None:
    middle = len(aac) // 2
    broken = bytearray(aac)
    at = aac.index(b"\xff\xf1", middle)
    for _ in range(20):  # their headers stay, what they hold is noise
        length = (broken[at + 3] & 3) << 11 | broken[at + 4] << 3 | broken[at + 5] >> 5
        broken[at + 7 : at + length] = bytes(byte ^ 0xA5 for byte in broken[at + 7 : at + length])
        at += length
    with station(sends(HEAD + bytes(broken) + aac, stays=for_ever)) as url:
        heard = hear(url, lambda h: h.seconds > 9)
    lost = sum(gap.samples for gap in heard.gaps)
    assert {gap.cause for gap in heard.gaps} == {"undecodable"}
    assert 10 * 1_024 * 22_050 // 48_000 <= lost <= 30 * 1_024 * 22_050 // 48_000
    assert abs(heard.audio[-1].first_sample + len(heard.audio[-1].pcm) - lost - heard.seconds * 22_050) < 2


# --- servers that misbehave ------------------------------------------------------------------------------------------


def test_silence_is_a_break_named_timeout(mp3: bytes, for_ever: threading.Event) -> None:
    mp3 = mp3[: len(mp3) // 16]
    with station(sends(HEAD, mp3, stays=for_ever), sends(HEAD, mp3, stays=for_ever)) as url:
        heard = hear(url, lambda h: len(h.reasons) == 2, read_timeout_s=1.0)
    assert heard.gaps[0].cause == "timeout" and heard.gaps[0].samples > 0.4 * 22_050


def test_bytes_that_drip_too_slowly_for_any_audio_are_a_break_too(mp3: bytes) -> None:
    def drips(sock: socket.socket) -> None:
        sock.sendall(HEAD + mp3[: len(mp3) // 32])
        for byte in mp3[:400]:
            sock.sendall(bytes([byte]))
            time.sleep(0.02)

    with station(drips, sends(HEAD, mp3)) as url:
        heard = hear(url, lambda h: len(h.reasons) == 2, read_timeout_s=1.0)
    assert heard.gaps[0].cause == "timeout" and "no audio came" in heard.gaps[0].detail


def test_a_page_in_between_is_waited_out_and_one_that_stays_is_an_error(mp3: bytes) -> None:
    page = sends(b"HTTP/1.0 200 OK\r\n\r\n<html>log in</html>")
    with station(sends(HEAD, mp3), page, sends(HEAD, mp3)) as url:
        heard = hear(url, lambda h: len(h.reasons) == 2)
        assert heard.reports == ["chosen", "disconnected", "recovered"]
    with station(sends(HEAD, mp3), page) as url, pytest.raises(GenreError, match="HTML page by now"):
        hear(url, lambda h: False)


def test_audio_by_its_first_bytes_that_never_decodes_is_an_error(opus: bytes) -> None:
    with (
        station(sends(HEAD, opus[:200] + b"\xa5" * 300_000)) as url,
        expect_within(20),
        pytest.raises(GenreError) as caught,
    ):
        hear(url, lambda h: False, within_s=20)
    assert "/live" in str(caught.value)


def test_a_server_that_gives_a_little_and_closes_each_time_is_heard_on_and_on(mp3: bytes) -> None:
    with station(sends(HEAD, mp3[: len(mp3) // 32], lasts=0.4)) as url:
        heard = hear(url, lambda h: len(h.reasons) == 5)
    assert heard.reports.count("disconnected") == 4 and len(heard.gaps) == 4


def test_the_burst_that_greets_a_listener_anew_runs_no_timeline_ahead_of_the_clock(mp3: bytes) -> None:
    burst_s, away = 1.0, {"attempts": 1, "first_wait_s": 2.0, "longest_wait_s": 2.0}  # half of the wait is jitter
    with station(sends(HEAD, mp3[: len(mp3) // 8], lasts=0.5)) as url:
        began = time.monotonic()
        heard = hear(url, lambda h: h.seconds > 2.5 * burst_s, playlist_retry=away)
        took = time.monotonic() - began
    last = heard.audio[-1]
    assert len(heard.reasons) == 3
    assert (last.first_sample + len(last.pcm)) / 22_050 - took < 1.2 * burst_s


def test_what_short_breaks_let_us_hear_twice_does_not_shorten_the_gap_of_a_long_one(mp3: bytes) -> None:
    burst = sends(HEAD, mp3[: len(mp3) // 4])  # two seconds, and the wait is far less
    gone = sends(b"HTTP/1.0 503 Busy\r\n\r\n")
    away = {"attempts": 1, "first_wait_s": 0.1, "longest_wait_s": 1.6}  # 0.1, 0.2, 0.4, 0.8, 1.6, 1.6: at least half
    with station(burst, burst, burst, burst, *[gone] * 6, burst) as url:
        heard = hear(url, lambda h: len(h.reasons) == 5, playlist_retry=away)
    [gap] = heard.gaps
    [away_s] = [report.numbers["seconds"] for report in heard.of(Report)[-1:]]
    assert gap.cause == "closed" and away_s - 2.2 < gap.samples / 22_050 < away_s and away_s > 2.3


def test_a_stop_ends_the_wait_for_bytes_and_the_wait_between_two_tries(mp3: bytes, for_ever: threading.Event) -> None:
    gone = sends(b"HTTP/1.0 503 Busy\r\n\r\n")
    for answers, sign in (
        ([sends(HEAD, mp3, stays=for_ever)], lambda h: h.seconds > 6),
        ([sends(HEAD, mp3), gone], lambda h: "disconnected" in h.reports),
    ):
        with station(*answers) as url:
            stop, heard = threading.Event(), Station()
            slow = hls(read_timeout_s=20.0, playlist_retry={"attempts": 1, "first_wait_s": 20, "longest_wait_s": 20})
            source = StreamSource(Stream(name="t", url=url), slow, stop)
            for item in source.listen():
                heard.items.append(item)
                if sign(heard):
                    threading.Timer(0.2, stop.set).start()
                    began = time.monotonic()
            assert stop.is_set() and time.monotonic() - began < 15
            source.close()


# --- lists and mirrors -----------------------------------------------------------------------------------------------

LISTS = {
    "/a.m3u": "{0}\n{1}\n",
    "/b.m3u": "#EXTM3U\n#EXTINF:-1,Some Station\n{0}\n#EXTINF:-1,Mirror\n{1}\n",
    "/c.pls": "[playlist]\nNumberOfEntries=2\nFile1={0}\nTitle1=Some Station\nLength1=-1\nfile2={1}\nVersion=2\n",
    "/d.xspf": '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList>'
    "<track><location>{0}</location></track><track><location>{1}</location></track></trackList></playlist>",
    "/e.asx": '<ASX version="3.0"><TITLE>R&D</TITLE><ENTRY><REF HREF="{0}" /></ENTRY>'
    "<entry><ref href = '{1}'/></entry></ASX>",
}


@pytest.mark.parametrize("path", LISTS)
def test_a_list_of_mirrors_leads_to_the_first_that_is_heard(path: str, origin: ScriptedOrigin, mp3: bytes) -> None:
    origin.put("/live", Reply(mp3, endless=True))
    query = "?a=1&amp;b=2" if path.endswith("x") else ""
    origin.put(path, LISTS[path].format(origin.url("/dead"), origin.url("/live" + query)))
    heard = hear(origin.url(path), lambda h: h.seconds > 3)
    assert heard.reasons == ["start"] and heard.reports == ["chosen"]
    assert origin.count("/dead") == 1 and origin.count("/live") == 1


def test_a_mirror_takes_over_when_the_first_one_dies_and_the_list_is_not_needed(
    origin: ScriptedOrigin, mp3: bytes, for_ever: threading.Event
) -> None:
    with station(sends(HEAD, mp3[: len(mp3) // 16], lasts=0.7), sends(b"HTTP/1.0 404 Gone\r\n\r\n")) as first:
        origin.put("/mirror", Reply(mp3, endless=True))
        origin.put("/x.pls", f"[playlist]\nFile1={first}\nFile2={origin.url('/mirror')}\n")
        heard = hear(origin.url("/x.pls"), lambda h: len(h.reasons) == 2)
    assert heard.gaps[0].cause == "closed" and origin.count("/x.pls") == 1


def test_a_list_may_name_an_hls_playlist_and_a_list_another_list(origin: ScriptedOrigin) -> None:
    origin.put("/station.pls", f"[playlist]\nFile1={origin.url('/station.m3u')}\n")
    origin.put("/station.m3u", "#EXTM3U\n#EXTINF:-1,Some Station\nhls/list.m3u8\n")
    origin.put("/hls/list.m3u8", media_playlist(["a.ts", "b.ts"]))
    heard = listen(origin.url("/station.pls"))
    assert heard.ended and origin.count("/hls/list.m3u8") == 1 and origin.count("/hls/a.ts") >= 1


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("/a.pls", "[playlist]\nFile1=mms://h/x\n", "mms://h/x"),
        ("/b.m3u", "#EXTM3U\n#EXTINF:-1,x\nrtsp://h/x\n", "rtsp://h/x"),
        ("/c.asx", "<asx></asx>", "names no http"),
        ("/d.m3u", "#EXTM3U\n#EXTINF:-1,me\nd.m3u\n", "fourth list"),
    ],
)
def test_a_list_that_leads_nowhere_is_refused_by_name(path: str, text: str, says: str, origin: ScriptedOrigin) -> None:
    origin.put(path, text)
    with expect_within(5), pytest.raises(GenreError, match=says) as caught:
        listen(origin.url(path))
    assert path in str(caught.value)


def test_redirects_lead_to_the_station_and_are_followed_anew_after_a_break(origin: ScriptedOrigin, mp3: bytes) -> None:
    with station(sends(HEAD, mp3)) as url:
        origin.put("/go", Reply(b"", 302, {"Location": url}))
        hear(origin.url("/go"), lambda h: len(h.reasons) == 2)
    assert origin.count("/go") == 2


# --- after a restart -------------------------------------------------------------------------------------------------


def test_after_a_restart_the_time_away_is_a_gap_and_another_epoch_begins(mp3: bytes, for_ever: threading.Event) -> None:
    with station(sends(HEAD, mp3, stays=for_ever)) as url:
        before = hear(url, lambda h: h.seconds > 4)
        point = before.audio[-1].resume_point
        earlier = ResumePoint(
            point.epoch, point.epoch_first_sample, point.first_sample, {**point.place, "at": point.place["at"] - 100.0}
        )
        for_ever.set()
        after = hear(url, lambda h: h.seconds > 2, resume=earlier, start=point.first_sample)
    assert after.reasons == ["resumed", "resumed"] and after.audio[0].epoch == point.epoch + 1
    [gap] = after.gaps
    assert gap.cause == "expired" and gap.first_sample == point.first_sample and 100 < gap.samples / 22_050 < 110


@pytest.mark.parametrize("at", ["soon", None, -1e9, 1e12, float("inf"), float("nan"), {}])
def test_a_clock_that_was_wrong_makes_no_gap(at: Any, mp3: bytes, for_ever: threading.Event) -> None:
    point = ResumePoint(3, 1_000, 5_000, {"at": at, "first": 5_000, "file": None})
    with station(sends(HEAD, mp3, stays=for_ever)) as url:
        after = hear(url, lambda h: h.seconds > 2, resume=point, start=5_000)
    assert not after.gaps and after.audio[0].first_sample == 5_000 and after.audio[0].epoch == 4


def test_a_file_ends_and_is_taken_up_where_it_was_left(origin: ScriptedOrigin, mp3: bytes) -> None:
    origin.put("/song.mp3", mp3)
    whole = hear(origin.url("/song.mp3"), lambda h: h.ended is not None)
    assert len(whole.samples(0)) == len(oracle(mp3, "mp3")) and not any(item.live for item in whole.audio)
    part = hear(origin.url("/song.mp3"), lambda h: h.seconds > 3)
    point = part.audio[-1].resume_point
    rest = hear(origin.url("/song.mp3"), lambda h: h.ended is not None, resume=point, start=point.first_sample)
    assert rest.ended == whole.ended
    assert np.array_equal(rest.pcm(), whole.pcm()[point.first_sample :])


# --- HLS is what it was ----------------------------------------------------------------------------------------------


def test_a_playlist_is_asked_for_once_to_see_what_it_is_and_to_read_it(origin: ScriptedOrigin) -> None:
    origin.put("/list.m3u8", media_playlist(["a.ts", "b.ts"]))
    listen(origin.url("/list.m3u8"))
    assert origin.count("/list.m3u8") == 1
