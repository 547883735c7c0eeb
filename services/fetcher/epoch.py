"""The state of an epoch that is running, and of the segment of it that is being heard.

Only state and how it begins; who decides when is epochs.py, what becomes of the samples timeline.py. Start at `Epoch`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.fetcher.bookmarks import Entry
from services.fetcher.decoder import Decoder, Resampler, aligned
from services.fetcher.playlist import Segment
from services.fetcher.segment_media import SegmentMedia


@dataclass
class Epoch:
    """The epoch that is running: its decoder, its resampler, and how far it has come."""

    number: int
    first_sample: int
    reason: str
    identity: tuple[object, ...]
    decoder: Decoder
    entries: deque[Entry]
    native: int
    resampler: Resampler | None = None
    leave_out: int = 0
    heard: int = 0
    started: bool = False

    def begin(self, first_ticks: int | None, tick_s: float, priming_s: float) -> None:
        """Set up the resampler, once the first frame has told the rate.

        Args:
            first_ticks: timestamp of the first packet; None where packets have none.
            tick_s: length of a tick.
            priming_s: media time before which there is only encoder delay.
        """
        rate, pts = self.decoder.rate, self.decoder.first_pts
        self.resampler = Resampler(rate)
        if self.native and pts is not None and first_ticks is not None:
            # Begun in mid-epoch, a decoder may swallow its first packets; what it gives then is so much later.
            self.native += max(round((pts - first_ticks) * tick_s * rate), 0)
        self.leave_out, self.heard = aligned(self.native, rate)
        if pts is not None and priming_s and not self.native and first_ticks is not None:
            self.leave_out += max(round((priming_s - pts * tick_s) * rate), 0)
            self.native -= self.leave_out


@dataclass
class Hearing:
    """The segment that is being heard: native is where in the epoch it began."""

    segment: Segment
    media: SegmentMedia
    identity: tuple[object, ...]
    received_at: float
    live: bool
    native: int = 0
    start_s: float | None = None
    first_ticks: int | None = None
    damaged: int = 0
    damaged_s: float = 0.0
    events_noted: int = 0
    pcm: list[NDArray[np.int16]] = field(default_factory=list)
    samples: int = 0
