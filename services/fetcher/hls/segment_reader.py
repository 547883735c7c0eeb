"""Reads segments one after another: fetched, decrypted, decoded; whatever fails becomes a gap and a report.

Leaves a rendition whose segments give nothing. Which segment comes next is reader.py's business, its bytes are
segment_source.py's, what they mean is epochs.py's. Start at `SegmentReader.read`.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

from services.errors import GenreError
from services.fetcher.events import Audio, Report, StreamEvent
from services.fetcher.hls.encryption import DecryptionError
from services.fetcher.hls.playlist import MediaPlaylist
from services.fetcher.hls.playlist_loader import PlaylistLoader
from services.fetcher.hls.reload import forgets
from services.fetcher.hls.segment_source import Media, SegmentSource
from services.fetcher.http.client import Origin, backoff_s
from services.fetcher.http.errors import FetchError
from services.fetcher.http.urls import shown
from services.fetcher.media.turns import DECODING
from services.fetcher.segment import Segment
from services.fetcher.timeline.assembler import NativeSink
from services.fetcher.timeline.epochs import PIECE_SAMPLES, Epochs, InitInDoubtError

# So many segments without audio, and nothing heard before: the stream has none.
SEGMENTS_WITHOUT_AUDIO = 3


class SegmentReader:
    """Turns one stream's segments into events.

    Args:
        native: called with (epoch number, rate, one array a channel) before mixing; for `genre record`.
        resumed: it was heard before, so it has audio.

    Attributes:
        epochs: the epochs that its segments make; another object after `begin_anew`.
        without_audio: how many segments had none.
    """

    def __init__(self, origin: Origin, loader: PlaylistLoader, native: NativeSink | None, resumed: bool) -> None:
        self._origin, self._loader, self._native, self._resumed = origin, loader, native, resumed
        self._source = SegmentSource(origin, loader)
        self.without_audio = 0
        self._mute_in_row = 0
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget all that was heard."""
        hls = self._origin.hls
        self.epochs = Epochs(hls.gap_tolerance_s, hls.title_from_extinf, self._native)

    def restarted(self) -> None:
        """Note that the encoder restarted: nothing continues what came before, and its section may be another one."""
        self.epochs.restarted("restart")
        self._source.forget_init()

    def read(self, segment: Segment, playlist: MediaPlaylist) -> Generator[StreamEvent, None, bool]:
        """Yield what a segment adds.

        Returns:
            Whether the stream has to begin again with another rendition; nothing was heard of this one.

        Raises:
            GenreError: the stream has no audio, or its origin gave nothing for too long.
        """
        try:
            media = yield from self._media_of(segment, playlist)
        except FetchError as error:
            return (yield from self._lost(segment, error.cause, error.detail))
        except DecryptionError as error:
            return (yield from self._lost(segment, "decryption", str(error)))
        received_at = time.time()
        if report := self._loader.cost(len(media.data), segment.duration):
            yield report
        missing_before = self.epochs.missing_segments
        mute = yield from self._decoded(segment, media, received_at, playlist)
        if mute and segment.map is not None and (another := self._source.another_init(segment)):
            self.epochs.forget_last()
            mute = yield from self._decoded(segment, media._replace(init=another), received_at, playlist)
        cause, detail = self.epochs.last_missing if self.epochs.missing_segments > missing_before else ("", "")
        if cause:
            yield Report("segment-failed", f"segment {segment.media_sequence}: {detail}", {"seconds": segment.duration})
        moved = yield from self._look_around(mute, cause or "undecodable", detail or "frames that do not decode")
        if cause in ("no-audio", "encrypted") and not moved:
            self.without_audio += 1
            if not self.epochs.timeline.heard_anything and self.without_audio >= SEGMENTS_WITHOUT_AUDIO:
                raise self.silent(detail)
        return moved

    def _media_of(self, segment: Segment, playlist: MediaPlaylist) -> Generator[StreamEvent, None, Media]:
        """Fetch a segment; where its list keeps it, wait for an origin that is away, however long that takes.

        Raises:
            FetchError, DecryptionError: it can't be had, though its origin is there.
            GenreError: the origin gave nothing for too long.
        """
        failures = 0
        while True:
            try:
                media = self._source.media_of(segment, playlist)
            except FetchError as error:
                if forgets(playlist) or not error.transient or not self._source.is_away(segment):
                    if came := self._source.what_came(segment, error):
                        return came
                    raise
                failures += 1
                if failures == 1:
                    yield Report("stalled", f"the origin is away: segment {segment.media_sequence}: {error}")
                self._loader.check_silence(str(error))
                self._origin.wait(backoff_s(self._origin.hls.playlist_retry, failures))
                continue
            if failures:
                yield Report("recovered", "the origin is there again", {"failures": failures})
            return media

    def _decoded(
        self, segment: Segment, media: Media, received_at: float, playlist: MediaPlaylist
    ) -> Generator[StreamEvent, None, bool]:
        """Decode a segment; say whether it was mute: nothing of it could be decoded."""
        before, live = self.epochs.position, forgets(playlist)
        data, init, cut = media
        try:
            yield from _in_turn(self.epochs.decode(segment, data, init, received_at, live, init is None, cut))
        except InitInDoubtError:
            init = self._source.another_init(segment) or init
            yield from _in_turn(self.epochs.decode(segment, data, init, received_at, live, cut=cut))
        return self.epochs.position == before

    def _lost(self, segment: Segment, cause: str, detail: str) -> Generator[StreamEvent, None, bool]:
        """Note that a segment could not be had; say as `read` does."""
        self.epochs.missing(segment.duration, cause, f"segment {segment.media_sequence}: {detail}")
        if cause == "gap-tag":
            return False
        yield Report("segment-failed", f"segment {segment.media_sequence}: {detail}", {"seconds": segment.duration})
        return (yield from self._look_around(True, cause, detail))

    def _look_around(self, lost: bool, cause: str, detail: str) -> Generator[StreamEvent, None, bool]:
        """Leave a rendition that gives nothing: for good where it can't be decoded, else until it is there again.

        Says as `read` does.
        """
        self._mute_in_row = self._mute_in_row + 1 if lost else 0
        if not lost:
            return False
        moved = False
        many = self._mute_in_row >= SEGMENTS_WITHOUT_AUDIO
        hopeless = cause in ("no-audio", "encrypted") or (many and cause in ("undecodable", "not-media"))
        begun = self.epochs.timeline.heard_anything or self._resumed
        if hopeless and not begun and self._loader.reject(detail):
            self.begin_anew()
            self._mute_in_row = self.without_audio = 0
            moved = True
        elif many:
            self._loader.avoid(f"its segments give nothing ({detail})")
            self._mute_in_row = 0
        yield from self._loader.reports()
        return moved

    def silent(self, detail: str = "") -> GenreError:
        """Tell that a stream has no audio."""
        reason = f"no audio in its segments ({detail})" if detail else "no audio in its segments"
        remedy = "use a stream with AAC, MP3, AC-3, E-AC-3, Opus or FLAC"
        return GenreError(shown(self._origin.stream.url), reason, remedy)


def _in_turn(heard: Iterator[StreamEvent]) -> Iterator[StreamEvent]:
    """Yield the items; no other stream decodes while they are made, all may while they are handed on.

    A usual segment is done in one turn: a stream that waits for another one only to find that nothing more comes keeps
    the segment's bytes and samples meanwhile, 0.4 MiB.
    """
    over = False
    while not over:
        with DECODING:
            made, over, failure = _made(heard)
        made.reverse()
        while made:
            yield made.pop()
        if failure is not None:
            raise failure


def _made(heard: Iterator[StreamEvent]) -> tuple[list[StreamEvent], bool, Exception | None]:
    """Return what comes next, as much audio as a piece has; whether that is all; and the error after it."""
    made: list[StreamEvent] = []
    samples = 0
    try:
        for item in heard:
            made.append(item)
            samples += item.pcm.size if isinstance(item, Audio) else 0
            if samples >= PIECE_SAMPLES:
                return made, False, None
    except Exception as error:  # what was made before it is handed on first
        return made, True, error
    return made, True, None
