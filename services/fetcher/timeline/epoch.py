"""The state of an epoch that is running, and of the segment of it that is being heard.

Only state and how it begins; who decides when is epochs.py, what becomes of the samples assembler.py. Start at `Epoch`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import av
import numpy as np
from numpy.typing import NDArray

from services.fetcher.media.decoder import Decoder, Resampler, aligned
from services.fetcher.media.segment_media import SegmentMedia
from services.fetcher.segment import Segment
from services.fetcher.timeline.resume_point import MOST_ENTRIES, Entry


@dataclass
class Epoch:
    """The epoch that is running: its decoder, its resampler, and how far it has come.

    Attributes:
        joined: it shares its clock with the epoch before, so timestamps tell how much is missing between them.
        entries: where its decoding can begin again.
        native: native samples so far, without those that are waiting.
        first_ticks: timestamp of its first packet.
        prepared: that packet has come.
        born: the decoder has given samples, so it has its place on the timeline.
        blind: it was taken up in mid-epoch and the decoder has given nothing yet.
        silent_s: how long the packets are that gave nothing, without an error, before the first samples.
        drift_s: by how much the timestamps are ahead of the samples, small jumps added up.
    """

    number: int
    first_sample: int
    reason: str
    identity: tuple[object, ...]
    decoder: Decoder
    joined: bool = True
    entries: deque[Entry] = field(default_factory=deque)
    native: int = 0
    first_ticks: int | None = None
    prepared: bool = False
    born: bool = False
    blind: bool = False
    silent_s: float = 0.0
    drift_s: float = 0.0
    resampler: Resampler | None = None
    leave_out: int = 0
    heard: int = 0
    started: bool = False

    def enter(self, entry: Entry) -> None:
        """Note a place from which the epoch can be taken up; the first stays: it is the epoch's exact start."""
        self.entries.append(entry)
        if len(self.entries) > MOST_ENTRIES:
            del self.entries[1]

    def begin(self, media: SegmentMedia) -> None:
        """Set up the resampler, once the first frame has told the rate."""
        rate, pts = self.decoder.rate, self.decoder.first_pts
        self.resampler = Resampler(rate)
        first_ticks = self.first_ticks if pts is not None else None
        if self.native and first_ticks is not None and pts is not None:
            # Begun in mid-epoch, a decoder may swallow its first packets; what it gives then is so much later.
            self.native += max(round((pts - first_ticks) * media.tick_s * rate), 0)
        self.leave_out, self.heard = aligned(self.native, rate)
        if not self.native and not self.entries[0].packet:
            delay = media.delay
            if pts is not None and media.priming_s:
                delay += max(round((media.priming_s - pts * media.tick_s) * rate), 0)
            self.leave_out += delay
            self.native -= self.leave_out


@dataclass
class SegmentInHand:
    """The segment that is being heard.

    Attributes:
        sure: its initialization section is the one that its list means now.
        cut: why its bytes are not all, as (cause, detail).
        native: where in the epoch it began.
        start_s: media time at which it began, or at which the epoch began within it.
        offset_s: how long it had lasted then.
        expected: ticks at which the next packet should begin.
        index: frames taken.
        elapsed_s: how long they last.
        torn: bytes that are no frames were passed over.
        pieces: how often its frames did not decode.
    """

    segment: Segment
    media: SegmentMedia
    identity: tuple[object, ...]
    received_at: float
    live: bool
    sure: bool = True
    cut: tuple[str, str] | None = None
    native: int = 0
    start_s: float | None = None
    offset_s: float = 0.0
    expected: float | None = None
    index: int = 0
    elapsed_s: float = 0.0
    arrived: bool = False
    torn: bool = False
    pieces: int = 0
    damaged: int = 0
    damaged_s: float = 0.0
    events_noted: int = 0
    pcm: list[NDArray[np.int16]] = field(default_factory=list)
    samples: int = 0

    def expect(self, packet: av.Packet, seconds: float) -> None:
        """Note when the packet after this one should begin."""
        if packet.pts is not None:
            self.expected = packet.pts
        if self.expected is not None:
            self.expected += seconds / self.media.tick_s
