"""Segments whose clocks begin anew each time are one epoch; audio that moves to another PID is never lost silently."""

from __future__ import annotations

import pytest

from tests.fetcher.builders import Listened, ffmpeg, listen, media_playlist, needs_ffmpeg
from tests.fetcher.origin import ScriptedOrigin

pytestmark = needs_ffmpeg
TONE = ("-f", "lavfi", "-i", "aevalsrc=0.4*sin(2*PI*(200+50*t)*t):s=44100:d=8", "-c:a", "aac", "-aac_pns", "0")


def adts_parts(each: int) -> list[bytes]:
    """Cut one encoding into parts of so many frames, without any clock."""
    whole, at, frames = ffmpeg(*TONE, "-f", "adts", "-"), 0, []
    while at < len(whole):
        length = (whole[at + 3] & 3) << 11 | whole[at + 4] << 3 | whole[at + 5] >> 5
        frames.append(whole[at : at + length])
        at += length
    return [b"".join(frames[n : n + each]) for n in range(0, len(frames), each)]


def muxed(part: bytes, *options: str) -> bytes:
    """Make a transport stream of its own of a part; each begins at the same time."""
    return ffmpeg("-f", "aac", "-i", "-", "-c", "copy", *options, "-f", "mpegts", "-", stdin=part)


def heard_of(origin: ScriptedOrigin, segments: list[bytes], duration: float) -> Listened:
    names = [f"{number}.ts" for number in range(len(segments))]
    for name, data in zip(names, segments, strict=True):
        origin.put(f"/{name}", data)
    origin.put("/list.m3u8", media_playlist(names, duration))
    return listen(origin.url("/list.m3u8"))


def test_segments_with_a_clock_of_their_own_are_one_epoch(origin: ScriptedOrigin) -> None:
    parts = adts_parts(86)
    heard = heard_of(origin, [muxed(part) for part in parts], 2.0)
    assert heard.reasons == ["start"] and not heard.gaps
    origin.put("/whole.m3u8", media_playlist(["whole.ts"], 8.0))
    origin.put("/whole.ts", muxed(b"".join(parts)))
    whole = listen(origin.url("/whole.m3u8"))
    assert heard.pcm().tobytes() == whole.pcm().tobytes()


def test_a_clock_that_goes_back_elsewhere_is_still_a_restart(origin: ScriptedOrigin) -> None:
    first, second, third, *_ = adts_parts(86)
    segments = [muxed(first), muxed(second, "-output_ts_offset", "2"), muxed(third, "-output_ts_offset", "0.7")]
    assert heard_of(origin, segments, 2.0).reasons == ["start", "timestamps"]


@pytest.mark.parametrize("more", [0, 1])
def test_audio_that_moves_to_another_pid_within_a_segment_is_a_gap(origin: ScriptedOrigin, more: int) -> None:
    first, second, third, *_ = adts_parts(86)
    moving = muxed(first) + muxed(second, "-streamid", "0:333", "-output_ts_offset", "2")
    later = [muxed(third, "-streamid", "0:333", "-output_ts_offset", "4")] * more
    heard = heard_of(origin, [moving, *later], 4.0)
    [gap] = heard.gaps
    assert gap.cause == "no-audio" and "another PID" in gap.detail
    assert gap.samples == pytest.approx(2 * 22_050, abs=2_205)


def crc32_mpeg(data: bytes) -> bytes:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return value.to_bytes(4, "big")


def of_type(data: bytes, stream_type: int) -> bytes:
    """Let the PMT of a transport stream with one stream name another type, without a descriptor that says more."""
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    for number, packet in enumerate(packets):
        if packet[1:3] == b"\x50\x00":
            start = 17 + ((packet[15] & 15) << 8 | packet[16])
            entry = bytes([stream_type, *packet[start + 1 : start + 3], 0xF0, 0])
            section = b"\x02\xb0" + bytes([start + 5 - 4]) + packet[8:start] + entry
            packets[number] = (packet[:5] + section + crc32_mpeg(section)).ljust(188, b"\xff")
    return b"".join(packets)


@pytest.mark.parametrize("stream_type", [0x06, 0x11, 0x80])
def test_a_segment_too_short_to_tell_its_codec_has_the_one_of_the_segment_before(
    origin: ScriptedOrigin, stream_type: int
) -> None:
    parts = [*adts_parts(86)[:2], adts_parts(1)[172]]
    offsets = [86 * 1024 / 44_100 * number for number in range(3)]
    made = [muxed(part, "-output_ts_offset", str(at)) for part, at in zip(parts, offsets, strict=True)]
    heard = heard_of(origin, [of_type(data, stream_type) for data in made], 2.0)
    assert heard.reasons == ["start"] and not heard.gaps
    assert heard.pcm().tobytes() == heard_of(origin, made, 2.0).pcm().tobytes()
