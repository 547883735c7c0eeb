"""From segments' bytes to what is heard: epochs, their positions on the timeline, gaps between them, bookmarks.

No network and no clock: the same segments give the same items, bit for bit, which is what makes a bookmark work.
Which segments come, and when, is the listener's business (listener.py). Start at `Epochs.hear`.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator

import av
import av.error

from services.fetcher import bookmarks, id3
from services.fetcher.bookmarks import MOST_ENTRIES, Entry, name_of
from services.fetcher.decoder import Decoder, FormatChangedError, PartlyDamagedError
from services.fetcher.epoch import Epoch, Hearing
from services.fetcher.gaps import Hole
from services.fetcher.heard import SAMPLE_RATE, Bookmark, EpochEnded, EpochStarted, Heard, Report
from services.fetcher.playlist import Segment
from services.fetcher.segment_media import MediaError, open_segment
from services.fetcher.timeline import NativeSink, Timeline
from services.fetcher.timestamps import jump_s

# Longer segments are handed on in pieces of this length, so that memory does not grow with them.
PIECE_SAMPLES = 30 * SAMPLE_RATE
# Native samples that are mixed and resampled at once: arrays of 128 KiB come from malloc's free lists and stay in the
# cache. Half as many cost a tenth more; whole segments at once took fresh pages from the kernel each time, and longer.
BLOCK_SAMPLES = 32_768
# A forward jump of timestamps beyond this is a clock that was set anew, not audio that is missing.
LONGEST_JUMP_S = 600.0
_DAMAGE = (av.error.FFmpegError, ValueError, MemoryError)


class DivergedError(Exception):
    """Heard again, the stream is not what it was: a segment on the way to the bookmark is missing or different."""


class Epochs:
    """Turns segments into heard items; keeps the position of one stream.

    Args:
        tolerance_s: a jump of timestamps from here on breaks the epoch.
        title_from_extinf: whether EXTINF titles are tracks.
        native: called with (epoch number, rate, one array a channel) before mixing; for `genre record`.

    Attributes:
        timeline: what was handed on so far.
        missing_segments, last_missing: how many could not be heard, and (cause, detail) of the latest.
    """

    def __init__(
        self, tolerance_s: float = 0.1, title_from_extinf: bool = True, native: NativeSink | None = None
    ) -> None:
        self.tolerance_s, self.title_from_extinf = tolerance_s, title_from_extinf
        self.timeline = Timeline(native)
        self.number = 0
        self.missing_segments = 0
        self.last_missing = ("", "")
        self._epoch: Epoch | None = None
        self._hole = Hole()
        self._expected_s: float | None = None
        self._wraps = True
        self._stream_id: int | None = None
        self._restarted: str | None = None
        self._last: Hearing | None = None
        self._resumed: tuple[Bookmark, Entry] | None = None

    @property
    def position(self) -> int:
        """Timeline position up to which everything was heard or is in a gap."""
        return self.timeline.position

    # --- what the listener says -------------------------------------------------------------------------------------

    def resume(self, bookmark: Bookmark, entry: Entry) -> None:
        """Take up a bookmarked epoch: decode from this entry on, hand on from the bookmark's first sample on."""
        self._resumed, self.timeline.until = (bookmark, entry), bookmark.first_sample
        self.timeline.position, self.number = bookmark.epoch_first_sample, bookmark.epoch

    def resume_elsewhere(self, bookmark: Bookmark) -> Iterator[Heard]:
        """Give up the bookmarked epoch, whose segments are gone: it ends at the bookmark, another follows."""
        yield EpochStarted(bookmark.epoch, bookmark.epoch_first_sample, "resumed")
        yield EpochEnded(bookmark.epoch, bookmark.first_sample)
        self.timeline.position, self.number = bookmark.first_sample, bookmark.epoch + 1
        self._expected_s, self._wraps = bookmarks.media_time_s(bookmark)
        self.timeline.heard_anything = True

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
        yield from self.timeline.settle(self._hole, None)

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
            yield from self._hear(Hearing(segment, media, identity, received_at, live))

    def _hear(self, now: Hearing) -> Iterator[Heard]:
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
            decoder = self._running.decoder
            try:
                samples = decoder.decode(packet)
            except FormatChangedError:
                now.start_s, now.first_ticks = None if ticks is None else ticks * media.tick_s, packet.pts
                yield from self._break(now, "format", index)
                decoder = self._running.decoder
                samples = self._decoded_anew(packet, now)
            except PartlyDamagedError as error:
                samples = error.samples
                now.damaged += 1
                now.damaged_s += (packet.duration or 0) * media.tick_s * error.lost
            except _DAMAGE:
                samples = 0
                now.damaged += 1
                now.damaged_s += (packet.duration or 0) * media.tick_s
            if ticks is not None:
                expected = ticks
            if expected is not None:
                expected += packet.duration or samples / (decoder.rate or SAMPLE_RATE) / media.tick_s
            if decoder.waiting >= BLOCK_SAMPLES:
                self.timeline.absorb(self._running, now)
                if now.samples >= PIECE_SAMPLES:
                    yield from self.timeline.flush(self._running, now)
        if index < leave_out:
            self.missing(now.segment.duration, "undecodable", f"no audio packet in {media.format}")
            return
        yield from self.timeline.flush(self._running, now)
        self._expect(now, expected)
        yield from self._tell_damage(now)

    def _decoded_anew(self, packet: av.Packet, now: Hearing) -> int:
        """Decode the first packet of an epoch that began because of its format."""
        try:
            return self._running.decoder.decode(packet)
        except PartlyDamagedError as error:
            now.damaged += 1
            return error.samples
        except (*_DAMAGE, FormatChangedError):
            now.damaged += 1
            return 0

    def _expect(self, now: Hearing, expected_ticks: float | None) -> None:
        """Remember at which media time the next segment should begin."""
        self._wraps = now.media.wraps
        if now.media.timed:
            self._expected_s = None if expected_ticks is None else expected_ticks * now.media.tick_s
        elif now.start_s is not None and self._epoch and self._epoch.decoder.rate:
            self._expected_s = now.start_s + (self._epoch.native - now.native) / self._epoch.decoder.rate
        else:
            self._expected_s = None

    @property
    def _running(self) -> Epoch:
        """Return the running epoch, which exists once a packet has arrived."""
        assert self._epoch is not None
        return self._epoch

    # --- where epochs begin and end ---------------------------------------------------------------------------------

    def _arrive(self, now: Hearing) -> Iterator[Heard]:
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
            self.timeline.playing.note(id3.from_extinf(now.segment.title), self.timeline.position)

    def _reason(self, now: Hearing, jump: float | None) -> str | None:
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

    def _break(self, now: Hearing, reason: str, packet: int, jump: float | None = None) -> Iterator[Heard]:
        """End the running epoch, settle the gap before this packet, and begin a new epoch with it."""
        yield from self._end_epoch()
        if not self._hole and jump is not None and self.tolerance_s <= jump <= LONGEST_JUMP_S:
            self._hole.add(jump, "timestamps", f"timestamps jump by {jump:.3f} s")
        yield from self.timeline.settle(self._hole, jump)
        self._begin(now, reason, Entry(now.segment.media_sequence, name_of(now.segment.uri), 0, packet), [])

    def _begin(self, now: Hearing, reason: str, entry: Entry, before: list[Entry]) -> None:
        """Set up a new epoch at the current position."""
        media = now.media
        decoder = Decoder(media.codec, media.extradata)
        entries = deque([*before, entry])
        self._epoch = Epoch(self.number, self.timeline.position, reason, now.identity, decoder, entries, entry.native)
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
            yield from self.timeline.flush(epoch, now)
            if epoch.resampler is not None:
                yield from self.timeline.hand_on(epoch, epoch.resampler.drain(), now)
        if epoch is None:
            return
        if self.timeline.until is not None and self.timeline.until != self.timeline.position:
            raise DivergedError(f"epoch {epoch.number} ends before the bookmark")
        if self.timeline.until is not None:  # the bookmark is the epoch's end: all of it was heard before
            self.timeline.until = None
            epoch.started = True
            yield EpochStarted(epoch.number, epoch.first_sample, epoch.reason)
        if epoch.started:
            yield EpochEnded(epoch.number, self.timeline.position)
            self.number += 1
        self._epoch = None

    def _tell_damage(self, now: Hearing) -> Iterator[Heard]:
        """Report packets that did not decode, unless that was told before the bookmark."""
        if now.damaged and self.timeline.until is None:
            reason = f"segment {now.segment.media_sequence}: {now.damaged} packets did not decode"
            yield Report("damaged", reason, {"packets": now.damaged, "seconds": round(now.damaged_s, 3)})
