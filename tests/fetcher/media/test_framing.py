"""Bytes are cut into whole audio frames, wherever they were cut before; several go to the decoder at once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from services.fetcher.events import Audio, StreamEvent
from services.fetcher.media import framing, segment_media
from services.fetcher.media.frames import PARSERS, adts
from services.fetcher.segment import Segment
from services.fetcher.timeline.epochs import Epochs
from tests.fetcher.builders import ffmpeg, frames_of, id3, needs_ffmpeg

pytestmark = needs_ffmpeg

TONES = ["-f", "lavfi", "-i", "aevalsrc=0.4*sin(2*PI*(300+40*t)*t)|0.3*sin(2*PI*900*t):s=44100:d=4"]


def made(form: str) -> bytes:
    return ffmpeg(*TONES, "-c:a", "aac", "-b:a", "128k", "-f", form, "-")


def frames(data: bytes) -> list[bytes]:
    """Cut an ADTS stream into its frames."""
    parts = []
    while data:
        length = (data[3] & 3) << 11 | data[4] << 3 | data[5] >> 5
        parts.append(data[:length])
        data = data[length:]
    return parts


def count_of(data: bytes) -> int:
    """Return how many frames fill these bytes, 0 where they do not."""
    at = count = 0
    while (header := adts(data, at)) is not None:
        at, count = at + header.length, count + 1
    return count if at == len(data) else 0


def transport_stream(pieces: list[bytes], before: float = 0) -> bytes:
    """Write each piece as a PES packet, whatever it holds, after so many frames; PAT and PMT are ffmpeg's.

    An empty piece is a frame that is missing.
    """
    tables = made("mpegts")
    out, counter = tables[188 : 3 * 188] if tables[1:3] == b"\x40\x11" else tables[: 2 * 188], 0
    for piece in pieces:
        pts = 90_000 + round(before * 1024 / 44_100 * 90_000)
        before += count_of(piece) or len(piece) / 372 or 1
        if not piece:
            continue
        stamp = bytes([0x21 | pts >> 29 & 14, pts >> 22 & 255, pts >> 14 & 254 | 1, pts >> 7 & 255, pts << 1 & 254 | 1])
        data = b"\0\0\1\xc0" + (len(piece) + 8).to_bytes(2, "big") + b"\x80\x80\x05" + stamp + piece
        first = True
        while data:
            part, data = data[:184], data[184:]
            room = 184 - len(part)
            filling = b"" if not room else b"\0" if room == 1 else bytes([room - 1, 0]) + b"\xff" * (room - 2)
            head = bytes([0x47, 0x41 if first else 0x01, 0, (0x30 if room else 0x10) | counter])
            out, counter, first = out + head + filling + part, (counter + 1) % 16, False
    return out


def heard(data: bytes) -> list[StreamEvent]:
    epochs = Epochs()
    return [*epochs.decode(Segment(0, 0, "0.ts", 4.0), data, None, 0.0), *epochs.end()]


def pcm(items: list[StreamEvent]) -> np.ndarray:
    return np.concatenate([item.pcm for item in items if isinstance(item, Audio)])


def packets(data: bytes) -> int:
    with segment_media.open_segment(data) as media:
        return sum(1 for _ in media.batches())


def cut(payloads: list[bytes], rest: bytes = b"") -> tuple[list[framing.Batch], bytes]:
    framer = framing.Framer(adts, rest)
    return list(framer.batches([(payload, None) for payload in payloads])), framer.rest


def test_frames_are_found_whatever_stands_between_them() -> None:
    parts = frames(made("adts"))[:24]
    data = b"".join(parts)
    batches, rest = cut([data])
    assert b"".join(bytes(b.packet) for b in batches if b.packet) == data and rest == b""
    assert [b.frames for b in batches] == [4] * 6
    torn, rest = cut([b"".join(parts[:9]) + b"\xff\xf1garbage" + b"".join(parts[9:])])
    assert b"".join(bytes(b.packet) for b in torn if b.packet) == data
    assert [b.skipped for b in torn if b.packet is None] == [9]
    tag = id3(("TIT2", b"\x03Teardrop"))
    tagged, rest = cut([b"".join(parts[:9]) + tag + b"".join(parts[9:])])
    assert b"".join(bytes(b.packet) for b in tagged) == data


@pytest.mark.parametrize("size", [1, 5, 188, 1_500, 5_000])
def test_frames_cut_anywhere_are_put_together(size: int) -> None:
    data = b"".join(frames(made("adts"))[:24])
    batches, rest = cut([data[at : at + size] for at in range(0, len(data), size)])
    assert b"".join(bytes(b.packet) for b in batches if b.packet) == data and rest == b""
    assert all(b.packet for b in batches)


def test_an_unfinished_frame_waits_and_belongs_to_no_segment_of_its_own() -> None:
    parts = frames(made("adts"))[:3]
    data = b"".join(parts)
    first, rest = cut([data[:-50]])
    assert [b.frames for b in first] == [2] and rest == parts[2][:-50]
    second, rest = cut([parts[2][-50:] + parts[0]], rest)
    assert [(b.frames, bytes(b.packet or b"")) for b in second] == [(0, parts[2]), (1, parts[0])] and rest == b""


@pytest.mark.parametrize(
    ("codec", "form", "rate"),
    [
        ("libmp3lame", "mp3", 44_100),
        ("libmp3lame", "mp3", 16_000),
        ("libmp3lame", "mp3", 8_000),
        ("mp2", "mp2", 48_000),
        ("ac3", "ac3", 44_100),
        ("ac3", "ac3", 48_000),
        ("eac3", "eac3", 48_000),
        ("eac3", "eac3", 32_000),
    ],
)
def test_headers_say_what_libav_says_of_the_frames(codec: str, form: str, rate: int) -> None:
    more = ["-write_xing", "0", "-id3v2_version", "0"] if form == "mp3" else []
    data = ffmpeg(*TONES, "-ar", str(rate), "-c:a", codec, *more, "-f", form, "-")
    parts, seconds = frames_of(data, {"mp2": "mp3"}.get(form, form))
    at, parse = 0, PARSERS[form]
    for part in parts[:40]:
        header = parse(data, at)
        assert header is not None
        assert (header.length, header.samples / header.rate) == (len(part), pytest.approx(seconds, abs=2e-5))
        at += header.length


@pytest.mark.parametrize("sizes", [(7,), (1,), (1, 7, 2, 1, 5)], ids=["many", "one", "mixed"])
def test_several_frames_at_once_are_heard_as_one_by_one(
    sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PES packet of many frames, of one, and now this, now that."""
    parts, pieces, counts = frames(made("adts")), [], itertools.cycle(sizes)
    while parts:
        count = next(counts)
        pieces.append(b"".join(parts[:count]))
        parts = parts[count:]
    data = transport_stream(pieces)
    at_once, fewer = pcm(heard(data)), packets(data)
    monkeypatch.setattr(framing, "MOST_TOGETHER", 1)
    one_by_one, more = pcm(heard(data)), packets(data)
    assert more > 2 * fewer
    np.testing.assert_array_equal(at_once, one_by_one)


