"""Frames of AAC in ADTS (ISO/IEC 14496-3, 1.A.3.2), as transport streams carry them: how many bytes are whole frames.

Nothing is decoded here. Start at `whole_frames`.
"""

from __future__ import annotations

FRAME_SAMPLES = 1_024
MOST_FRAMES = 64
"""Of one PES packet: 1.5 seconds. A frame can be eight bytes long and is decoded to 8 KiB."""
HEADER_BYTES = 7
_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


def whole_frames(data: bytes) -> tuple[int, int]:
    """Count the frames that fill some bytes from the first to the last, all of one profile, rate and channels.

    Returns:
        (frames of 1,024 samples, their sampling rate); (0, 0) for anything else, a cut frame among it.
    """
    at, frames, size = 0, 0, len(data)
    if size < HEADER_BYTES or (data[2] >> 2) & 15 >= len(_RATES):
        return 0, 0
    kind, channels = data[2], data[3] & 0xC0
    while at + HEADER_BYTES <= size:
        if data[at] != 0xFF or data[at + 1] & 0xF6 != 0xF0 or data[at + 2] != kind or data[at + 3] & 0xC0 != channels:
            return 0, 0
        length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        if length < HEADER_BYTES:
            return 0, 0
        frames += 1 + (data[at + 6] & 3)  # a frame may hold up to four raw data blocks
        at += length
    return (frames, _RATES[(kind >> 2) & 15]) if at == size else (0, 0)
