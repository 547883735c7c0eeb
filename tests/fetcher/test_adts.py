"""AAC in a transport stream goes to the decoder a PES packet at a time: where that is safe, and what stays the same."""

from __future__ import annotations

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest

from services.fetcher import adts, segment_media
from services.fetcher.epochs import Epochs
from services.fetcher.heard import Audio, Gap, Heard, Report
from services.fetcher.playlist import Segment
from tests.fetcher.builders import ffmpeg

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


def transport_stream(pieces: list[bytes]) -> bytes:
    """Write each piece as a PES packet, whatever it holds; PAT and PMT are ffmpeg's."""
    tables = made("mpegts")
    out, counter = tables[188 : 3 * 188] if tables[1:3] == b"\x40\x11" else tables[: 2 * 188], 0
    before = 0
    for piece in pieces:
        pts = 90_000 + round(before * 1024 / 44_100 * 90_000)
        before += adts.whole_frames(piece)[0] or len(piece) / 372
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


def heard(data: bytes) -> list[Heard]:
    epochs = Epochs()
    return [*epochs.hear(Segment(0, 0, "0.ts", 4.0), data, None, 0.0), *epochs.end()]


def pcm(items: list[Heard]) -> np.ndarray:
    return np.concatenate([item.pcm for item in items if isinstance(item, Audio)])


def packets(data: bytes) -> int:
    with segment_media.open_segment(data) as media:
        return sum(1 for _ in media.packets())


def test_whole_frames_are_counted_and_anything_else_is_none() -> None:
    parts = frames(made("adts"))
    data = b"".join(parts)
    assert adts.whole_frames(data)[:2] == (len(parts), 44_100) and len(parts) > 150
    two = parts[0] + parts[1]
    other_rate = parts[1][:2] + bytes([parts[1][2] ^ 0x04]) + parts[1][3:]
    no_length = two[:3] + b"\0\0\0" + two[6:]
    for broken in (b"", b"\xff", two[:-1], two[1:], two + b"\xff", parts[0] + other_rate, no_length, b"\xff" * 40):
        assert adts.whole_frames(broken) == (0, 0, 0)


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
    monkeypatch.setattr(segment_media, "MOST_WHOLE_BYTES", 0)
    one_by_one, more = pcm(heard(data)), packets(data)
    assert more > 2 * fewer
    np.testing.assert_array_equal(at_once, one_by_one)


def test_frames_cut_between_two_packets_are_left_to_the_parser() -> None:
    parts = frames(made("adts"))
    data = b"".join(parts)
    whole = transport_stream([b"".join(parts[n : n + 4]) for n in range(0, len(parts), 4)])
    torn = transport_stream([data[n : n + 1_500] for n in range(0, len(data), 1_500)])
    assert packets(whole) < packets(torn)
    np.testing.assert_array_equal(pcm(heard(torn)), pcm(heard(whole)))


def test_a_packet_of_thousands_of_frames_is_left_to_the_parser() -> None:
    parts = frames(made("adts"))
    data = transport_stream([b"".join(parts[:70]), *parts[70:]])
    assert packets(data) == len(parts)


def test_a_damaged_frame_costs_no_more_than_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = frames(made("adts"))
    parts[21] = parts[21][:7] + b"\xff" * (len(parts[21]) - 7)
    data = transport_stream([b"".join(parts[n : n + 4]) for n in range(0, len(parts), 4)])
    at_once = heard(data)
    (told,) = [item for item in at_once if isinstance(item, Report) and item.kind == "damaged"]
    assert told.numbers["seconds"] == pytest.approx(1024 / 44_100, abs=0.001)
    assert not [item for item in at_once if isinstance(item, Gap)]
    monkeypatch.setattr(segment_media, "MOST_WHOLE_BYTES", 0)
    one_by_one = pcm(heard(data)).astype(int)
    assert len(one_by_one) == len(pcm(at_once))
    apart = np.abs(one_by_one - pcm(at_once))
    # The noise that AAC puts in the place of some bands comes from the decoder's past, which is another one now.
    assert apart.max() < 300 and (apart > 0).mean() < 0.02


def test_packets_go_together_up_to_a_jump_of_their_timestamps() -> None:
    parts = frames(made("adts"))[:40]
    packets = []
    for number, part in enumerate(parts):
        packet = av.Packet(part)
        packet.time_base = Fraction(1, 90_000)
        packet.pts = round(number * 1024 / 44_100 * 90_000) + (9_000 if number >= 20 else 0)
        packets.append(packet)
    joined = [packet for packet in adts.together(packets, 1 / 90_000) if packet is not None]
    assert [adts.whole_frames(bytes(packet))[0] for packet in joined] == [8, 8, 4, 8, 8, 4]
    assert [packet.pts for packet in joined] == [packets[n].pts for n in (0, 8, 16, 20, 28, 36)]
    assert joined[0].duration == round(8 * 1024 / 44_100 * 90_000)
    assert b"".join(map(bytes, joined)) == b"".join(parts)
    assert list(adts.together([av.Packet(b"no frame")], 1 / 90_000)) == [None]
