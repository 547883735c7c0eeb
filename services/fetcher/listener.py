"""Listens to one HLS stream: loads playlists at the right pace, fetches segments in order, never gives up too early.

Generator of `Heard` items for the delivery side; it works in its caller's thread and only when asked for the next item.
Playlists come from playlist_loader.py, bytes from segment_source.py; live.py and epochs.py say what they mean.
Start at `Listener.listen`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from services.errors import GenreError
from services.fetcher.bookmarks import Entry, entries_of, name_of, segment_of
from services.fetcher.encryption import DecryptionError
from services.fetcher.epochs import DivergedError, Epochs
from services.fetcher.failures import FetchError
from services.fetcher.heard import Bookmark, Ended, Heard, Report
from services.fetcher.http import Origin, backoff_s, shown
from services.fetcher.live import Follower, Update, finished, forgets, reload_after_s
from services.fetcher.playlist import MediaPlaylist, PlaylistError, Segment
from services.fetcher.playlist_loader import PlaylistLoader
from services.fetcher.segment_source import SegmentSource
from services.fetcher.sockets import StoppedError
from services.fetcher.timeline import NativeSink
from services.settings import Hls, Stream

# So many segments without audio, and nothing heard before: the stream has none.
SEGMENTS_WITHOUT_AUDIO = 3
# Streams decode in turns. Libav lets go of the interpreter's lock several times a packet, and threads that decode at
# once hand it to and fro: two of them need twice the CPU a second of audio, a hundred of them ten times (measured).
_DECODING = threading.Lock()


class Listener:
    """One stream, from its URL to what is heard.

    Args:
        stream: which.
        hls: how.
        stop: when it is set, `listen` returns within a second.
        resume: listen again from here.
        native: see Epochs; for `genre record`.

    Raises:
        UsageError: a file that the settings name can't be used.
    """

    def __init__(
        self,
        stream: Stream,
        hls: Hls,
        stop: threading.Event,
        resume: Bookmark | None = None,
        native: NativeSink | None = None,
    ) -> None:
        self.stream, self.hls, self.stop = stream, hls, stop
        self.origin = Origin(stream, hls, stop)
        self.resume, self.native = resume, native
        self.epochs = self._new_epochs()
        self.follower = Follower(hls.live_start_targets, hls.live_behind_limit_s)
        self.loader = PlaylistLoader(stream, hls, self.origin, lambda: self.epochs.restarted("rendition"))
        self.source = SegmentSource(hls, self.origin, self.loader)
        self._without_audio = 0

    def close(self) -> None:
        """Close the connections."""
        self.origin.close()

    def listen(self) -> Iterator[Heard]:
        """Yield what is heard, in timeline order, until the stream ends or the stop is set.

        A stop ends it without an item, between two items or in the middle of a wait.

        Raises:
            GenreError: the stream can't be heard at all: URL, reason, remedy.
        """
        try:
            playlist, reports = self.loader.open()
            yield from reports
            yield from self._resumed(playlist) if self.resume else self._follow(playlist)
        except StoppedError:
            return

    # --- following --------------------------------------------------------------------------------------------------

    def _follow(self, playlist: MediaPlaylist, update: Update | None = None) -> Iterator[Heard]:
        """Hear a playlist and its reloads until it ends; this is the main loop."""
        loaded_at = fresh_at = time.monotonic()
        stalled = False
        failures = 0
        while True:
            update = update or self.follower.update(playlist, loaded_at, patient=stalled)
            yield from self._announce(update)
            if update.fresh or update.segments:
                fresh_at = max(fresh_at, loaded_at) if update.fresh else fresh_at
                if stalled and update.fresh:
                    stalled = False
                    yield Report("recovered", "the list has new segments again")
            due = loaded_at + reload_after_s(playlist, update.fresh, self.hls.shortest_reload_s)
            for segment in update.segments:
                self.follower.take(segment)
                yield from self._hear(segment, playlist)
                if not finished(playlist) and time.monotonic() >= due:
                    break  # what is left is in the next list too, unless it has expired: that list says so
            else:
                if finished(playlist):
                    yield from self._end("the playlist has ended (EXT-X-ENDLIST)")
                    return
            silent_s = time.monotonic() - fresh_at
            if silent_s > self.hls.stall_after_targets * playlist.target_duration and not stalled:
                stalled = True
                yield Report("stalled", "the list has nothing new", {"seconds": round(silent_s, 1)})
            if silent_s > self.hls.dead_after_s:
                yield from self._end(f"nothing new for {self.hls.dead_after_s:g} s")
                return
            self.origin.wait(due - time.monotonic())
            while True:
                loaded_at = time.monotonic()
                try:
                    playlist = self.loader.reauthorize() if failures and failures % 3 == 0 else self.loader.reload()
                except (FetchError, PlaylistError) as error:
                    failures += 1
                    if failures == 1:
                        yield Report("playlist-failed", f"{shown(self.loader.media_url)}: {error}")
                    if isinstance(error, FetchError) and error.unauthorized and failures < 3:
                        failures = 3  # a token has expired: ask for a fresh one at once
                        continue
                    if time.monotonic() - self.loader.last_success > self.hls.dead_after_s:
                        yield from self._end(f"the playlist failed for {self.hls.dead_after_s:g} s")
                        return
                    self.origin.wait(backoff_s(self.hls.playlist_retry, failures))
                    continue
                if failures:
                    yield Report("recovered", "the playlist is there again", {"failures": failures})
                failures = 0
                break
            update = None

    def _announce(self, update: Update) -> Iterator[Heard]:
        """Tell of skipped segments and restarts, and let the epochs know."""
        if update.restarted:
            self.epochs.restarted("restart")
            yield Report("restarted", update.restarted)
        if update.skipped:
            skip = update.skipped
            yield Report(
                "skipped",
                f"{skip.segments} segments were not heard ({skip.cause}); going on near the live edge",
                {"segments": skip.segments, "seconds": round(skip.duration_s, 3)},
            )
            self.epochs.missing(skip.duration_s, skip.cause, f"{skip.segments} segments")

    def _end(self, reason: str) -> Iterator[Heard]:
        """End the stream."""
        yield from self.epochs.end()
        if not self.epochs.timeline.heard_anything and self._without_audio:
            raise self._silent()
        yield Ended(self.epochs.position, reason)

    # --- segments ---------------------------------------------------------------------------------------------------

    def _hear(self, segment: Segment, playlist: MediaPlaylist) -> Iterator[Heard]:
        """Fetch, decrypt and decode one segment; whatever fails becomes a gap and a report."""
        try:
            data, init = self.source.media_of(segment, playlist)
        except FetchError as error:
            yield from self._lost(segment, error.cause, error.detail)
            return
        except DecryptionError as error:
            yield from self._lost(segment, "decryption", str(error))
            return
        received_at = time.time()
        if report := self.loader.cost(len(data), segment.duration):
            yield report
        missing_before = self.epochs.missing_segments
        yield from _in_turn(self.epochs.hear(segment, data, init, received_at, live=forgets(playlist)))
        if self.epochs.missing_segments > missing_before:
            cause, detail = self.epochs.last_missing
            if cause in ("no-audio", "encrypted"):
                self._without_audio += 1
                if not self.epochs.timeline.heard_anything and self._without_audio >= SEGMENTS_WITHOUT_AUDIO:
                    raise self._silent(detail)
            yield Report("segment-failed", f"segment {segment.media_sequence}: {detail}", {"seconds": segment.duration})

    def _lost(self, segment: Segment, cause: str, detail: str) -> Iterator[Heard]:
        """Note that a segment could not be had."""
        self.epochs.missing(segment.duration, cause, f"segment {segment.media_sequence}: {detail}")
        if cause != "gap-tag":
            yield Report("segment-failed", f"segment {segment.media_sequence}: {detail}", {"seconds": segment.duration})

    def _silent(self, detail: str = "") -> GenreError:
        """Tell that a stream has no audio."""
        reason = f"no audio in its segments ({detail})" if detail else "no audio in its segments"
        return GenreError(shown(self.stream.url), reason, "use a stream with AAC, MP3, AC-3, E-AC-3, Opus or FLAC")

    # --- resuming ---------------------------------------------------------------------------------------------------

    def _resumed(self, playlist: MediaPlaylist) -> Iterator[Heard]:
        """Go back to the bookmark and follow from there.

        Decoding begins at the epoch's start where that is still listed: then every sample is the same, bit for bit.
        Else at the oldest segment of the epoch that is listed, as a run-up. If even the bookmark's own segment is gone,
        the epoch ends at the bookmark and what expired is a gap.
        """
        bookmark = self.resume
        assert bookmark is not None
        listed = {segment.media_sequence: segment for segment in playlist.segments}
        at = segment_of(bookmark)
        for entry in entries_of(bookmark):
            if not _usable(entry, at, listed):
                continue
            self.epochs = self._new_epochs()
            self.epochs.resume(bookmark, entry)
            self.follower.begin_at(entry.media_sequence)
            try:
                yield from self._follow(playlist)
                return
            except DivergedError:
                continue
        self.epochs = self._new_epochs()
        yield from self.epochs.resume_elsewhere(bookmark)
        if at is not None and (not listed or min(listed) > at or max(listed) + 1 >= at):
            known = playlist.target_duration * max(min(listed, default=at) - at, 0)
            left = [s.duration for n, s in listed.items() if n == at]
            self.epochs.missing(known + sum(left), "expired", "segments left the playlist while nobody listened")
            self.follower.begin_at(max(at + (1 if left else 0), min(listed, default=at)))
        else:
            self.epochs.restarted("restart")
        yield from self._follow(playlist)

    def _new_epochs(self) -> Epochs:
        """Make the decoder side anew."""
        return Epochs(self.hls.gap_tolerance_s, self.hls.title_from_extinf, self.native)


def _in_turn(heard: Iterator[Heard]) -> Iterator[Heard]:
    """Yield the items; no other stream decodes while the next one is made, all may while it is handed on."""
    while True:
        with _DECODING:
            item = next(heard, None)
        if item is None:
            return
        yield item


def _usable(entry: Entry, at: int | None, listed: dict[int, Segment]) -> bool:
    """Say whether every segment from an entry to the bookmark's own is still listed, and the entry's is the same."""
    if at is None or not entry.media_sequence <= at <= entry.media_sequence + len(listed):
        return False
    if any(number not in listed for number in range(entry.media_sequence, at + 1)):
        return False
    return name_of(listed[entry.media_sequence].uri) == entry.name
