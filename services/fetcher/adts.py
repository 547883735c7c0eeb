"""Frames of AAC in ADTS (ISO/IEC 14496-3, 1.A.3.2), as transport streams carry them: counted, cut, put together.

Nothing is decoded here. Start at `together`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import av

FRAME_SAMPLES = 1_024
MOST_FRAMES = 64
"""Of one PES packet: 1.5 seconds. A frame can be eight bytes long and is decoded to 8 KiB."""
MOST_TOGETHER = 8
"""Frames that the decoder is given at once; more gain nothing."""
JITTER_TICKS = 2
"""Timestamps are rounded to ticks of 1/90,000 s: frames of 1,024 samples at 44,100 Hz last 2,089.8."""
HEADER_BYTES = 7
KIND = 0xFFF6FFC0000000
"""Of a header's 56 bits those that frames of one stream share: syncword, layer, profile, rate, channels."""
_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


def whole_frames(data: bytes) -> tuple[int, int, int]:
    """Count the frames that fill some bytes from the first to the last, all of one profile, rate and channels.

    Returns:
        (frames of 1,024 samples, their sampling rate, what `KIND` keeps of their headers); zeros for anything else, a
        cut frame among it.
    """
    at, frames, size = 0, 0, len(data)
    kind = int.from_bytes(data[:HEADER_BYTES], "big") & KIND
    rate = kind >> 34 & 15
    if size < HEADER_BYTES or kind >> 40 != 0xFFF0 or rate >= len(_RATES):
        return 0, 0, 0
    while at + HEADER_BYTES <= size:
        header = int.from_bytes(data[at : at + HEADER_BYTES], "big")
        length = header >> 13 & 0x1FFF
        if header & KIND != kind or length < HEADER_BYTES:
            return 0, 0, 0
        frames += 1 + (header & 3)  # a frame may hold up to four raw data blocks
        at += length
    return (frames, _RATES[rate], kind) if at == size else (0, 0, 0)


def cut(data: bytes) -> list[bytes]:
    """Cut whole frames apart."""
    parts, at = [], 0
    while at + HEADER_BYTES <= len(data):
        length = max(HEADER_BYTES, (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5)
        parts.append(data[at : at + length])
        at += length
    return parts


def together(packets: Iterable[av.Packet], tick_s: float) -> Iterator[av.Packet | None]:
    """Put packets of whole frames together that follow each other without a jump; each result has its duration.

    One call of the decoder takes all frames of a packet. Yields None, as the last thing, where a packet holds anything
    but whole frames of one kind: such a segment is the parser's.

    Args:
        packets: PES packets as they are in the transport stream.
        tick_s: seconds of one tick of their timestamps.
    """
    first: av.Packet | None = None
    parts: list[bytes] = []
    kind, rate, frames, frame_ticks = -1, 0, 0, 0.0
    begins: int | None = None
    for packet in packets:
        data, at = bytes(packet), packet.pts
        header = int.from_bytes(data[:HEADER_BYTES], "big")
        if header & KIND == kind and header >> 13 & 0x1FFF == len(data):  # the usual one: a frame like those before
            more, own_kind = 1 + (header & 3), kind
        else:
            more, rate, own_kind = whole_frames(data)
            if not 0 < more <= MOST_FRAMES:
                yield None
                return
        if first is not None and (
            own_kind != kind
            or frames + more > MOST_TOGETHER
            or at is None
            or begins is None
            or not -JITTER_TICKS <= at - begins - frames * frame_ticks <= JITTER_TICKS
        ):
            yield _joined(first, parts, frames * frame_ticks)
            first = None
        if first is None:
            first, begins, parts, kind, frames = packet, at, [], own_kind, 0
            frame_ticks = FRAME_SAMPLES / rate / tick_s
        parts.append(data)
        frames += more
    if first is not None:
        yield _joined(first, parts, frames * frame_ticks)


def _joined(first: av.Packet, parts: list[bytes], ticks: float) -> av.Packet:
    """Return some packets as one, which lasts so many ticks."""
    packet = first
    if len(parts) > 1:
        packet = av.Packet(b"".join(parts))
        packet.pts, packet.time_base = first.pts, first.time_base
    packet.duration = round(ticks)
    return packet
