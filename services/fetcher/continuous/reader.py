"""Listens to one station: one response as long as it lasts, then the next one, for ever.

Yields the same items as the HLS side, in its caller's thread. A break ends the epoch; the time away is a gap. Only a
file, which has a length, comes to an end. Start at `ContinuousReader.listen`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator

from services.contract.windows import SAMPLE_RATE
from services.errors import GenreError
from services.fetcher.continuous.byte_stream import ByteStream
from services.fetcher.continuous.icy import HEADER, interval_of
from services.fetcher.continuous.link_decoder import LinkDecoder, Piece
from services.fetcher.continuous.station import REMEDY, Audio, Station
from services.fetcher.events import (
    BEGINNING,
    Ended,
    EpochEnded,
    EpochStarted,
    Gap,
    Report,
    ResumePoint,
    Start,
    StreamEvent,
)
from services.fetcher.events import Audio as HeardAudio
from services.fetcher.http.client import Origin, backoff_s
from services.fetcher.http.errors import FetchError
from services.fetcher.http.urls import shown
from services.fetcher.http.watch import StoppedError
from services.fetcher.media.sniff import MediaError
from services.fetcher.media.turns import DECODING
from services.fetcher.timeline.assembler import NativeSink
from services.fetcher.timeline.tracks import NowPlaying

LONGEST_AWAY_S = 31 * 86_400.0
"""A longer time away is a clock that was set, not a gap."""
MOST_IN_VAIN = 3
"""Responses in a row that are no audio, or give none."""
PATIENCE = 2.0
"""Audio has to come within so many times hls.read_timeout_s, however the bytes drip."""
_DOUBTFUL = ("not-media", "no-audio", "undecodable")


class ContinuousReader:
    """One station's timeline.

    Args:
        origin: to wait with, as its settings say.
        station: to ask again.
        start: from where to go on.
        native: called with (epoch number, rate, one array a channel) before mixing; for `genre record`.
    """

    def __init__(
        self, origin: Origin, station: Station, start: Start = BEGINNING, native: NativeSink | None = None
    ) -> None:
        self._hls, self._origin, self._station = origin.hls, origin, station
        self._start, self._native = start, native
        self._playing = NowPlaying()
        self._position = self._number = 0
        self._running: EpochStarted | None = None
        self._told = False
        self._missing: tuple[float, str, str] | None = None
        self._last_audio: float | None = None
        self._began_at: int | None = None
        self._burst_s = 0.0
        self._heard = False
        self._in_vain = 0
        self._file: tuple[int, int] | None = None
        self._until = 0

    def listen(self, audio: Audio) -> Iterator[StreamEvent]:
        """Yield what is heard, in timeline order, for ever; of a file, until its end.

        Args:
            audio: the response that was opened to see what the stream is.

        Raises:
            GenreError: no audio comes of it, or something else than audio by now.
            StoppedError: the stream was stopped.
        """
        yield _chosen(audio)
        reason = "start"
        if self._start.resume_point is not None:
            reason = "resumed"
            yield from self._resumed(self._start.resume_point, audio)
        elif audio.is_file:
            self._file = (0, 0)
        while True:
            failure = yield from self._read(audio, reason)
            if audio.is_file:
                if failure.cause == "closed":
                    yield Ended(self._position, "the file has ended")
                    return
                remedy = REMEDY if failure.cause in _DOUBTFUL else "check the server; it is tried again"
                raise GenreError(shown(audio.url), failure.detail, remedy)
            audio = yield from self._again(audio.url, failure)
            reason = "reconnected"

    # --- one response ----------------------------------------------------------------------------------------------

    def _read(self, audio: Audio, reason: str) -> Generator[StreamEvent, None, FetchError]:
        """Hear a response to its end; return why it ended."""
        interval = interval_of(audio.response.headers.get(HEADER))
        format, ogg = audio.found.what, audio.found.what == "ogg"
        source = ByteStream(audio.response, audio.head, interval, ogg, PATIENCE * self._hls.read_timeout_s)
        broken: FetchError | None = None
        opened_at = time.monotonic()
        self._began_at = None
        try:
            while True:
                position = self._position
                broken = yield from self._link(source, format, reason)
                reason = "link"
                if source.next_link():
                    continue
                if source.closed or ogg or self._position == position:
                    break
                reason = "damaged"  # libav gave up, the bytes go on
        finally:
            audio.response.close()
        yield from self._end_epoch()
        self._note_burst(opened_at)
        if isinstance(source.failure, FetchError):
            return source.failure
        return broken or FetchError("closed", "the server ended the response")

    def _note_burst(self, opened_at: float) -> None:
        """Note how much more audio a response gave than time went by."""
        if self._began_at is not None and self._last_audio is not None:
            told_s, lasted_s = (self._position - self._began_at) / SAMPLE_RATE, self._last_audio - opened_at
            self._burst_s = max(told_s - lasted_s, 0.0)

    def _link(self, source: ByteStream, format: str, reason: str) -> Generator[StreamEvent, None, FetchError | None]:
        """Hear one container; return what is wrong with it."""
        try:
            with DECODING:
                link = LinkDecoder(source, format, reason, self._hls.gap_tolerance_s, self._native is not None)
        except MediaError as error:
            if isinstance(source.failure, StoppedError):
                raise source.failure from error
            return FetchError(error.cause, error.detail)
        self._playing.note(link.tags, self._position)
        try:
            while True:
                with DECODING:
                    piece = link.next()
                if isinstance(source.failure, StoppedError):
                    raise source.failure
                for tags in source.news():
                    self._playing.note(tags, self._position)
                if piece is None:
                    break
                yield from self._hand_on(piece, source.received_at)
                del piece  # not kept while the next one is waited for
            if link.missing_s:
                self._missing = (link.missing_s, "undecodable", "frames that do not decode")
            yield from self._end_epoch()
        finally:
            link.close()
        return None

    def _hand_on(self, piece: Piece, received_at: float) -> Iterator[StreamEvent]:
        """Yield a piece with its place on the timeline."""
        if piece.begins:
            if piece.missing_s:
                self._missing = (piece.missing_s, "undecodable", "frames that do not decode")
            yield from self._end_epoch()
        first, pcm = self._position, piece.pcm
        if not len(pcm):
            return
        if self._running is None:
            if self._missing is not None:
                yield from self._settle()
                first = self._position
            self._running, self._told = EpochStarted(self._number, first, piece.begins or "restart"), False
        if self._began_at is None:
            self._began_at = self._position
        self._position += len(pcm)
        self._last_audio, self._heard, self._in_vain = time.monotonic(), True, 0
        if self._position <= self._until:  # a file that is heard again from its begin
            self._playing.swallow()
            return
        if not self._told:
            self._told = True
            yield self._running
        if first < self._until:
            pcm, first = pcm[self._until - first :], self._until
        elif self._native is not None and piece.native:
            self._native(self._running.epoch, piece.rate, piece.native)
        yield from self._playing.tell(first)
        place: dict[str, object] = {"at": received_at - len(pcm) / SAMPLE_RATE, "first": first, "file": self._file}
        point = ResumePoint(self._running.epoch, self._running.first_sample, first, place)
        yield HeardAudio(self._running.epoch, first, pcm, received_at, None, point, live=self._file is None)

    def _end_epoch(self) -> Iterator[StreamEvent]:
        """End the running epoch, and settle what of it did not decode."""
        if self._running is not None:
            ended, self._running = self._running, None
            self._number += 1
            if self._told:
                yield EpochEnded(ended.epoch, self._position)
            yield from self._settle()

    def _settle(self) -> Iterator[StreamEvent]:
        """Turn what is missing into a gap."""
        if self._missing is None:
            return
        (seconds, cause, detail), self._missing = self._missing, None
        first, samples = self._position, round(seconds * SAMPLE_RATE)
        if samples > 0:
            self._position += samples
            if first >= self._until:
                yield Gap(first, samples, cause, detail)

    # --- between responses -----------------------------------------------------------------------------------------

    def _again(self, url: str, failure: FetchError) -> Generator[StreamEvent, None, Audio]:
        """Ask again until there is audio, with growing waits.

        Raises:
            GenreError: several responses in a row were something else, or gave no audio.
        """
        if self._heard:
            self._heard = False
            yield Report("disconnected", f"{shown(url)}: {failure}")
        first, failures = failure, 0
        while True:
            self._in_vain = self._in_vain + 1 if failure.cause in _DOUBTFUL else 0
            if self._in_vain >= MOST_IN_VAIN:
                raise GenreError(shown(url), failure.detail, REMEDY)
            failures += 1
            self._origin.wait(backoff_s(self._hls.playlist_retry, failures))
            try:
                audio = self._station.reopen()
                break
            except FetchError as error:
                failure = error
        numbers: dict[str, float] = {"failures": failures}
        if self._last_audio is not None:
            # With the burst that greets us anew it plays again what it played last: so much of the time away is heard.
            # Counted by the last burst alone: what was heard twice after short breaks must not shorten a long one.
            away_s = time.monotonic() - self._last_audio
            missing_s = max(away_s - self._burst_s, 0.0)
            self._missing = (missing_s, *(self._missing[1:] if self._missing else (first.cause, first.detail)))
            numbers["seconds"] = round(away_s, 1)
        yield Report("recovered", f"{shown(audio.url)} is there again", numbers)
        return audio

    def _resumed(self, point: ResumePoint, audio: Audio) -> Iterator[StreamEvent]:
        """Go on after a restart: of a station the time away is a gap; a file is decoded again from its begin."""
        began = point.place.get("file")
        if audio.is_file and isinstance(began, (list, tuple)) and all(isinstance(n, int) for n in began):
            self._number, self._position = began
            self._file, self._until = (self._number, self._position), point.first_sample
            return
        end = max(point.first_sample, self._start.heard_until)
        yield EpochStarted(point.epoch, point.epoch_first_sample, "resumed")
        yield EpochEnded(point.epoch, end)
        self._position, self._number = end, point.epoch + 1
        self._file = (self._number, self._position) if audio.is_file else None
        at, first = point.place.get("at"), point.place.get("first")
        if isinstance(at, (int, float)) and isinstance(first, int):
            away_s = time.time() - at - (end - first) / SAMPLE_RATE
            if 0 < away_s < LONGEST_AWAY_S:
                self._last_audio = time.monotonic() - away_s
                self._missing = (away_s, "expired", "it played while nobody listened")


def _chosen(audio: Audio) -> Report:
    """Report what is heard, and its bit rate where the server says it."""
    headers = audio.response.headers
    name, kbits = headers.get("icy-name", "").strip(), re.match(r"\d{1,4}", headers.get("icy-br", ""))
    numbers = {"bandwidth_bps": float(kbits[0]) * 1_000} if kbits else {}
    return Report("chosen", f"{audio.found.words}: {shown(audio.url)}" + (f" ({name})" if name else ""), numbers)