def test_a_longer_segment_is_left_to_the_parser_and_sounds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = frames(made("adts"))
    data = transport_stream([b"".join(parts[n : n + 4]) for n in range(0, len(parts), 4)])
    here = pcm(heard(data))
    monkeypatch.setattr(segment_media, "MOST_WHOLE_BYTES", 0)
    assert packets(data) == len(parts)
    np.testing.assert_array_equal(pcm(heard(data)), here)


def test_frames_go_together_up_to_a_jump_of_their_timestamps() -> None:
    parts = frames(made("adts"))[:40]
    stamps = [round(number * 1024 / 44_100 * 90_000) + (9_000 if number >= 18 else 0) for number in range(40)]
    framer = framing.Framer(adts)
    batches = list(framer.batches(zip(parts, stamps, strict=True)))
    assert [batch.frames for batch in batches] == [4, 4, 4, 4, 2, 4, 4, 4, 4, 4, 2]
    assert [batch.packet.pts for batch in batches if batch.packet] == [*stamps[:18:4], *stamps[18::4]]
    assert batches[0].seconds == pytest.approx(4 * 1024 / 44_100)
    apart = framing.singles(batches[0])
    assert [bytes(one.packet or b"") for one in apart] == parts[:4]
    assert [one.packet.pts for one in apart if one.packet] == stamps[:4]


def test_bytes_made_to_be_searched_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MOST_SEARCHES", 1_000)
    parts = frames(made("adts"))[:16]
    batches, _ = cut([b"".join(parts[:8]) + b"\xff" * 5_000 + b"".join(parts[8:])])
    assert [b.frames for b in batches] == [4, 4, 0] and batches[2].packet is None
    monkeypatch.setattr(framing, "MOST_FRAMES", 8)
    batches, _ = cut([b"".join(parts)])
    assert [b.frames for b in batches] == [4, 4, 0] and batches[2].skipped == len(b"".join(parts[8:]))


def test_a_frame_of_two_raw_data_blocks_lasts_twice_as_long() -> None:
    parts = frames(made("adts"))[:8]
    parts[4] = parts[4][:6] + bytes([parts[4][6] | 1]) + parts[4][7:]
    batches, _ = cut([b"".join(parts)])
    assert [(b.frames, round(b.seconds * 44_100)) for b in batches] == [(4, 4_096), (1, 2_048), (3, 3_072)]
