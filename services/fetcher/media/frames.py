"""Headers of audio frames that stand for themselves: AAC in ADTS, MPEG audio (layers I to III), AC-3 and E-AC-3.

A header says how long its frame is and lasts; nothing is decoded. Sources: ISO/IEC 14496-3, 1.A.3.2; ISO/IEC 11172-3,
2.4.2.3; ETSI TS 102 366, 4.3 and E.1.2. Start at `PARSERS`; who walks from frame to frame is framing.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

HEADER_BYTES = 7
"""The longest of the headers, and more than any frame's first half."""
ADTS_FORM = 0xFFF6FFC0000003
"""Of an ADTS header's 56 bits those that frames of one stream share: syncword, layer, profile, rate, channels, and how
many raw data blocks a frame holds."""
_ADTS_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
_MPEG_RATES = (44_100, 48_000, 32_000)
# Kilobit/s by (MPEG-1 or not, layer); index 0 means "free", which no encoder of a stream writes.
_MPEG_KBITS = {
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_AC3_KBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_AC3_RATES = (48_000, 44_100, 32_000)
MOST_DEPENDENT = 8


class Header(NamedTuple):
    """What a frame's header says.

    Attributes:
        length: bytes of the frame, header included.
        samples: of one channel, at `rate` (HE-AAC: of its core, so the seconds are right).
        rate: samples a second.
        form: equal for frames that one decoder takes without a change.
    """

    length: int
    samples: int
    rate: int
    form: int


Parser = Callable[[bytes, int], Header | None]
"""(data, position of a frame's first byte) -> its header, or None where none is."""


def adts(data: bytes, at: int) -> Header | None:
    """Read an ADTS header; a frame holds up to four raw data blocks of 1,024 samples."""
    if at + 7 > len(data):
        return None
    bits = int.from_bytes(data[at : at + 7], "big")
    length, rate = bits >> 13 & 0x1FFF, bits >> 34 & 15
    if bits >> 40 & 0xFFF6 != 0xFFF0 or rate >= len(_ADTS_RATES) or length <= 7:
        return None
    return Header(length, 1_024 * (1 + (bits & 3)), _ADTS_RATES[rate], bits & ADTS_FORM)


def mpeg(data: bytes, at: int) -> Header | None:
    """Read a header of MPEG audio: MPEG-1, MPEG-2 or "2.5", layers I to III."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    bit_rate, rate, padding = data[at + 2] >> 4, data[at + 2] >> 2 & 3, data[at + 2] >> 1 & 1
    if version == 1 or layer == 4 or not 0 < bit_rate < 15 or rate == 3:
        return None
    first = version == 3
    hertz = _MPEG_RATES[rate] >> (0 if first else 1 if version == 2 else 2)
    bits = _MPEG_KBITS[first, layer][bit_rate] * 1_000
    samples = 384 if layer == 1 else 1_152 if layer == 2 or first else 576
    length = (12 * bits // hertz + padding) * 4 if layer == 1 else samples // 8 * bits // hertz + padding
    mono = data[at + 3] >> 6 == 3
    return Header(length, samples, hertz, version << 8 | layer << 4 | rate << 1 | mono)


def ac3(data: bytes, at: int) -> Header | None:
    """Read a header of AC-3 or E-AC-3; dependent substreams belong to the frame that they follow."""
    header = _ac3_alone(data, at)
    if header is None or header.form & 1:  # a dependent substream alone is no frame
        return None
    length = header.length
    for _ in range(MOST_DEPENDENT):
        following = _ac3_alone(data, at + length)
        if following is None or not following.form & 1:
            break
        length += following.length
    return header._replace(length=length)


def _ac3_alone(data: bytes, at: int) -> Header | None:
    """Read one syncframe; the form's lowest bit says that it is a dependent substream."""
    if at + 6 > len(data) or data[at : at + 2] != b"\x0b\x77":
        return None
    bsid, rate = data[at + 5] >> 3, data[at + 4] >> 6
    if bsid <= 10:
        size = data[at + 4] & 63
        if rate == 3 or size >> 1 >= len(_AC3_KBITS):
            return None
        kbits = _AC3_KBITS[size >> 1]
        words = kbits * 96_000 // _AC3_RATES[rate] if rate != 1 else kbits * 320 // 147 + (size & 1)
        return Header(2 * words, 1_536, _AC3_RATES[rate] >> max(bsid - 8, 0), bsid << 8 | rate << 1)
    if bsid > 16:
        return None
    length = 2 * (((data[at + 2] & 7) << 8 | data[at + 3]) + 1)
    blocks = 6 if rate == 3 else (1, 2, 3, 6)[data[at + 4] >> 4 & 3]
    half = data[at + 4] >> 4 & 3
    if (rate == 3 and half == 3) or length <= HEADER_BYTES:
        return None
    hertz = _AC3_RATES[half] >> 1 if rate == 3 else _AC3_RATES[rate]
    dependent = data[at + 2] >> 6 == 1
    return Header(length, 256 * blocks, hertz, bsid << 8 | (rate << 2 | half if rate == 3 else rate) << 1 | dependent)


PARSERS: dict[str, Parser] = {"aac": adts, "mp3": mpeg, "mp2": mpeg, "ac3": ac3, "eac3": ac3}
"""By libav's canonical name of the codec."""


def is_xing(frame: bytes) -> bool:
    """Say whether a frame of MPEG audio holds no sound but a table of contents (Xing, Info, VBRI)."""
    head = frame[4:44]
    return b"Xing" in head or b"Info" in head or b"VBRI" in head


def encoder_delay(frame: bytes) -> int:
    """Return how many samples at the begin are the encoder's and the decoder's delay, by LAME's tag; else 0."""
    tag = max(frame.find(b"Xing", 4, 44), frame.find(b"Info", 4, 44))
    if tag < 0 or len(frame) < tag + 144:
        return 0
    # Eight bytes of name and flags, then what the flags announce; LAME's tag follows, its delays after 21 bytes.
    flags = frame[tag + 7]
    at = tag + 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    if frame[at : at + 4] not in (b"LAME", b"Lavf", b"Lavc"):
        return 0
    delay = int.from_bytes(frame[at + 21 : at + 24], "big") >> 12
    return delay + 529 if delay else 0
