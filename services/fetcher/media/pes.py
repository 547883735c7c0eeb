"""PES packets of one PID (ISO/IEC 13818-1, 2.4.3.6), for segments that go on as the one before did.

Of such a segment all that a demuxer would find out is known. Opening libav for it takes longer than decoding half of
it (docs/benchmarks.md): a tenth of a fetcher's time. Only what is beyond doubt is read here; for all else, damage
included, the answer is None, and libav demuxes. Start at `payloads`.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from services.fetcher.media.timestamps import CLOCK_HZ
from services.fetcher.media.transport_stream import PACKET, Packets, packets_of, pids_of

KNOWN_TYPES = {0x01, 0x02, 0x03, 0x04, 0x0F, 0x10, 0x1B, 0x24}
"""Stream types (2.4.4.9) that carry no titles: MPEG video, MPEG audio and AAC in ADTS."""
AUDIO_TYPES = {0x03, 0x04, 0x0F}
LATEST_PTS = 2**33 - 120 * CLOCK_HZ
"""From here on libav may count a segment's timestamps as negative, for they are about to wrap."""
MOST_PES_BYTES = 131_072
"""A longer packet libav takes apart."""
_HEADER_BYTES = 9
_POSITIONS = np.arange(PACKET)


def payloads(data: bytes, pid: int, tables: bytes) -> list[tuple[bytes, int]] | None:
    """Return what each PES packet of a PID holds, with its PTS at 90 kHz; None where anything is unusual.

    Args:
        data: whole packets of 188 bytes, without an unfinished PES packet.
        tables: PAT and PMT by which this PID was found in the segment before.
    """
    rows = packets_of(data)
    if rows is None or rows.size != len(data):
        return None
    pids = pids_of(rows)
    own = np.flatnonzero(pids == pid)
    if not len(own) or not _same_tables(rows[: own[-1] + 1], pids[: own[-1] + 1], tables, pid, int(own[0])):
        return None
    mine = rows[own]
    control = mine[:, 3]
    broken = (mine[:, 1] & 0x80).any() or (control & 0xD0 != 0x10).any()  # an error, scrambled, or without payload
    if broken or (np.diff(control & 15) & 15 != 1).any():
        return None
    starts = np.where(control & 0x20, 5 + mine[:, 4].astype(np.intp), 4)
    begins = np.flatnonzero(mine[:, 1] & 0x40)
    if (starts >= PACKET).any() or not len(begins) or begins[0] != 0:
        return None
    body = mine[starts[:, None] <= _POSITIONS].tobytes()
    places = np.cumsum(PACKET - starts) - (PACKET - starts)
    cuts = [*places[begins].tolist(), len(body)]
    found: list[tuple[bytes, int]] = []
    for at, end in pairwise(cuts):
        one = _payload(body[at:end])
        if one is None or one[1] >= LATEST_PTS or (found and one[1] < found[0][1]):
            return None
        found.append(one)
    return found


def _payload(packet: bytes) -> tuple[bytes, int] | None:
    """Return what a PES packet holds and its PTS; None where it is not an audio's plainest form."""
    if not _HEADER_BYTES + 5 < len(packet) <= MOST_PES_BYTES or packet[:3] != b"\0\0\1" or packet[3] & 0xE0 != 0xC0:
        return None
    length, first, second = int.from_bytes(packet[4:6], "big"), packet[6], packet[7]
    # Not scrambled; a PTS, perhaps a DTS, and no other fields.
    if length not in (0, len(packet) - 6) or first & 0xF0 != 0x80 or second not in (0x80, 0xC0):
        return None
    start = _HEADER_BYTES + packet[8]
    if packet[8] < (5 if second == 0x80 else 10) or start >= len(packet):
        return None
    a, b, c, d, e = packet[9:14]
    if a & 0xF1 != (0x21 if second == 0x80 else 0x31) or not c & e & 1:
        return None
    return packet[start:], (a >> 1 & 7) << 30 | b << 22 | c >> 1 << 15 | d << 7 | e >> 1


def _same_tables(rows: Packets, pids: NDArray[np.uint16], tables: bytes, pid: int, first: int) -> bool:
    """Say whether PAT and PMT are those of the segment before, wherever they stand, and come before the audio."""
    known = packets_of(tables)
    if known is None or len(known) != 2:
        return False
    for table, number in zip(known, (0, int(pids_of(known)[1])), strict=True):
        there = np.flatnonzero(pids == number)
        if not len(there) or there[0] > first:
            return False
        differs = rows[there] != table
        differs[:, 3] = (rows[there, 3] ^ table[3]) & 0xF0 != 0  # but for the continuity counter
        if differs.any():
            return False
    types = _types(known[1].tobytes())
    return types.get(pid) in AUDIO_TYPES and KNOWN_TYPES.issuperset(types.values())


def _types(pmt: bytes) -> dict[int, int]:
    """Return the stream type of each PID that a PMT's packet lists."""
    start = 4 + (1 + pmt[4] if pmt[3] & 0x20 else 0)
    section = start + 1 + pmt[start] if start < PACKET else PACKET
    if section + 12 > PACKET or pmt[section] != 2:
        return {}
    end = section + 3 + (int.from_bytes(pmt[section + 1 : section + 3], "big") & 0xFFF) - 4
    at = section + 12 + (int.from_bytes(pmt[section + 10 : section + 12], "big") & 0xFFF)
    types = {}
    while at + 5 <= min(end, PACKET):
        types[int.from_bytes(pmt[at + 1 : at + 3], "big") & 0x1FFF] = pmt[at]
        at += 5 + (int.from_bytes(pmt[at + 3 : at + 5], "big") & 0xFFF)
    return types
