"""From segments' bytes to what is heard: epochs, their positions on the timeline, gaps between them, resume points.

No network and no clock: the same segments give the same items, bit for bit, which is what makes a resume point work.
Which segments come, and when, is the reader's business (hls/reader.py); whether one continues the epoch is decided in
continuity.py. Start at `Epochs.decode`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterator
from dataclasses import replace

import av
import av.error

from services.contract.windows import SAMPLE_RATE
from services.fetcher.events import EpochEnded, EpochStarted, Report, ResumePoint, StreamEvent
from services.fetcher.media import id3
from services.fetcher.media.decoder import Decoder, FormatChangedError
from services.fetcher.media.framing import Batch, singles
from services.fetcher.media.segment_media import Carry, open_segment, rest_of
from services.fetcher.media.sniff import MediaError
from services.fetcher.media.timestamps import jump_s
from services.fetcher.segment import Segment
from services.fetcher.timeline.assembler import NativeSink, Timeline
from services.fetcher.timeline.continuity import Continuity
from services.fetcher.timeline.epoch import Epoch, SegmentInHand
from services.fetcher.timeline.gaps import Missing, PendingGap
from services.fetcher.timeline.resume_point import Entry, entries_of, media_time_s, name_of

# Longer segments are handed on in pieces of this length, so that memory does not grow with them.
PIECE_SAMPLES = 30 * SAMPLE_RATE
# Native samples that are mixed and resampled at once: arrays of 128 KiB come from malloc's free lists and stay in the
# cache. Half as many cost a tenth more; whole segments at once took fresh pages from the kernel each time, and longer.
BLOCK_SAMPLES = 32_768
# A forward jump of timestamps beyond this is a clock that was set again, not audio that is missing.
LONGEST_JUMP_S = 600.0
# Pieces that one segment may break into: what is left of one that is broken more often is given up, as a gap.
MOST_PIECES = 64
_DAMAGE = (av.error.FFmpegError, ValueError, MemoryError)


class DivergedError(Exception):
    """Heard again, the stream is not what it was: a segment on the way to the resume point is missing or different."""


class InitInDoubtError(Exception):
    """The clock jumps where nothing says so: perhaps another encoder, with another section under the same name."""


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
        self._pending = PendingGap()
        self._before_last: list[Missing] = []
        self._continuity = Continuity(tolerance_s)
        self._stream_id: int | None = None
        self._carry: Carry | None = None
        self._resumed: tuple[ResumePoint, Entry] | None = None

    @property
    def position(self) -> int:
        """Timeline position up to which everything was heard or is in a gap."""
        return self.timeline.position

    # --- what the reader says ---------------------------------------------------------------------------------------

    def resume(self, resume_point: ResumePoint, entry: Entry) -> None:
        """Take up an epoch: decode from this entry on, hand on from the resume point's first sample on."""
        self._resumed, self.timeline.until = (resume_point, entry), resume_point.first_sample
        self.timeline.position, self.number = resume_point.epoch_first_sample, resume_point.epoch

    def resume_elsewhere(self, resume_point: ResumePoint) -> Iterator[StreamEvent]:
        """Give up an epoch whose segments are gone: it ends at the resume point, another follows."""
        yield EpochStarted(resume_point.epoch, resume_point.epoch_first_sample, "resumed")
        yield EpochEnded(resume_point.epoch, resume_point.first_sample)
        self.timeline.position, self.number = resume_point.first_sample, resume_point.epoch + 1
        self._continuity.expect(*media_time_s(resume_point))
        self.timeline.heard_anything = True

    def missing(self, duration_s: float, cause: str, detail: str) -> None:
        """Note a stretch that will not be heard; it becomes a Gap when the next segment settles its length."""
        self._pending.add(duration_s, cause, detail)
        self.missing_segments += 1
        self.last_missing = (cause, detail)

    def forget_last(self) -> None:
        """Take back what the last segment was noted as missing; it gave nothing, and is heard again."""
        self._pending.stretches = [replace(stretch) for stretch in self._before_last]

    def restarted(self, reason: str) -> None:
        """Note that what comes next does not continue what came before, whatever its numbers say."""
        self._continuity.restarted = self._continuity.restarted or reason

    def end(self) -> Iterator[StreamEvent]:
        """End the running epoch and settle what is missing; the position is then the timeline's end."""
        yield from self._end_epoch()
        yield from self.timeline.settle(self._pending, None)

    # --- decoding ---------------------------------------------------------------------------------------------------

    def decode(
        self,
        segment: Segment,
        data: bytes,
        init: bytes | None,
        received_at: float,
        live: bool = False,
        sure: bool = True,
        cut: tuple[str, str] | None = None,
    ) -> Iterator[StreamEvent]:
        """Decode a segment and yield what it adds: tracks, audio, and before them gaps and the change of epoch.

        Args:
            cut: where these are not all its bytes, why (cause, detail): what its duration leaves is such a gap.

        Raises:
            DivergedError: only while resuming.
            InitInDoubtError: only where not `sure`, and before anything is yielded or noted: ask for the
                initialization section, and decode the segment again.
        """
        self._before_last = [replace(stretch) for stretch in self._pending.stretches]
        carry = self._carry if self._continues(segment) else None
        try:
            media = open_segment(data, init, self._stream_id, carry, segment.duration)
        except MediaError as error:
            self.missing(segment.duration, *(_cut_off(segment, cut) if cut else (error.cause, error.detail)))
            return
        with media:
            if media.continued:
                self._carry = None
            section = hashlib.sha256(init).digest() if init else None
            identity = (segment.discontinuity_sequence, section, media.format, media.codec)
            yield from self._walk(SegmentInHand(segment, media, identity, received_at, live, sure, cut))

    def _continues(self, segment: Segment) -> bool:
        """Say whether a segment may go on with what the one before left unfinished."""
        if self._epoch is None or self._pending or self._continuity.restarted or self._resumed is not None:
            return False
        return self._continuity.is_next(segment)

    def _walk(self, now: SegmentInHand) -> Iterator[StreamEvent]:
        """Walk through a segment; break the epoch wherever it is not continued, and where frames do not decode."""
        leave_out = self._resumed[1].packet if self._resumed else 0
        for batch in now.media.batches():
            if now.index >= leave_out:
                yield from self._take(batch, now)
                continue
            # The resumed epoch began in mid-segment: what is before its first frame belongs to another one.
            parts = singles(batch) if now.index + batch.frames > leave_out else []
            for part in parts[leave_out - now.index :]:
                now.index = max(now.index, leave_out)
                yield from self._take(part, now)
            now.index += 0 if parts else batch.frames
        if not now.arrived:
            why = ("undecodable", f"no audio packet in {now.media.format}")
            self.missing(now.segment.duration, *(_cut_off(now.segment, now.cut) if now.cut else why))
            return
        epoch = self._running
        if epoch.born:
            yield from self.timeline.flush(epoch, now)
            self._continuity.expect_after(now)
        elif epoch.silent_s:
            yield from self._hole(0.0, now)
        self._carry = now.media.carry
        left_s = now.segment.duration - now.elapsed_s
        if now.media.moved_away and left_s >= self.tolerance_s:
            self.missing(left_s, "no-audio", f"segment {now.segment.media_sequence}: its audio moved to another PID")
        elif now.cut and left_s >= self.tolerance_s:
            self._carry = None  # what left_s holds
            self.missing(left_s, *_cut_off(now.segment, now.cut))
        yield from self._tell_damage(now)

    def _take(self, batch: Batch, now: SegmentInHand) -> Iterator[StreamEvent]:
        """Take one batch: 5 times an audio-second for AAC that stands for itself, 43 times elsewhere."""
        packet, media = batch.packet, now.media
        if packet is None and not batch.seconds:
            now.torn = True  # in a transport stream the next timestamp tells how long it is
            return
        ticks = packet.pts if packet is not None and media.timed else None
        if not now.arrived:
            now.arrived = True
            now.start_s = media.start_s(packet)
            yield from self._arrive(now, batch)
        elif ticks is not None and now.expected is not None:
            yield from self._stay(ticks, batch, now)
        if packet is None or now.pieces > MOST_PIECES:
            yield from self._hole(batch.seconds, now)
        else:
            if (yield from self._decoded(packet, batch, now)) is None:
                return
        now.index += batch.frames
        now.elapsed_s += batch.seconds

    def _decoded(self, packet: av.Packet, batch: Batch, now: SegmentInHand) -> Generator[StreamEvent, None, int | None]:
        """Decode a packet; what it does not give is a hole. Returns its samples, None where it was taken apart."""
        epoch = self._prepared(packet, batch, now)
        failed = False
        samples = 0
        try:
            samples = epoch.decoder.decode(packet)
        except (FormatChangedError, *_DAMAGE) as error:
            if batch.frames > 1:
                epoch.decoder.rewind(isinstance(error, FormatChangedError))
                now.expected = None if packet.pts is None else float(packet.pts)
                for single in singles(batch):
                    yield from self._take(single, now)
                return None
            failed = True
            if isinstance(error, FormatChangedError):
                yield from self._break(now, "format")
                epoch = self._prepared(packet, batch, now)
                with contextlib.suppress(FormatChangedError, *_DAMAGE):
                    samples = epoch.decoder.decode(packet)
        if samples:
            if not epoch.born:
                yield from self._bear(epoch, now)
            epoch.blind = False
        elif failed or epoch.born:
            yield from self._hole(batch.seconds, now)
        else:
            epoch.silent_s += batch.seconds
        now.expect(packet, samples / epoch.decoder.rate if samples else batch.seconds)
        if epoch.decoder.waiting >= BLOCK_SAMPLES:
            self.timeline.absorb(epoch, now)
            if now.samples >= PIECE_SAMPLES:
                yield from self.timeline.flush(epoch, now)
        return samples

    def _prepared(self, packet: av.Packet, batch: Batch, now: SegmentInHand) -> Epoch:
        """Return the running epoch; note where it, or this segment of it, begins."""
        epoch = self._running
        if not epoch.prepared:
            epoch.prepared, epoch.first_ticks = True, packet.pts
            timed = now.media.timed and packet.pts is not None
            now.start_s = (packet.pts or 0) * now.media.tick_s if timed else None
            now.offset_s, now.native = now.elapsed_s, epoch.native
            if not epoch.entries:
                epoch.enter(Entry(now.segment.media_sequence, name_of(now.segment.uri), 0, now.index))
        if batch.frames and epoch.entries[-1].media_sequence != now.segment.media_sequence:
            native = epoch.native + epoch.decoder.waiting
            epoch.enter(Entry(now.segment.media_sequence, name_of(now.segment.uri), native))
        return epoch

    def _hole(self, seconds: float, now: SegmentInHand) -> Iterator[StreamEvent]:
        """Note that frames gave no samples: the epoch ends before them, and the next one begins with what decodes."""
        epoch = self._running
        now.damaged += 1
        now.damaged_s += seconds
        if epoch.blind:  # begun in mid-epoch a decoder may refuse its first frames; what comes then is so much later
            return
        if epoch.born:
            self._note_end(now)
            yield from self._end_epoch()
            now.pieces += 1
            self._begin(now, "gap")
        else:
            seconds += epoch.silent_s
            reason = "gap" if epoch.reason == "start" else epoch.reason
            self._begin(now, reason, epoch.joined, None if epoch.decoder.rate else epoch.decoder)
        self._pending.add(seconds, "undecodable", f"segment {now.segment.media_sequence}: frames that do not decode")

    def _note_end(self, now: SegmentInHand) -> None:
        """Remember the media time at which an epoch ends within a segment."""
        if not self._pending and now.media.timed and now.expected is not None:
            self._continuity.expect_after(now, self._running.drift_s)

    @property
    def _running(self) -> Epoch:
        """Return the running epoch, which exists once a packet has arrived."""
        assert self._epoch is not None
        return self._epoch

    # --- where epochs begin and end ---------------------------------------------------------------------------------

    def _stay(self, ticks: int, batch: Batch, now: SegmentInHand) -> Iterator[StreamEvent]:
        """Break the epoch where a packet's timestamp is not where the one before it ends.

        Small jumps forward add up: frames that are missing one by one are missing all the same.
        """
        assert now.expected is not None
        epoch, tick_s = self._running, now.media.tick_s
        off_s = (ticks - now.expected) * tick_s
        if now.torn and off_s > 0.5 * batch.seconds / max(batch.frames, 1):
            jump = jump_s(ticks * tick_s, now.expected * tick_s, now.media.wraps)
            if 0.0 < jump <= LONGEST_JUMP_S:
                yield from self._hole(jump, now)
        elif not (-self.tolerance_s < off_s and off_s + epoch.drift_s < self.tolerance_s):
            jump = jump_s(ticks * tick_s, now.expected * tick_s, now.media.wraps)
            if jump <= -self.tolerance_s or jump + epoch.drift_s >= self.tolerance_s:
                yield from self._break(now, "timestamps")
        else:
            epoch.drift_s = max(epoch.drift_s + off_s, 0.0)
        now.torn = False

    def _arrive(self, now: SegmentInHand, batch: Batch) -> Iterator[StreamEvent]:
        """Decide whether a segment continues the epoch; if not, end that one and begin the next."""
        epoch = self._epoch
        if self._resumed is not None:
            self._begin(now, "resumed", True)
            self._take_up(*self._resumed)
            self._resumed = None
        else:
            half_frame_s = 0.5 * batch.seconds / max(batch.frames, 1)
            reason = self._continuity.break_reason(now, epoch, bool(self._pending), half_frame_s)
            if reason == "timestamps" and not now.sure:
                raise InitInDoubtError
            if reason is not None:
                joined = not self._continuity.restarted and (epoch is None or now.identity[0] == epoch.identity[0])
                if epoch is not None and not self._pending:
                    self._continuity.leave_out(epoch.drift_s)
                yield from self._end_epoch()
                self._begin(now, reason, joined)
            elif epoch is not None:
                now.native, epoch.identity = epoch.native, now.identity
                jump = self._continuity.jump_to(now.start_s, now.media.wraps)
                epoch.drift_s = max(epoch.drift_s + (jump or 0.0), 0.0)
        self._continuity.last = now
        if self.title_from_extinf and now.segment.title:
            self.timeline.playing.note(id3.from_extinf(now.segment.title), self.timeline.position)

    def _break(self, now: SegmentInHand, reason: str) -> Iterator[StreamEvent]:
        """End the running epoch within a segment, and begin a new one."""
        self._note_end(now)
        yield from self._end_epoch()
        self._begin(now, reason)

    def _begin(self, now: SegmentInHand, reason: str, joined: bool = True, decoder: Decoder | None = None) -> None:
        """Set up a new epoch; it is born, with its place on the timeline, when the decoder gives its first samples."""
        media = now.media
        decoder = decoder or Decoder(media.codec, media.extradata)
        self._epoch = Epoch(self.number, self.timeline.position, reason, now.identity, decoder, joined)
        self._stream_id, self._continuity.restarted = media.stream_id, None

    def _take_up(self, resume_point: ResumePoint, entry: Entry) -> None:
        """Give a resumed epoch its place and its past."""
        epoch = self._running
        before = [e for e in entries_of(resume_point) if e.media_sequence < entry.media_sequence]
        epoch.entries.extend([*before, entry])
        epoch.native, epoch.born, epoch.blind = entry.native, True, entry.native > 0

    def _bear(self, epoch: Epoch, now: SegmentInHand) -> Iterator[StreamEvent]:
        """Settle what is missing before an epoch's first samples, and give it its place behind that."""
        media, first = now.media, epoch.decoder.first_pts
        first_s = first * media.tick_s if media.timed and first is not None else None
        if first is not None and epoch.first_ticks is not None and epoch.silent_s:
            swallowed_s = (first - epoch.first_ticks) * media.tick_s
            if swallowed_s > 0:
                self._pending.add(swallowed_s, "undecodable", "frames before the first that decodes")
        jump = self._continuity.jump_to(first_s, media.wraps) if epoch.joined else None
        if not self._pending and jump is not None and self.tolerance_s <= jump <= LONGEST_JUMP_S:
            self._pending.add(jump, "timestamps", f"timestamps jump by {jump:.3f} s")
        yield from self.timeline.settle(self._pending, jump)
        epoch.first_sample, epoch.born = self.timeline.position, True

    def _end_epoch(self) -> Iterator[StreamEvent]:
        """Drain decoder and resampler, and end the epoch exactly where its last sample is."""
        epoch, now = self._epoch, self._continuity.last
        carry, self._carry = self._carry, None
        if epoch is None or now is None:
            return
        cut_s = 0.0
        for batch in rest_of(carry) if carry is not None else ():
            try:
                if batch.packet is None or not epoch.born or not epoch.decoder.decode(batch.packet):
                    cut_s += batch.seconds
            except (*_DAMAGE, FormatChangedError):
                cut_s += batch.seconds
        if epoch.born and epoch.decoder.rate:
            with contextlib.suppress(*_DAMAGE, FormatChangedError):
                epoch.decoder.decode(None)
            yield from self.timeline.flush(epoch, now)
            if epoch.resampler is not None:
                yield from self.timeline.hand_on(epoch, epoch.resampler.drain(), now)
        if self.timeline.until is not None and self.timeline.until != self.timeline.position:
            raise DivergedError(f"epoch {epoch.number} ends before the resume point")
        if self.timeline.until is not None:  # the resume point is the epoch's end: all of it was heard before
            self.timeline.until = None
            epoch.started = True
            yield EpochStarted(epoch.number, epoch.first_sample, epoch.reason)
        if epoch.started:
            yield EpochEnded(epoch.number, self.timeline.position)
            self.number += 1
        self._epoch = None
        if cut_s:
            self._pending.add(cut_s, "undecodable", f"segment {now.segment.media_sequence}: its last frame is cut off")

    def _tell_damage(self, now: SegmentInHand) -> Iterator[StreamEvent]:
        """Report frames that did not decode, unless that was told before the resume point."""
        if now.damaged and self.timeline.until is None:
            reason = f"segment {now.segment.media_sequence}: {now.damaged} packets did not decode"
            yield Report("damaged", reason, {"packets": now.damaged, "seconds": round(now.damaged_s, 3)})


def _cut_off(segment: Segment, cut: tuple[str, str]) -> tuple[str, str]:
    """Return cause and detail of what is missing of a segment whose body ended early."""
    return cut[0], f"segment {segment.media_sequence}: its end is missing ({cut[1]})"
