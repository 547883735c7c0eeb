"""What is decoded, handed on: mixed, resampled, with its place on the timeline, its tracks, its clock and resume point.

timeline = samples of all epochs + samples of all gaps, always. Which epoch runs is epochs.py's decision.
Start at `Timeline.flush`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from services.contract.windows import SAMPLE_RATE
from services.fetcher.events import Audio, EpochStarted, ResumePoint, StreamEvent
from services.fetcher.media.decoder import Native, mono
from services.fetcher.media.timestamps import jump_s
from services.fetcher.timeline import resume_point
from services.fetcher.timeline.epoch import Epoch, SegmentInHand
from services.fetcher.timeline.gaps import PendingGap
from services.fetcher.timeline.tracks import NowPlaying

NativeSink = Callable[[int, int, Native], None]


class Timeline:
    """The timeline of one stream.

    Args:
        native_sink: called with (epoch number, rate, one array a channel) before mixing.

    Attributes:
        position: up to which everything was heard or is in a gap.
        until: while resuming, the position before which nothing is handed on again.
    """

    def __init__(self, native_sink: NativeSink | None) -> None:
        self.native_sink = native_sink
        self.position = 0
        self.until: int | None = None
        self.heard_anything = False
        self.playing = NowPlaying()

    def absorb(self, epoch: Epoch, now: SegmentInHand, segment_ends: bool = False) -> None:
        """Mix and resample what the decoder has waiting."""
        native = epoch.decoder.take(segment_ends)
        if not native:
            return
        if epoch.resampler is None:
            epoch.begin(now.media)
            now.native = max(now.native, epoch.native)
        epoch.native += len(native[0])
        if epoch.leave_out:
            cut = min(epoch.leave_out, len(native[0]))
            epoch.leave_out -= cut
            native = tuple(channel[cut:] for channel in native)
        if self.native_sink is not None and self.until is None:
            self.native_sink(epoch.number, epoch.decoder.rate, native)
        assert epoch.resampler is not None
        pcm = epoch.resampler.feed(mono(native))
        now.pcm.append(pcm)
        now.samples += len(pcm)

    def flush(self, epoch: Epoch, now: SegmentInHand) -> Iterator[StreamEvent]:
        """Hand on all that was decoded."""
        self.absorb(epoch, now, segment_ends=True)
        if epoch.resampler is not None:
            epoch.resampler.rest()
        if now.pcm:
            pcm = now.pcm[0] if len(now.pcm) == 1 else np.concatenate(now.pcm)
            now.pcm, now.samples = [], 0
            yield from self.hand_on(epoch, pcm, now)

    def hand_on(self, epoch: Epoch, pcm: NDArray[np.int16], now: SegmentInHand) -> Iterator[StreamEvent]:
        """Yield audio with its place on the timeline, preceded by what belongs before it."""
        first = epoch.first_sample + epoch.heard
        epoch.heard += len(pcm)
        self.position = epoch.first_sample + epoch.heard
        self._note_events(epoch, now)
        if self.until is not None:
            if self.position <= self.until:
                self.playing.swallow()
                return
            pcm, first = pcm[max(self.until - first, 0) :], max(self.until, first)
            self.until = None
        if not len(pcm):
            return
        if not epoch.started:
            epoch.started = self.heard_anything = True
            yield EpochStarted(epoch.number, epoch.first_sample, epoch.reason)
        yield from self.playing.tell(first)
        media_s = (
            first - epoch.first_sample
        ) / SAMPLE_RATE - now.native / epoch.decoder.rate  # since its segment began
        date = now.segment.program_date_time
        pts_s = None if now.start_s is None else now.start_s + media_s
        where = resume_point.place(epoch.entries, now.segment.media_sequence, first, pts_s, now.media.wraps, date)
        yield Audio(
            epoch=epoch.number,
            first_sample=first,
            pcm=pcm,
            received_at=now.received_at,
            observed_at=None if date is None else date + now.offset_s + media_s,
            resume_point=ResumePoint(epoch.number, epoch.first_sample, first, where),
            live=now.live,
        )

    def _note_events(self, epoch: Epoch, now: SegmentInHand) -> None:
        """Place the ID3 tags of a segment on the timeline."""
        while now.events_noted < len(now.media.events):
            event = now.media.events[now.events_noted]
            now.events_noted += 1
            since_s = max(event.after_s - now.offset_s, 0.0)
            if event.at_s is not None and now.start_s is not None:
                since_s = max(jump_s(event.at_s, now.start_s, True), 0.0)
            at = epoch.first_sample + round((now.native / (epoch.decoder.rate or 1) + since_s) * SAMPLE_RATE)
            self.playing.note(event.tags, at)

    def settle(self, hole: PendingGap, jump: float | None) -> Iterator[StreamEvent]:
        """Turn what is missing into gaps."""
        for gap in hole.settle(self.position, jump) if hole else ():
            self.position += gap.samples
            yield gap
