"""From segments' bytes to what is heard: epochs, their positions on the timeline, gaps between them, bookmarks.

No network and no clock: the same segments give the same items, bit for bit, which is what makes a bookmark work.
Which segments come, and when, is the listener's business (listener.py). Start at `Epochs.hear`.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from services.fetcher import id3
from services.fetcher.decoder import Decoder, Frame, Resampler, aligned, joined, mono
from services.fetcher.heard import (
    SAMPLE_RATE,
    Audio,
    Bookmark,
    EpochEnded,
    EpochStarted,
    Gap,
    Heard,
    Report,
    Track,
)
from services.fetcher.playlist import Segment
from services.fetcher.segment_media import MediaError, SegmentMedia, TimedTags, open_segment
from services.fetcher.timestamps import jump_s, missing_s, samples_of, shares

# Longer segments are handed on in pieces of this length, so that memory does not grow with them.
PIECE_S = 30.0
# A forward jump of timestamps beyond this is a clock that was set anew, not audio that is missing.
LONGEST_JUMP_S = 600.0
# Segments of a running epoch from which a live stream can be taken up again.
ENTRIES = 12
NativeSink = Callable[[int, int, NDArray[np.float32]], None]


class DivergedError(Exception):
    """Heard again, the stream is not what it was: a segment on the way to the bookmark is missing or different."""


@dataclass(frozen=True)
class Entry:
    """A place where decoding of an epoch can begin.

    Attributes:
        media_sequence, name: which segment (the name is the last part of its path).
        native: native samples of the epoch before it; 0 at the epoch's start, where everything is bit-exact.
        packet: audio packets of the segment to leave out, where the epoch began in mid-segment.
    """

    media_sequence: int
    name: str
    native: int
    packet: int = 0


@dataclass(frozen=True)
class _Missing:
    """A segment that could not be heard; its length on the timeline is settled when the next one is."""

    duration_s: float
    cause: str
    detail: str


@dataclass
class _Epoch:
    """The epoch that is running."""

    number: int
    first_sample: int
    reason: str
    identity: tuple[object, ...]
    decoder: Decoder
    entries: deque[Entry]
    native: int = 0
    leave_out: int = 0
    heard: int = 0
    rate: int = 0
    channels: int = 0
    resampler: Resampler | None = None
    started: bool = False


@dataclass
class _Now:
    """The segment that is being heard."""

    segment: Segment
    received_at: float
    native: int
    live: bool
    start_s: float | None = None
    frames: list[Frame] = field(default_factory=list)
    samples: int = 0
    tracks: list[Track] = field(default_factory=list)
    damaged: int = 0
    damaged_s: float = 0.0


def name_of(uri: str) -> str:
    """Return the last part of a URI's path: what stays when hosts rotate and tokens expire."""
    return uri.partition("?")[0].partition("#")[0].rstrip("/").rpartition("/")[2][-80:]


