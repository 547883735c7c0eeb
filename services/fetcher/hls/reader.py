"""Reads one HLS stream: loads playlists at the right pace, takes their segments in order, never gives up too early.

Yields events for the delivery side; works in its caller's thread and only when asked for the next one. Playlists come
from playlist_loader.py, reload.py says which segments are new, segment_reader.py turns each into events.
Start at `PlaylistReader.listen`.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import replace

from services.fetcher.events import BEGINNING, Ended, Report, ResumePoint, Start, StreamEvent
from services.fetcher.hls.playlist import MediaPlaylist, PlaylistError
from services.fetcher.hls.playlist_loader import PlaylistLoader
from services.fetcher.hls.reload import STEP, PlaylistFollower, Update, apart_s, finished, reload_after_s, turn
from services.fetcher.hls.resume import ANOTHER, Resume, decide, end_point, has_more
from services.fetcher.hls.segment_reader import SegmentReader
from services.fetcher.hls.stopwatch import Stopwatch
from services.fetcher.http.client import Origin, backoff_s
from services.fetcher.http.errors import FetchError
from services.fetcher.http.response import Response
from services.fetcher.http.urls import shown
from services.fetcher.http.watch import StoppedError
from services.fetcher.timeline.assembler import NativeSink
from services.fetcher.timeline.epochs import DivergedError

LOADS_OF_A_COMPLETE_LIST = 3


class PlaylistReader:
    """One stream, from its URL to what is heard.

    Args:
        origin: of the stream; it knows which one, how and until when: when its stop is set, `listen` returns within a
            second.
        start: from where to listen.
        native: called with (epoch number, rate, one array a channel) before mixing; for `genre record`.
        found: the first playlist, where it was loaded already.
    """

    def __init__(
        self, origin: Origin, start: Start = BEGINNING, native: NativeSink | None = None, found: Response | None = None
    ) -> None:
        self.origin, self.hls, self.start = origin, origin.hls, start
        self._nothing_new = Stopwatch()
        self._loaded_at = time.monotonic()
        self.follower = self._new_follower()
        self.loader = PlaylistLoader(origin, lambda: self.segments.epochs.restarted("rendition"), found)
        self.segments = SegmentReader(origin, self.loader, native, start.resume_point is not None)

    def close(self) -> None:
        """Close the connections."""
        self.origin.close()

    def listen(self) -> Iterator[StreamEvent]:
        """Yield what is heard, in timeline order, until the stream ends or the stop is set.

        A stop ends it without an item, between two items or in the middle of a wait. The time that the consumer takes
        for an item never counts as the origin's silence.

        Raises:
            GenreError: the stream can't be heard, at all or any more: URL, reason, remedy.
        """
        try:
            for item in self._heard():
                handed_on = time.monotonic()
                yield item
                del item  # not kept while the next one is waited for: 170 KiB of audio, times hundreds of streams
                taken_s = time.monotonic() - handed_on
                self._nothing_new.leave_out(taken_s)
                self.loader.silence.leave_out(taken_s)
        except StoppedError:
            return

    def has_more(self) -> bool | None:
        """Look whether a stream that has ended goes on: its list lost ENDLIST, or has other segments than before.

        Returns:
            None where that will never be: a list of type VOD must not change (RFC 8216, 4.3.3.5).

        Raises:
            GenreError: its list can't be had.
        """
        try:
            playlist, _ = self.loader.open()
        except StoppedError:
            return False
        if has_more(self.start.resume_point, playlist):
            return True
        return None if playlist.playlist_type == "VOD" else False

    def _heard(self) -> Iterator[StreamEvent]:
        playlist, reports = self.loader.open()
        yield from reports
        point = self.start.resume_point
        yield from self._resumed(point, playlist) if point else self._follow(playlist)

    # --- following --------------------------------------------------------------------------------------------------

    def _follow(self, playlist: MediaPlaylist) -> Iterator[StreamEvent]:
        """Hear a playlist and its reloads until it ends; this is the main loop."""
        stalled = False
        stood_still = 0
        self._nothing_new.restart()
        left = turn()
        while True:
            loaded_at = self._loaded_at
            update = self.follower.update(playlist, loaded_at, patient=stalled)
            yield from self._announce(update)
            stood_still = 0 if update.fresh else stood_still + 1
            if update.fresh:
                self._nothing_new.restart()
                if stalled:
                    stalled = False
                    yield Report("recovered", "the list has new segments again")
            due = loaded_at + reload_after_s(playlist, update.fresh, self.hls.shortest_reload_s)
            due += apart_s(playlist, left)
            left = max(0.0, left - STEP)
            for segment in update.segments:
                self.follower.take(segment)
                if (yield from self.segments.read(segment, playlist)):
                    self.follower, due = self._new_follower(), 0.0
                    break
                self._nothing_new.restart()  # a list's segments are news until the last of them was read
                self.loader.check_silence()
                if not playlist.endlist and time.monotonic() >= due:
                    break  # what is left is in the next list too, unless it has expired: that list says so
            else:
                # Some live lists call themselves VOD: without ENDLIST such a list is over once it stands still.
                if playlist.endlist or (finished(playlist) and stood_still >= LOADS_OF_A_COMPLETE_LIST):
                    yield from self._end(playlist)
                    return
            silent_s = self._nothing_new.seconds
            if silent_s > self.hls.stall_after_targets * playlist.target_duration and not stalled:
                stalled = True
                self.loader.avoid("its list has nothing new")
                yield Report("stalled", "the list has nothing new", {"seconds": round(silent_s, 1)})
            self._nothing_new.check(self.origin)
            playlist = yield from self._reloaded(due)

    def _reloaded(self, due: float) -> Generator[StreamEvent, None, MediaPlaylist]:
        """Load the list again, not before `due` (monotonic), however often it takes.

        Raises:
            GenreError: the origin gave nothing for too long.
        """
        self.origin.wait(due - time.monotonic())
        failures = 0
        while True:
            self._loaded_at = time.monotonic()
            try:
                playlist = self.loader.reauthorize() if failures and failures % 3 == 0 else self.loader.reload()
            except (FetchError, PlaylistError) as error:
                failures += 1
                if failures == 1:
                    yield Report("playlist-failed", f"{shown(self.loader.media_url)}: {error}")
                if isinstance(error, FetchError) and error.unauthorized and failures < 3:
                    failures = 3  # a token has expired: ask for a fresh one at once
                    continue
                self.loader.check_silence(str(error))
                self.origin.wait(backoff_s(self.hls.playlist_retry, failures))
                continue
            yield from self.loader.reports()
            if failures:
                yield Report("recovered", "the playlist is there again", {"failures": failures})
            return playlist

    def _announce(self, update: Update) -> Iterator[StreamEvent]:
        """Tell of skipped segments and restarts, and let the epochs know."""
        if update.restarted:
            self.segments.restarted()
            yield Report("restarted", update.restarted)
        if update.skipped:
            skip = update.skipped
            yield Report(
                "skipped",
                f"{skip.segments} segments were not heard ({skip.cause}); going on near the live edge",
                {"segments": skip.segments, "seconds": round(skip.duration_s, 3)},
            )
            self.segments.epochs.missing(skip.duration_s, skip.cause, f"{skip.segments} segments")

    def _end(self, playlist: MediaPlaylist) -> Iterator[StreamEvent]:
        """End the stream, which has ended by its own word."""
        epochs = self.segments.epochs
        yield from epochs.end()
        if not epochs.timeline.heard_anything and self.segments.without_audio:
            raise self.segments.silent()
        reason = "the playlist has ended (EXT-X-ENDLIST)" if playlist.endlist else "the playlist is complete (VOD)"
        yield Ended(epochs.position, reason, end_point(max(epochs.number - 1, 0), epochs.position, playlist))

    # --- resuming ---------------------------------------------------------------------------------------------------

    def _resumed(self, point: ResumePoint, playlist: MediaPlaylist) -> Iterator[StreamEvent]:
        """Go back to the resume point, or to where resume.py says, and follow from there.

        Decoding begins at the epoch's start where that is still listed: then every sample is the same, bit for bit.
        Else at a segment of the epoch that is listed, as a run-up. Else the epoch ends at the resume point, and what
        lies between it and the next segment is a gap.
        """
        resume = self._decide(point, playlist)
        patience_s = self.hls.stall_after_targets * playlist.target_duration
        self._nothing_new.restart()
        while resume is None:
            if playlist.segments and self._nothing_new.seconds > patience_s:
                resume = ANOTHER  # it stays older than what was heard: the encoder restarted
                break
            self._nothing_new.check(self.origin)
            due = time.monotonic() + reload_after_s(playlist, False, self.hls.shortest_reload_s)
            playlist = yield from self._reloaded(due)
            resume = self._decide(point, playlist)
        for entry in resume.entries:
            self.segments.begin_anew()
            self.segments.epochs.resume(point, entry)
            self.follower.begin_at(entry.media_sequence, resume.until)
            try:
                yield from self._follow(playlist)
                return
            except DivergedError:
                continue
        self.segments.begin_anew()
        epochs = self.segments.epochs
        if resume.next is None:
            end = max(point.first_sample, self.start.heard_until)
            yield from epochs.resume_elsewhere(replace(point, first_sample=end))
            epochs.restarted("restart")
        else:
            yield from epochs.resume_elsewhere(point)
            self.follower.begin_at(resume.next)
            if resume.missing_s:
                epochs.missing(resume.missing_s, resume.cause, "segments passed while nobody listened")
        yield from self._follow(playlist)

    def _decide(self, point: ResumePoint, playlist: MediaPlaylist) -> Resume | None:
        return decide(point, playlist, self.hls.live_start_targets, self.hls.live_behind_limit_s)

    def _new_follower(self) -> PlaylistFollower:
        return PlaylistFollower(self.hls.live_start_targets, self.hls.live_behind_limit_s)
