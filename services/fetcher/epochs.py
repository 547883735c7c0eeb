"""From segments' bytes to what is heard: epochs, their positions on the timeline, gaps between them, bookmarks.

No network and no clock: the same segments give the same items, bit for bit, which is what makes a bookmark work.
Which segments come, and when, is the listener's business (listener.py). Start at `Epochs.hear`.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from services.fetcher import bookmarks, id3
from services.fetcher.bookmarks import MOST_ENTRIES, Entry, name_of
from services.fetcher.decoder import Decoder, FormatChangedError, Native, Resampler, aligned, mono
from services.fetcher.gaps import Hole
from services.fetcher.heard import SAMPLE_RATE, Audio, Bookmark, EpochEnded, EpochStarted, Heard, Report
from services.fetcher.playlist import Segment
from services.fetcher.segment_media import MediaError, SegmentMedia, open_segment
from services.fetcher.timestamps import jump_s
from services.fetcher.tracks import NowPlaying

# Longer segments are handed on in pieces of this length, so that memory does not grow with them.
PIECE_SAMPLES = 30 * SAMPLE_RATE
# Native samples that are mixed and resampled at once: arrays of 64 KiB come from malloc's free lists and stay in the
# cache. Whole segments at once took fresh pages from the kernel each time, and twice as long.
BLOCK_SAMPLES = 16_384
# A forward jump of timestamps beyond this is a clock that was set anew, not audio that is missing.
LONGEST_JUMP_S = 600.0
_DAMAGE = (av.error.FFmpegError, ValueError, MemoryError)
NativeSink = Callable[[int, int, Native], None]


class DivergedError(Exception):
    """Heard again, the stream is not what it was: a segment on the way to the bookmark is missing or different."""


@dataclass
class _Epoch:
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
class _Now:
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


class Epochs:
    """Turns segments into heard items; keeps the position of one stream.

    Args:
        tolerance_s: a jump of timestamps from here on breaks the epoch.
        title_from_extinf: whether EXTINF titles are tracks.
        native: called with (epoch number, rate, one array a channel) before mixing; for `genre record`.

    Attributes:
        position: timeline position up to which everything was heard or is in a gap.
        missing_segments, last_missing: how many could not be heard, and (cause, detail) of the latest.
    """

    def __init__(
        self, tolerance_s: float = 0.1, title_from_extinf: bool = True, native: NativeSink | None = None
    ) -> None:
        self.tolerance_s, self.title_from_extinf, self.native_sink = tolerance_s, title_from_extinf, native
        self.position = 0
        self.number = 0
        self.heard_anything = False
        self.missing_segments = 0
        self.last_missing = ("", "")
        self.playing = NowPlaying()
        self._epoch: _Epoch | None = None
        self._hole = Hole()
        self._expected_s: float | None = None
        self._wraps = True
        self._stream_id: int | None = None
        self._restarted: str | None = None
        self._last: _Now | None = None
        self._resumed: tuple[Bookmark, Entry] | None = None
        self._until: int | None = None

    # --- what the listener says -------------------------------------------------------------------------------------

    def resume(self, bookmark: Bookmark, entry: Entry) -> None:
        """Take up a bookmarked epoch: decode from this entry on, hand on from the bookmark's first sample on."""
        self._resumed, self._until = (bookmark, entry), bookmark.first_sample
        self.position, self.number = bookmark.epoch_first_sample, bookmark.epoch

    def resume_elsewhere(self, bookmark: Bookmark) -> Iterator[Heard]:
        """Give up the bookmarked epoch, whose segments are gone: it ends at the bookmark, another follows."""
        yield EpochStarted(bookmark.epoch, bookmark.epoch_first_sample, "resumed")
        yield EpochEnded(bookmark.epoch, bookmark.first_sample)
        self.position, self.number = bookmark.first_sample, bookmark.epoch + 1
        self._expected_s, self._wraps = bookmarks.media_time_s(bookmark)
        self.heard_anything = True

    def missing(self, duration_s: float, cause: str, detail: str) -> None:
        """Note a stretch that will not be heard; it becomes a Gap when the next segment settles its length."""
        self._hole.add(duration_s, cause, detail)
        self.missing_segments += 1
        self.last_missing = (cause, detail)

    def restarted(self, reason: str) -> None:
        """Note that what comes next does not continue what came before, whatever its numbers say."""
        self._restarted = self._restarted or reason

    def end(self) -> Iterator[Heard]:
        """End the running epoch and settle what is missing; the position is then the timeline's end."""
        yield from self._end_epoch()
        yield from self._settle(None)

    # --- hearing ----------------------------------------------------------------------------------------------------

    def hear(
        self, segment: Segment, data: bytes, init: bytes | None, received_at: float, live: bool = False
    ) -> Iterator[Heard]:
        """Decode a segment and yield what it adds: tracks, audio, and before them gaps and the change of epoch.

        Raises:
            DivergedError: only while resuming.
        """
        try:
            media = open_segment(data, init, self._stream_id)
        except MediaError as error:
            self.missing(segment.duration, error.cause, error.detail)
            return
        with media:
            section = hashlib.sha256(init).digest() if init else None
            identity = (segment.discontinuity_sequence, section, media.format, media.codec)
            yield from self._hear(_Now(segment, media, identity, received_at, live))

    def _hear(self, now: _Now) -> Iterator[Heard]:
        """Walk through the packets of a segment; break the epoch wherever they do not continue it.

        This loop runs 43 times an audio-second: what can be done once a segment is done elsewhere.
        """
        media = now.media
        leave_out = self._resumed[1].packet if self._resumed else 0
        tolerance = self.tolerance_s / media.tick_s
        expected: float | None = None
        index = -1
        for packet in media.packets():
            index += 1
            if index < leave_out:
                continue
            ticks = packet.pts if media.timed else None
            if index == leave_out:
                now.start_s, now.first_ticks = media.start_s(packet), packet.pts
                yield from self._arrive(now)
            elif ticks is not None and expected is not None and not -tolerance < ticks - expected < tolerance:
                jump = jump_s(ticks * media.tick_s, expected * media.tick_s, media.wraps)
                if abs(jump) >= self.tolerance_s:
                    now.start_s, now.first_ticks = ticks * media.tick_s, ticks
                    yield from self._break(now, "timestamps", index, jump)
            try:
                samples = self._running.decoder.decode(packet)
            except FormatChangedError:
                now.start_s, now.first_ticks = None if ticks is None else ticks * media.tick_s, packet.pts
                yield from self._break(now, "format", index)
                samples = self._decoded_anew(packet, now)
            except _DAMAGE:
                samples = 0
                now.damaged += 1
                now.damaged_s += (packet.duration or 0) * media.tick_s
            decoder = self._running.decoder
            if ticks is not None:
                expected = ticks
            if expected is not None:
                expected += packet.duration or samples / (decoder.rate or SAMPLE_RATE) / media.tick_s
            if decoder.waiting >= BLOCK_SAMPLES:
                self._absorb(now)
                if now.samples >= PIECE_SAMPLES:
                    yield from self._flush(now)
        if index < leave_out:
            self.missing(now.segment.duration, "undecodable", f"no audio packet in {media.format}")
            return
        yield from self._flush(now)
        self._expect(now, expected)
        yield from self._tell_damage(now)

    def _decoded_anew(self, packet: av.Packet, now: _Now) -> int:
        """Decode the first packet of an epoch that began because of its format."""
        try:
            return self._running.decoder.decode(packet)
        except (*_DAMAGE, FormatChangedError):
            now.damaged += 1
            return 0

    def _expect(self, now: _Now, expected_ticks: float | None) -> None:
        """Remember at which media time the next segment should begin."""
        self._wraps = now.media.wraps
        if now.media.timed:
            self._expected_s = None if expected_ticks is None else expected_ticks * now.media.tick_s
        elif now.start_s is not None and self._epoch and self._epoch.decoder.rate:
            self._expected_s = now.start_s + (self._epoch.native - now.native) / self._epoch.decoder.rate
        else:
            self._expected_s = None

    @property
    def _running(self) -> _Epoch:
        """Return the running epoch, which exists once a packet has arrived."""
        assert self._epoch is not None
        return self._epoch

    # --- where epochs begin and end ---------------------------------------------------------------------------------

    def _arrive(self, now: _Now) -> Iterator[Heard]:
        """Decide whether a segment continues the epoch; if not, end that one, settle the gap, begin the next."""
        epoch = self._epoch
        if self._resumed is not None:
            bookmark, entry = self._resumed
            before = [e for e in bookmarks.entries_of(bookmark) if e.media_sequence < entry.media_sequence]
            self._begin(now, "resumed", entry, before)
            self._resumed = None
        else:
            jump = None
            if now.start_s is not None and self._expected_s is not None and now.media.wraps == self._wraps:
                jump = jump_s(now.start_s, self._expected_s, now.media.wraps)
            reason = self._reason(now, jump)
            if reason is not None:
                same_clock = not self._restarted and (epoch is None or now.identity[0] == epoch.identity[0])
                yield from self._break(now, reason, 0, jump if same_clock else None)
            elif epoch is not None:
                now.native = epoch.native
                epoch.entries.append(Entry(now.segment.media_sequence, name_of(now.segment.uri), epoch.native))
                if len(epoch.entries) > MOST_ENTRIES:
                    del epoch.entries[1]  # the first stays: it is the epoch's exact start
        self._last = now
        if self.title_from_extinf and now.segment.title:
            self.playing.note(id3.from_extinf(now.segment.title), self.position)

    def _reason(self, now: _Now, jump: float | None) -> str | None:
        """Return in a word why this segment opens a new epoch, or None where it continues the running one."""
        epoch = self._epoch
        if self._restarted:
            return self._restarted
        if epoch is None:
            return "gap" if self._hole else "start"
        for part, reason in enumerate(("discontinuity", "map", "format", "format")):
            if now.identity[part] != epoch.identity[part]:
                return reason
        if self._hole:
            return "gap"
        return "timestamps" if jump is not None and abs(jump) >= self.tolerance_s else None

    def _break(self, now: _Now, reason: str, packet: int, jump: float | None = None) -> Iterator[Heard]:
        """End the running epoch, settle the gap before this packet, and begin a new epoch with it."""
        yield from self._end_epoch()
        if not self._hole and jump is not None and self.tolerance_s <= jump <= LONGEST_JUMP_S:
            self._hole.add(jump, "timestamps", f"timestamps jump by {jump:.3f} s")
        yield from self._settle(jump)
        self._begin(now, reason, Entry(now.segment.media_sequence, name_of(now.segment.uri), 0, packet), [])

    def _begin(self, now: _Now, reason: str, entry: Entry, before: list[Entry]) -> None:
        """Set up a new epoch at the current position."""
        media = now.media
        decoder = Decoder(media.codec, media.extradata)
        entries = deque([*before, entry])
        self._epoch = _Epoch(self.number, self.position, reason, now.identity, decoder, entries, entry.native)
        self._stream_id, self._restarted = media.stream_id, None
        now.native = entry.native

    def _end_epoch(self) -> Iterator[Heard]:
        """Drain decoder and resampler, and end the epoch exactly where its last sample is."""
        epoch, now = self._epoch, self._last
        if epoch is not None and now is not None and epoch.decoder.rate:
            try:
                epoch.decoder.decode(None)
            except (*_DAMAGE, FormatChangedError):
                now.damaged += 1
            yield from self._flush(now)
            if epoch.resampler is not None:
                yield from self._hand_on(epoch.resampler.drain(), now)
        if epoch is None:
            return
        if self._until is not None and self._until != self.position:
            raise DivergedError(f"epoch {epoch.number} ends before the bookmark")
        if self._until is not None:  # the bookmark is the epoch's end: all of it was heard before
            self._until = None
            epoch.started = True
            yield EpochStarted(epoch.number, epoch.first_sample, epoch.reason)
        if epoch.started:
            yield EpochEnded(epoch.number, self.position)
            self.number += 1
        self._epoch = None

    def _settle(self, jump: float | None) -> Iterator[Heard]:
        """Turn what is missing into gaps."""
        if self._hole:
            for gap in self._hole.settle(self.position, jump):
                self.position += gap.samples
                yield gap

    # --- handing on -------------------------------------------------------------------------------------------------

    def _absorb(self, now: _Now) -> None:
        """Mix and resample what the decoder has waiting."""
        epoch = self._running
        native = epoch.decoder.take()
        if not native:
            return
        if epoch.resampler is None:
            epoch.begin(now.first_ticks if now.media.timed else None, now.media.tick_s, now.media.priming_s)
            now.native = max(now.native, epoch.native)
        epoch.native += len(native[0])
        if epoch.leave_out:
            cut = min(epoch.leave_out, len(native[0]))
            epoch.leave_out -= cut
            native = tuple(channel[cut:] for channel in native)
        if self.native_sink is not None and self._until is None:
            self.native_sink(epoch.number, epoch.decoder.rate, native)
        assert epoch.resampler is not None
        pcm = epoch.resampler.feed(mono(native))
        now.pcm.append(pcm)
        now.samples += len(pcm)

    def _flush(self, now: _Now) -> Iterator[Heard]:
        """Hand on all that was decoded."""
        self._absorb(now)
        if now.pcm:
            pcm = now.pcm[0] if len(now.pcm) == 1 else np.concatenate(now.pcm)
            now.pcm, now.samples = [], 0
            yield from self._hand_on(pcm, now)

    def _hand_on(self, pcm: NDArray[np.int16], now: _Now) -> Iterator[Heard]:
        """Yield audio with its place on the timeline, preceded by what belongs before it."""
        epoch = self._running
        first = epoch.first_sample + epoch.heard
        epoch.heard += len(pcm)
        self.position = epoch.first_sample + epoch.heard
        self._note_events(now)
        if self._until is not None:
            if self.position <= self._until:
                self.playing.swallow()
                return
            pcm, first = pcm[max(self._until - first, 0) :], max(self._until, first)
            self._until = None
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
        where = bookmarks.place(epoch.entries, now.segment.media_sequence, first, pts_s, now.media.wraps)
        yield Audio(
            epoch=epoch.number,
            first_sample=first,
            pcm=pcm,
            received_at=now.received_at,
            observed_at=None if date is None else date + media_s,
            bookmark=Bookmark(epoch.number, epoch.first_sample, first, where),
            live=now.live,
        )

    def _note_events(self, now: _Now) -> None:
        """Place the ID3 tags of a segment on the timeline."""
        epoch = self._running
        while now.events_noted < len(now.media.events):
            event = now.media.events[now.events_noted]
            now.events_noted += 1
            since_s = event.after_s
            if event.at_s is not None and now.start_s is not None:
                since_s = max(jump_s(event.at_s, now.start_s, True), 0.0)
            at = epoch.first_sample + round((now.native / (epoch.decoder.rate or 1) + since_s) * SAMPLE_RATE)
            self.playing.note(event.tags, at)

    def _tell_damage(self, now: _Now) -> Iterator[Heard]:
        """Report packets that did not decode, unless that was told before the bookmark."""
        if now.damaged and self._until is None:
            reason = f"segment {now.segment.media_sequence}: {now.damaged} packets did not decode"
            yield Report("damaged", reason, {"packets": now.damaged, "seconds": round(now.damaged_s, 3)})