class Epochs:
    """Turns segments into heard items; keeps the position of one stream.

    Args:
        tolerance_s: a jump of timestamps from here on breaks the epoch.
        title_from_extinf: whether EXTINF titles are tracks.
        native: called with (epoch number, rate, samples of shape (channels, n)) before mixing; for `genre record`.
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
        self._epoch: _Epoch | None = None
        self._missing: list[_Missing] = []
        self._expected_s: float | None = None
        self._wraps = True
        self._stream_id: int | None = None
        self._restarted: str | None = None
        self._track = id3.Tags()
        self._told = id3.Tags()
        self._until: int | None = None
        self._bookmark: Bookmark | None = None
        self._resumed_entry: Entry | None = None
        self._last: _Now | None = None

    # --- what the listener says -------------------------------------------------------------------------------------

    def resume(self, bookmark: Bookmark, entry: Entry) -> None:
        """Take up a bookmarked epoch: decode from this entry on, hand on from the bookmark's first sample on."""
        self._bookmark, self._until = bookmark, bookmark.first_sample
        self.position, self.number = bookmark.epoch_first_sample, bookmark.epoch
        self._resumed_entry = entry

    def resume_elsewhere(self, bookmark: Bookmark) -> Iterator[Heard]:
        """Give up the bookmarked epoch, whose segments are gone: it ends at the bookmark, another follows."""
        self._until, self._bookmark = None, None
        self._epoch = None
        yield EpochStarted(bookmark.epoch, bookmark.epoch_first_sample, "resumed")
        yield EpochEnded(bookmark.epoch, bookmark.first_sample)
        self.position, self.number = bookmark.first_sample, bookmark.epoch + 1
        pts = bookmark.place.get("pts_s")
        first = bookmark.place.get("first")
        if isinstance(pts, (int, float)) and isinstance(first, int):
            self._expected_s = float(pts) + (bookmark.first_sample - first) / SAMPLE_RATE
        self._wraps = bool(bookmark.place.get("wraps", True))
        self.heard_anything = True

    def missing(self, duration_s: float, cause: str, detail: str) -> None:
        """Note a stretch that will not be heard; it becomes a Gap when the next segment settles its length."""
        self._missing.append(_Missing(max(duration_s, 0.0), cause, detail))
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
            yield from self._hear(segment, media, init, received_at, live)

    def _hear(
        self, segment: Segment, media: SegmentMedia, init: bytes | None, received_at: float, live: bool
    ) -> Iterator[Heard]:
        """Walk through the packets of a segment; break the epoch wherever they do not continue it."""
        identity = (
            segment.discontinuity_sequence,
            hashlib.sha256(init).digest() if init else None,
            media.format,
            media.codec,
        )
        now = _Now(segment, received_at, self._epoch.native if self._epoch else 0, live)
        resumed = self._take_resumed_entry()
        expected_s: float | None = None
        first_pts: int | None = None
        index = -1
        for item in media.packets():
            if isinstance(item, TimedTags):
                self._note_track(now, item.tags, item.at_s)
                continue
            index += 1
            if resumed is not None and index < resumed.packet:
                continue
            pts_s = media.pts_s(item)
            if now.start_s is None and index == (resumed.packet if resumed else 0):
                # The first packet decides whether the segment continues the epoch.
                now.start_s = media.start_s(item)
                yield from self._arrive(now, media, identity, resumed)
                if segment.title and self.title_from_extinf:
                    self._note_track(now, id3.from_extinf(segment.title), None)
                expected_s = now.start_s
                first_pts = item.pts
            elif pts_s is not None and expected_s is not None:
                jump = jump_s(pts_s, expected_s, media.wraps)
                if abs(jump) >= self.tolerance_s:
                    yield from self._flush(now)
                    self._expected_s = expected_s
                    now.start_s = pts_s
                    yield from self._break(now, media, identity, "timestamps", index)
            samples = 0
            for _ in range(2):  # twice only where the first frame shows that this packet begins another format
                try:
                    frames = self._running.decoder.decode(item)
                except (av.error.FFmpegError, ValueError, MemoryError):
                    frames = []
                    now.damaged += 1
                    now.damaged_s += media.duration_s(item)
                if not frames or self._fits(frames[0], media, first_pts):
                    break
                yield from self._flush(now)
                self._expected_s = None
                now.start_s = pts_s
                yield from self._break(now, media, identity, "format", index)
            for frame in frames:
                if self._fits(frame, media, first_pts):
                    samples += frame.samples
                    self._take(now, self._primed(frame, media, pts_s))
            if pts_s is not None:
                rate = self._running.rate or 1
                expected_s = pts_s + (media.duration_s(item) or samples / rate)
            if now.samples > PIECE_S * (self._running.rate or 1):
                yield from self._flush(now)
        if index < 0:
            self.missing(segment.duration, "undecodable", f"no audio packet in {media.format}")
            return
        yield from self._flush(now)
        if media.format not in ("mov", "mpegts") and now.start_s is not None and self._epoch and self._epoch.rate:
            expected_s = now.start_s + (self._epoch.native - now.native) / self._epoch.rate
        self._expected_s, self._wraps = expected_s, media.wraps
        if now.damaged:
            yield from self._tell(
                Report(
                    "damaged",
                    f"segment {segment.media_sequence}: {now.damaged} packets did not decode",
                    {"packets": now.damaged, "seconds": round(now.damaged_s, 3)},
                )
            )

    @property
    def _running(self) -> _Epoch:
        """Return the running epoch, which exists once a packet has arrived."""
        assert self._epoch is not None
        return self._epoch

    def _take_resumed_entry(self) -> Entry | None:
        """Return the entry to resume at, once."""
        entry, self._resumed_entry = self._resumed_entry, None
        return entry

    def _arrive(
        self, now: _Now, media: SegmentMedia, identity: tuple[object, ...], resumed: Entry | None
    ) -> Iterator[Heard]:
        """Decide whether a segment continues the epoch; if not, end that one, settle the gap, begin the next."""
        epoch = self._epoch
        if resumed is not None:
            assert self._bookmark is not None
            self._begin(now, media, identity, "resumed", resumed)
            return
        jump = None
        if now.start_s is not None and self._expected_s is not None and media.wraps == self._wraps:
            jump = jump_s(now.start_s, self._expected_s, media.wraps)
        if epoch is None:
            reason: str | None = self._restarted or ("gap" if self._missing else "start")
        elif self._restarted:
            reason = self._restarted
        elif identity[0] != epoch.identity[0]:
            reason = "discontinuity"
        elif identity[1] != epoch.identity[1]:
            reason = "map"
        elif identity != epoch.identity:
            reason = "format"
        elif self._missing:
            reason = "gap"
        elif jump is not None and abs(jump) >= self.tolerance_s:
            reason = "timestamps"
        else:
            reason = None
        if reason is not None:
            continuous = self._restarted is None and (epoch is None or identity[0] == epoch.identity[0])
            yield from self._break(now, media, identity, reason, 0, jump if continuous else None)
        elif epoch is not None:
            now.native = epoch.native
            epoch.entries.append(Entry(now.segment.media_sequence, name_of(now.segment.uri), epoch.native))
            if len(epoch.entries) > ENTRIES:
                del epoch.entries[1]  # the first stays: it is the epoch's exact start

    def _break(
        self,
        now: _Now,
        media: SegmentMedia,
        identity: tuple[object, ...],
        reason: str,
        packet: int,
        jump: float | None = None,
    ) -> Iterator[Heard]:
        """End the running epoch, settle the gap before this packet, and begin a new epoch with it."""
        if packet and self._expected_s is not None and now.start_s is not None:
            jump = jump_s(now.start_s, self._expected_s, media.wraps)
        yield from self._end_epoch()
        if not self._missing and jump is not None and self.tolerance_s <= jump <= LONGEST_JUMP_S:
            self._missing.append(_Missing(jump, "timestamps", f"timestamps jump by {jump:.3f} s"))
        yield from self._settle(jump)
        entry = Entry(now.segment.media_sequence, name_of(now.segment.uri), 0, packet)
        self._begin(now, media, identity, reason, entry)

    def _begin(self, now: _Now, media: SegmentMedia, identity: tuple[object, ...], reason: str, entry: Entry) -> None:
        """Set up a new epoch at the current position."""
        entries = deque([entry])
        if self._bookmark is not None and reason == "resumed":
            # What came before the entry is still what the epoch's bookmarks refer to.
            entries = deque(e for e in entries_of(self._bookmark) if e.media_sequence < entry.media_sequence)
            entries.append(entry)
        self._epoch = _Epoch(
            number=self.number,
            first_sample=self.position,
            reason=reason,
            identity=identity,
            decoder=Decoder(media.codec, media.extradata),
            entries=entries,
            native=entry.native,
        )
        self._stream_id = media.stream_id
        self._restarted = None
        now.native = entry.native

    def _fits(self, frame: Frame, media: SegmentMedia | None = None, first_pts: int | None = None) -> bool:
        """Say whether a frame has the format of the epoch; the first one sets it."""
        epoch = self._running
        if not epoch.rate:
            epoch.rate, epoch.channels = frame.rate, len(frame.channels)
            if epoch.native and media is not None and frame.pts is not None and first_pts is not None:
                # Begun in mid-epoch, a decoder may swallow its first packets; what it gives then is so much later.
                epoch.native += max(round((frame.pts - first_pts) * media.time_base * frame.rate), 0)
            epoch.resampler = Resampler(frame.rate)
            epoch.leave_out, epoch.heard = aligned(epoch.native, frame.rate)
        return (frame.rate, len(frame.channels)) == (epoch.rate, epoch.channels)

    def _primed(self, frame: Frame, media: SegmentMedia, pts_s: float | None) -> Frame:
        """Cut from a frame what lies before the first edit: encoder delay."""
        if not media.priming_s or pts_s is None or pts_s >= media.priming_s:
            return frame
        cut = min(frame.samples, round((media.priming_s - pts_s) * frame.rate))
        return Frame(frame.rate, tuple(channel[cut:] for channel in frame.channels), frame.pts)

    def _take(self, now: _Now, frame: Frame) -> None:
        """Keep a frame for the next piece."""
        if frame.samples:
            now.frames.append(frame)
            now.samples += frame.samples

    # --- handing on -------------------------------------------------------------------------------------------------

    def _flush(self, now: _Now) -> Iterator[Heard]:
        """Mix, resample and hand on what was kept."""
        if not now.frames:
            return
        epoch = self._running
        native = joined(now.frames)
        now.frames, now.samples = [], 0
        epoch.native += native.shape[1]
        if self.native_sink is not None and self._until is None:
            self.native_sink(epoch.number, epoch.rate, native)
        if epoch.leave_out:
            cut = min(epoch.leave_out, native.shape[1])
            epoch.leave_out -= cut
            native = native[:, cut:]
        assert epoch.resampler is not None
        yield from self._hand_on(epoch.resampler.feed(mono(native)), now)

    def _hand_on(self, pcm: NDArray[np.int16], now: _Now) -> Iterator[Heard]:
        """Yield audio with its place on the timeline, preceded by what belongs before it."""
        epoch = self._running
        first = epoch.first_sample + epoch.heard
        epoch.heard += len(pcm)
        self.position = epoch.first_sample + epoch.heard
        self._last = now
        if self._until is not None:
            if self.position <= self._until:
                self._swallow(now)
                return
            pcm, first = pcm[max(self._until - first, 0) :], max(self._until, first)
            self._until = None
        if not len(pcm):
            return
        if not epoch.started:
            epoch.started = True
            self.heard_anything = True
            yield EpochStarted(epoch.number, epoch.first_sample, epoch.reason)
        if self._track and self._track != self._told:
            self._told = self._track
            yield Track(first, self._track.title, self._track.artist)
        for track in now.tracks:
            yield Track(max(track.first_sample, first), track.title, track.artist)
        now.tracks = []
        yield Audio(
            epoch=epoch.number,
            first_sample=first,
            pcm=pcm,
            received_at=now.received_at,
            observed_at=self._observed_at(now, first),
            bookmark=self._bookmark_at(now, first),
            live=now.live,
        )

    def _swallow(self, now: _Now) -> None:
        """Before the bookmark nothing is handed on; only the last track is remembered."""
        if now.tracks:
            self._track = id3.Tags(None, now.tracks[-1].title, now.tracks[-1].artist)
        now.tracks = []

    def _observed_at(self, now: _Now, first: int) -> float | None:
        """Return the wall clock of a sample, from the segment's program date and the samples since its start."""
        date = now.segment.program_date_time
        if date is None:
            return None
        epoch = self._running
        return date + (first - epoch.first_sample) / SAMPLE_RATE - now.native / epoch.rate

    def _bookmark_at(self, now: _Now, first: int) -> Bookmark:
        """Make the bookmark of a sample."""
        epoch = self._running
        place: dict[str, object] = {
            "entries": [[e.media_sequence, e.name, e.native, e.packet] for e in epoch.entries],
            "segment": now.segment.media_sequence,
            "first": first,
            "wraps": self._wraps,
        }
        if now.start_s is not None:
            place["pts_s"] = now.start_s + (first - epoch.first_sample) / SAMPLE_RATE - now.native / epoch.rate
        return Bookmark(epoch.number, epoch.first_sample, first, place)

    def _note_track(self, now: _Now, tags: id3.Tags, at_s: float | None) -> None:
        """Keep a change of title or artist for the next audio that is handed on."""
        if not tags or (tags.title, tags.artist) == (self._track.title, self._track.artist):
            return
        self._track = self._told = id3.Tags(None, tags.title, tags.artist)
        at = self.position
        epoch = self._epoch
        if at_s is not None and now.start_s is not None and epoch is not None and epoch.rate:
            since = jump_s(at_s, now.start_s, True)
            at = epoch.first_sample + samples_of(now.native / epoch.rate + max(since, 0.0))
        now.tracks.append(Track(at, tags.title, tags.artist))

    def _end_epoch(self) -> Iterator[Heard]:
        """Drain decoder and resampler, and end the epoch exactly where its last sample is."""
        epoch = self._epoch
        if epoch is None:
            return
        if epoch.resampler is not None:
            now = self._last if epoch.heard or epoch.native else None
            if now is not None:
                try:
                    tail = epoch.decoder.decode(None)
                except (av.error.FFmpegError, ValueError, MemoryError):
                    tail = []
                for frame in tail:
                    if self._fits(frame):
                        self._take(now, frame)
                yield from self._flush(now)
                yield from self._hand_on(epoch.resampler.drain(), now)
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
        """Turn what is missing into gaps, one for each run of the same cause; together as long as the hole."""
        if not self._missing:
            return
        runs: list[list[_Missing]] = []
        for item in self._missing:
            if runs and runs[-1][0].cause == item.cause:
                runs[-1].append(item)
            else:
                runs.append([item])
        lengths = [sum(item.duration_s for item in run) for run in runs]
        total = samples_of(missing_s(jump, sum(lengths)))
        self._missing = []
        for run, samples in zip(runs, shares(total, lengths), strict=True):
            if samples:
                detail = run[0].detail + (f" (and {len(run) - 1} more)" if len(run) > 1 else "")
                yield Gap(self.position, samples, run[0].cause, detail)
                self.position += samples

    def _tell(self, report: Report) -> Iterator[Heard]:
        """Yield a report, unless what it is about was already told before the bookmark."""
        if self._until is None:
            yield report


def entries_of(bookmark: Bookmark) -> Sequence[Entry]:
    """Read the entries of a bookmark's place; one that was tampered with has none."""
    entries = []
    listed = bookmark.place.get("entries")
    for item in listed if isinstance(listed, list) else []:
        if isinstance(item, list) and len(item) == 4 and isinstance(item[1], str):
            sequence, name, native, packet = item
            if all(isinstance(number, int) for number in (sequence, native, packet)):
                entries.append(Entry(sequence, name, native, packet))
    return entries
