"""What is demuxed here is what libav demuxes, to the byte; whatever is unusual is left to libav."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import av
import pytest

from services.fetcher.media import pes
from services.fetcher.media.transport_stream import PACKET, packets_of, pids_of, tables_of
from tests.fetcher.builders import needs_ffmpeg

pytestmark = needs_ffmpeg
PID = 256
Payloads = list[tuple[bytes, int | None]]


def by_libav(data: bytes) -> Payloads:
    """Demux as services/fetcher/media/segment_media.py lets libav do it."""
    options = {"fflags": "+nofillin+noparse", "probesize": "5000", "analyzeduration": "0", "codec_whitelist": "none"}
    with av.open(io.BytesIO(data), format="mpegts", options=options) as container:
        stream = next(stream for stream in container.streams.audio if stream.id == PID)
        return [(bytes(packet), packet.pts) for packet in container.demux(stream) if packet.size]


def segments(made: Any, name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(made(name)).glob("*.ts"))]


def tables(data: bytes) -> bytes:
    rows = packets_of(data)
    assert rows is not None
    return tables_of(rows, PID)


@pytest.mark.parametrize("name", ["ts-aac", "ts-aac-48k", "ts-mp3", "ts-mp2"])
def test_payloads_and_times_are_libavs(made: Any, name: str) -> None:
    before = b""
    for data in segments(made, name):
        found = pes.payloads(data, PID, before or tables(data))
        assert found is not None and found == by_libav(data)
        before = tables(data)


@pytest.mark.parametrize("name", ["ts-ac3", "ts-opus", "ts-latm"])
def test_what_may_need_its_descriptors_is_left_to_libav(made: Any, name: str) -> None:
    data = segments(made, name)[1]
    assert pes.payloads(data, PID, tables(data)) is None


def test_a_segment_with_other_tables_than_before_is_left_to_libav(made: Any) -> None:
    data = segments(made, "ts-aac")[1]
    other = segments(made, "ts-mp3")[1]
    assert pes.payloads(data, PID, tables(other)) is None and pes.payloads(data, PID, b"") is None
    at = data.index(tables(data)[PACKET : PACKET + 3])
    assert pes.payloads(data[:at] + data[at + PACKET :], PID, tables(data)) is None, "its PMT is missing"


def test_times_that_are_about_to_wrap_are_left_to_libav(made: Any) -> None:
    """It counts them as negative."""
    data = segments(made, "ts-aac")[1]
    found = pes.payloads(data, PID, tables(data))
    assert found is not None
    moved = bytearray(data)
    rows = packets_of(data)
    assert rows is not None
    for number in range(len(rows)):
        at = number * PACKET
        begun = data[at + 1] & 0x40 and int(pids_of(rows)[number]) == PID
        if begun:
            header = data.index(b"\0\0\1", at) + 9
            moved[header] |= 0x0E  # the three highest bits of the PTS
            moved[header + 1] = 0xFF
    assert pes.payloads(bytes(moved), PID, tables(data)) is None


@pytest.mark.parametrize("name", ["ts-aac", "ts-mp3"])
def test_of_damaged_packets_either_both_see_the_same_or_libav_is_asked(made: Any, name: str) -> None:
    data = segments(made, name)[1]
    known = tables(data)
    own = [n for n, pid in enumerate(pids_of(packets_of(data)).tolist()) if pid in (0, PID, 4096)]  # type: ignore[arg-type]
    chance = random.Random(7)
    read = 0
    for _ in range(1_500):
        body = bytearray(data)
        for _ in range(chance.choice((1, 1, 2))):
            at = min(chance.choice(own), len(body) // PACKET - 1) * PACKET
            kind = chance.randrange(8)
            if kind < 5:  # where headers stand
                body[at + chance.randrange(1, 32)] = chance.choice((0, 1, 0x40, 0x80, 0xFF, chance.randrange(256)))
            elif kind == 5:
                body[at + chance.randrange(PACKET)] ^= 1 << chance.randrange(8)
            elif kind == 6:
                del body[at : at + PACKET]
            else:
                body[at:at] = body[at : at + PACKET]
        found = pes.payloads(bytes(body), PID, known)
        if found is not None:
            read += 1
            assert found == by_libav(bytes(body))
    assert read > 150
