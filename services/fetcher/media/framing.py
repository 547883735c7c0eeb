"""From bytes to whole audio frames: cut where frames begin, across PES packets and segments; tags and garbage left out.

An unfinished frame waits in `Framer.rest` for what follows. The decoder is given several frames of AAC at once: one
call takes all of them. Start at `Framer.batches`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import av

from services.fetcher.media.frames import ADTS_FORM, HEADER_BYTES, Header, Parser, ac3, adts
from services.fetcher.media.id3 import tag_length
from services.fetcher.media.timestamps import CLOCK_HZ

MOST_TOGETHER = 4
"""Frames of AAC that the decoder is given at once, others one; libav keeps the buffers of all that were ever decoded at
once: eight are 3 % faster and 64 KiB more a stream."""
MOST_REST = 65_536
"""Bytes that wait for the rest of their frame: no frame is as long."""
MOST_FRAMES = 400_000
"""Of one segment: hours. A frame can be eight bytes long, and is decoded to 8 KiB."""
MOST_SEARCHES = 1 << 18
"""Places of one segment that are looked at for a frame, where none was."""
JITTER_TICKS = 2
"""Timestamps are rounded to ticks of 1/90,000 s: frames of 1,024 samples at 44,100 Hz last 2,089.8."""
_TIME_BASE = Fraction(1, CLOCK_HZ)


class Batch(NamedTuple):
    """What goes to the decoder at once, or a stretch in which no frame could be read.

    Attributes:
        packet: None where bytes are no frames.
        frames: how many of the segment's own; 0 where it was begun in the segment before.
        seconds: how long it lasts as its headers, or its container, say.
        skipped: bytes that are no frames.
        cut: they begin with a frame's header.
    """

    packet: av.Packet | None
    frames: int
    seconds: float
    skipped: int = 0
    cut: bool = False


def packet_of(data: bytes, pts: float | None, ticks: float) -> av.Packet:
    """Make a packet at the 90 kHz clock."""
    packet = av.Packet(data)
    packet.time_base = _TIME_BASE
    packet.pts = None if pts is None else round(pts)
    packet.duration = round(ticks)
    return packet


def singles(batch: Batch) -> list[Batch]:
    """Take a batch of AAC apart into its frames."""
    if batch.packet is None or batch.frames <= 1:
        return [batch]
    data, at = bytes(batch.packet), 0
    parts: list[Batch] = []
    seconds = batch.seconds / batch.frames
    while (header := adts(data, at)) is not None:
        pts = None if batch.packet.pts is None else batch.packet.pts + len(parts) * seconds * CLOCK_HZ
        packet = packet_of(data[at : at + header.length], pts, seconds * CLOCK_HZ)
        parts.append(Batch(packet, 1, seconds))
        at += header.length
    return parts


def run_of(data: bytes, at: int, form: int, most: int) -> tuple[int, int]:
    """Walk over whole AAC frames of one form: (where they end, how many).

    Half of what a stream's frames cost was objects for headers that say nothing new.
    """
    count, size = 0, len(data)
    while count < most:
        bits = int.from_bytes(data[at : at + HEADER_BYTES], "big")
        length = bits >> 13 & 0x1FFF
        if bits & ADTS_FORM != form or length <= HEADER_BYTES or at + length > size:
            break
        count += 1
        at += length
    return at, count


class Framer:
    """Cuts one stream of frames.

    Args:
        parse: reads a header of this kind of frame.
        rest, rest_pts: what waited at the end of the segment before.
        on_tag: called with an ID3 tag between frames and its time since the first frame, in seconds.

    Attributes:
        rest, rest_pts: bytes of the last frame, which is not whole, and its time.
    """

    def __init__(
        self,
        parse: Parser,
        rest: bytes = b"",
        rest_pts: float | None = None,
        on_tag: Callable[[bytes, float], None] | None = None,
    ) -> None:
        self._parse, self.rest, self.rest_pts, self._on_tag = parse, rest, rest_pts, on_tag
        self._most = MOST_TOGETHER if parse is adts else 1
        header = parse(rest, 0)
        self._form = -1 if header is None else header.form
        self._bits = self._form if parse is adts else -1
        self._carried = bool(rest)
        self._seconds = 0.0
        self._frames = self._searches = 0

    def batches(self, payloads: Iterable[tuple[bytes, float | None]]) -> Iterator[Batch]:
        """Yield the frames of payloads (PES packets with their timestamp, or a whole file), in order.

        A payload's timestamp is that of the first frame that begins in it.
        """
        parts: list[bytes] = []
        begins: float | None = None
        frames, ticks, frame_ticks, form = 0, 0.0, 0.0, -1
        for payload, pts in payloads:
            for data, count, header, at, own in self._runs(payload, pts):
                if parts and (
                    header is None
                    or header.form != form
                    or not own
                    or frames + count > self._most
                    or at is None
                    or begins is None
                    or not -JITTER_TICKS <= at - begins - ticks <= JITTER_TICKS
                ):
                    yield Batch(packet_of(b"".join(parts), begins, ticks), frames, ticks / CLOCK_HZ)
                    parts = []
                if header is None:
                    yield Batch(None, 0, 0.0, len(data), count > 0)
                    continue
                if not parts:
                    begins, frames, ticks, form = at, 0, 0.0, header.form
                    frame_ticks = header.samples / header.rate * CLOCK_HZ
                if not own:
                    yield Batch(packet_of(data, at, frame_ticks), 0, frame_ticks / CLOCK_HZ)
                    continue
                parts.append(data)
                frames += count
                ticks += count * frame_ticks
        if parts:
            yield Batch(packet_of(b"".join(parts), begins, ticks), frames, ticks / CLOCK_HZ)

    def _runs(
        self, payload: bytes, pts: float | None
    ) -> Iterator[tuple[bytes, int, Header | None, float | None, bool]]:
        """Yield runs of frames of one form: (bytes, how many, header of the first, time, begun in this segment).

        Without a header: bytes that are no frames; then the number says whether they begin with a frame's header.
        """
        parse, time = self._parse, self.rest_pts
        if not self.rest and int.from_bytes(payload[:HEADER_BYTES], "big") & ADTS_FORM == self._bits:
            end, count = run_of(payload, 0, self._bits, self._most)
            header = adts(payload, 0) if count and end == len(payload) else None
            if header is not None:  # the usual payload: whole frames like those before, and nothing else
                begins = time if pts is None else pts
                yield payload, count, header, begins, True
                self._go_on(header, count, begins)
                return
        data, border = self.rest + payload, len(self.rest)
        self.rest = b""
        at, stop = 0, len(data)
        while at < stop:
            if at >= border and pts is not None:
                time, pts = pts, None
            header = self._read(data, at, border) if self._frames < MOST_FRAMES else None
            if header is None:
                if stop - at < HEADER_BYTES:
                    break  # perhaps a header, whose end is in the next payload
                if length := tag_length(data, at):
                    if self._on_tag is not None:
                        self._on_tag(data[at : at + length], self._seconds)
                    at += length
                    continue
                found = self._next(data, at + 1)
                yield data[at:found], int(parse(data, at) is not None), None, time, True
                at, self._carried = found, False
                continue
            if at + header.length > stop:
                break
            begin, count, at = at, 1, at + header.length
            if self._most > 1 and begin >= border and not self._carried:
                at, count = run_of(data, begin, header.form, self._most)
            yield data[begin:at], count, header, time, not self._carried
            time = self._go_on(header, count, time)
        self.rest, self.rest_pts = data[at : at + MOST_REST], time

    def _go_on(self, header: Header, frames: int, time: float | None) -> float | None:
        """Note frames that were handed on; return when they end."""
        self._form, self._carried = header.form, False
        self._bits = header.form if self._parse is adts else -1
        self._frames += frames
        seconds = frames * header.samples / header.rate
        self._seconds += seconds
        self.rest_pts = None if time is None else time + seconds * CLOCK_HZ
        return self.rest_pts

    def _read(self, data: bytes, at: int, border: int) -> Header | None:
        """Read a header that is one: of the form before it, or with another one where its frame ends."""
        header = self._parse(data, at)
        if header is None:
            return None
        end = at + header.length
        if end + HEADER_BYTES > len(data):
            return header if self._form in (header.form, -1) or end == len(data) else None
        if self._parse(data, end) is not None or tag_length(data, end):
            return header
        # A frame whose rest did not come is followed by one that begins with the payload.
        cut = at < border and self._parse(data, border) is not None
        return header if header.form == self._form and not cut else None

    def _next(self, data: bytes, at: int) -> int:
        """Find where the next frame, or an ID3 tag, begins; the end where there is none."""
        mark = b"\x0b\x77" if self._parse is ac3 else b"\xff"
        while at < len(data) and self._searches < MOST_SEARCHES and self._frames < MOST_FRAMES:
            self._searches += 1
            found = data.find(mark, at)
            tag = data.find(b"ID3", at, found if found >= 0 else len(data))
            if tag >= 0 and tag_length(data, tag):
                return tag
            if found < 0:
                break
            header = self._parse(data, found)
            if header is not None:
                end = found + header.length
                after = self._parse(data, end)
                if after.form == header.form if after else end >= len(data) and header.form == self._form:
                    return found
            at = found + 1
        return len(data)
