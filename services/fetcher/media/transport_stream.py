"""Packets of an MPEG transport stream (ISO/IEC 13818-1, 2.4.3), before libav reads them.

Where they begin, which tables they carry, and which of them hold a PES packet that the segment does not finish: those
wait for the next segment, as if the segments were one stream. Arrays of whole packets; libav demuxes. Start at
`aligned` and `divided`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PACKET = 188
SYNC = 0x47
# 188 bytes; with a time code before each packet (M2TS); with Reed-Solomon parity after it (DVB).
_SIZES = (188, 192, 204)
LONGEST_START = 65_536
"""Bytes that may stand before the first packet."""
SURE = 5
"""So many sync bytes in a row are no accident, nor are fewer that fill the data."""
MOST_TABLES = 16
"""Packets behind the last one of the audio that are tables alone."""
MOST_UNFINISHED = 2_048
"""Packets of an unfinished PES packet that wait; audio has a few."""

Packets = NDArray[np.uint8]


def begins(data: bytes) -> tuple[int, int] | None:
    """Find the first packet: its position and the distance to the next one; None where this is no transport stream."""
    head = data[: LONGEST_START + SURE * _SIZES[-1]]
    at = head.find(SYNC)
    while 0 <= at <= LONGEST_START:
        for size in _SIZES:
            syncs = head[at : at + SURE * size : size]
            if syncs.count(SYNC) == len(syncs) and (len(syncs) == SURE or (len(syncs) > 1 and at < size)):
                return at, size
        at = head.find(SYNC, at + 1)
    return (0, PACKET) if len(data) == PACKET and data[0] == SYNC else None


def aligned(data: bytes) -> bytes:
    """Return packets of 188 bytes from the first one on, without what other forms add to them."""
    found = begins(data)
    if found is None:
        return data
    at, size = found
    if size == PACKET:
        return data[at:] if at else data
    whole = (len(data) - at) // size
    rows = np.frombuffer(data, np.uint8, whole * size, at).reshape(whole, size)
    last = data[at + whole * size :][:PACKET]
    return rows[:, :PACKET].tobytes() + (last if len(last) == PACKET else b"")


def packets_of(data: bytes) -> Packets | None:
    """Return whole packets, shape (packets, 188); None where one does not begin with the sync byte."""
    whole = len(data) // PACKET
    rows = np.frombuffer(data, np.uint8, whole * PACKET).reshape(whole, PACKET)
    return rows if whole and bool((rows[:, 0] == SYNC).all()) else None


def pids_of(rows: Packets) -> NDArray[np.uint16]:
    """Return each packet's PID."""
    pids: NDArray[np.uint16] = (rows[:, 1:3].view(">u2")[:, 0] & 0x1FFF).astype(np.uint16)
    return pids


def tables_of(rows: Packets, pid: int) -> bytes:
    """Return the packets that name this PID: the first PAT and, of its programs, the first PMT with the PID in it."""
    pids = pids_of(rows)
    pats = np.flatnonzero((pids == 0) & (rows[:, 1] & 0x40 != 0))
    if not len(pats):
        return b""
    pat: bytes = rows[pats[0]].tobytes()
    for pmt_pid in _programs(pat):
        for first in np.flatnonzero((pids == pmt_pid) & (rows[:, 1] & 0x40 != 0))[:1]:
            later = np.flatnonzero((pids == pmt_pid) & (np.arange(len(rows)) > first))
            more = [int(n) for n in later[:7] if not rows[n, 1] & 0x40]
            pmt = b"".join(rows[n].tobytes() for n in [int(first), *more])
            if pid.to_bytes(2, "big") in pmt or (0xE000 | pid).to_bytes(2, "big") in pmt:
                return pat + pmt
    return b""


def _programs(pat: bytes) -> list[int]:
    """Return the PIDs of the PMTs that a PAT's packet lists."""
    start = 4 + (1 + pat[4] if pat[3] & 0x20 else 0)
    if start >= PACKET:
        return []
    section = start + 1 + pat[start]
    length = (int.from_bytes(pat[section + 1 : section + 3], "big") & 0xFFF) if section + 3 <= PACKET else 0
    entries = range(section + 8, min(section + 3 + length - 4, PACKET - 3), 4)
    return [int.from_bytes(pat[at + 2 : at + 4], "big") & 0x1FFF for at in entries if pat[at : at + 2] != b"\0\0"]


def moved_away(data: bytes, pid: int) -> bool:
    """Say whether the audio goes on under another PID: behind the last packet of this one a PMT no longer names it."""
    rows = packets_of(data)
    if rows is None:
        return False
    pids = pids_of(rows)
    own, pats = np.flatnonzero(pids == pid), np.flatnonzero((pids == 0) & (rows[:, 1] & 0x40 != 0))
    if not len(own) or not len(pats) or pats[-1] < own[-1]:
        return False
    behind = rows[int(own[-1]) + 1 :]
    return len(behind) > MOST_TABLES and not tables_of(behind, pid) and bool(_programs(rows[pats[-1]].tobytes()))


def divided(data: bytes, pid: int) -> tuple[bytes, bytes, bytes]:
    """Divide a segment: (what is whole, packets of this PID whose PES packet is not finished, its tables)."""
    rows = packets_of(data)
    if rows is None:
        return data, b"", b""
    own = np.flatnonzero(pids_of(rows) == pid)
    begun = own[rows[own, 1] & 0x40 != 0]
    tables = tables_of(rows, pid)
    if not len(begun):
        return data, b"", tables
    last = own[own >= begun[-1]]
    if len(last) > MOST_UNFINISHED or _finished(rows[last]):
        return data, b"", tables
    waiting = np.zeros(len(rows), bool)
    waiting[last] = True
    return rows[~waiting].tobytes(), rows[waiting].tobytes(), tables


def _finished(rows: Packets) -> bool:
    """Say whether packets hold all that their PES packet announces; one without a length ends with the next one."""
    payload = b""
    size = 0
    for row in rows:
        start = 4
        if row[3] & 0x20:
            start += 1 + int(row[4])
        if row[3] & 0x10 and start < PACKET:
            size += PACKET - start
            if len(payload) < 6:
                payload += row[start:].tobytes()
    length = int.from_bytes(payload[4:6], "big")
    return length > 0 and payload[:3] == b"\0\0\1" and size >= 6 + length


def joined(tables: bytes, unfinished: bytes, data: bytes, pid: int) -> bytes:
    """Put what the segment before left in front of this PID's first packet, and its tables where this has none yet."""
    rows = packets_of(data)
    if rows is None:
        return data
    pids = pids_of(rows)
    pats, own = np.flatnonzero(pids == 0), np.flatnonzero(pids == pid)
    first = int(own[0]) if len(own) else len(rows)
    if not len(pats) or pats[0] > first:
        return tables + unfinished + data
    return data[: first * PACKET] + unfinished + data[first * PACKET :] if unfinished else data
