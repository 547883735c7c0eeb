"""Listens to one HLS stream: loads playlists at the right pace, fetches segments in order, never gives up too early.

Generator of `Heard` items for the delivery side; it works in its caller's thread and only when asked for the next item.
What the bytes mean is epochs.py, what a reload means live.py, the requests http.py. Start at `Listener.listen`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from services.errors import GenreError
from services.fetcher.bookmarks import Entry, entries_of, name_of, segment_of
from services.fetcher.choice import Candidate, Choice, choose
from services.fetcher.encryption import DecryptionError, decrypt, initialization_vector, refusal
from services.fetcher.epochs import DivergedError, Epochs, NativeSink
from services.fetcher.heard import Bookmark, Ended, Heard, Report
from services.fetcher.http import FetchError, Origin, backoff_s, shown
from services.fetcher.live import Follower, Update, finished, forgets, reload_after_s
from services.fetcher.playlist import (
    Key,
    MediaPlaylist,
    MultivariantPlaylist,
    PlaylistError,
    Segment,
    parse,
    variables_of,
)
from services.fetcher.sockets import StoppedError
from services.settings import Hls, Stream

# So many segments without audio, and nothing heard before: the stream has none.
SEGMENTS_WITHOUT_AUDIO = 3
_REMEDIES = {
    "http-404": "check the URL",
    "http-410": "the stream is gone; check the URL",
    "http-401": "give the stream a headers_file with its credentials",
    "http-403": "give the stream a headers_file with its credentials, or a fresh URL",
    "dns": "check the host name and the name server",
    "refused": "check host and port, and that the server runs",
    "tls": "check the certificate, or give hls.ca_file the CA that signed it",
    "forbidden-address": "set hls.allow_private = true if this is meant",
    "bad-url": "use an http or https URL",
    "too-large": "check that this is a playlist",
    "redirects": "check the URL: the server redirects in circles",
}


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
        self._choice: Choice | None = None
        self._candidate = 0
        self._variables: dict[str, str] = {}
        self._keys: dict[str, bytes] = {}
        self._init: tuple[object, bytes] | None = None
        self._without_audio = 0
        self._measured = False
        self._last_success = time.monotonic()

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
            playlist, reports = self._open()
            yield from reports
            yield from self._resumed(playlist) if self.resume else self._follow(playlist)
        except StoppedError:
            return

    # --- playlists --------------------------------------------------------------------------------------------------

    def _open(self) -> tuple[MediaPlaylist, list[Heard]]:
        """Load the first playlist, choose a rendition, load its playlist; any failure here is final."""
        reports: list[Heard] = []
        try:
            playlist = self._load(self.stream.url)
        except (FetchError, PlaylistError) as error:
            raise self._fatal(self.stream.url, error) from error
        if isinstance(playlist, MediaPlaylist):
            self._refuse(playlist)
            return playlist, reports
        self._choice = choose(playlist, self.stream.prefer, self.hls.min_audio_bps)
        if not self._choice.candidates:
            raise GenreError(
                shown(self.stream.url), "no variant carries audio that can be decoded", "use another stream"
            )
        failure: GenreError | None = None
        for index, candidate in enumerate(self._choice.candidates):
            try:
                media = self._load_media(candidate.uri)
                self._refuse(media)
            except (FetchError, PlaylistError) as error:
                failure = failure or self._fatal(candidate.uri, error)
                continue
            except GenreError as error:
                failure = failure or error
                continue
            self._candidate = index
            reports.append(self._chosen(candidate))
            return media, reports
        assert failure is not None
        raise failure

    def _load(self, url: str, attempts: int | None = None) -> MediaPlaylist | MultivariantPlaylist:
        """Load and parse a playlist."""
        response = self.origin.fetch(url, "playlist", attempts=attempts)
        text = response.body.decode("utf-8", "replace")
        playlist = parse(text, response.url, self._variables)
        if isinstance(playlist, MultivariantPlaylist):
            self._variables = variables_of(text, response.url)
        self._last_success = time.monotonic()
        return playlist

    def _load_media(self, url: str, attempts: int | None = None) -> MediaPlaylist:
        """Load a media playlist; a second multivariant one is an error."""
        playlist = self._load(url, attempts)
        if isinstance(playlist, MultivariantPlaylist):
            raise PlaylistError("is a multivariant playlist, where a media playlist should be")
        return playlist

    @property
    def _media_url(self) -> str:
        """Return the URL of the media playlist, as it was before any redirect: a rotating host is asked anew."""
        return self._choice.candidates[self._candidate].uri if self._choice else self.stream.url

    def _reload(self) -> MediaPlaylist:
        """Load the media playlist again, once."""
        return self._load_media(self._media_url, attempts=1)

    def _reauthorize(self) -> MediaPlaylist:
        """Load the multivariant playlist again for fresh tokens, and the media playlist it now leads to."""
        if self._choice is None:
            return self._reload()
        playlist = self._load(self.stream.url, attempts=1)
        if isinstance(playlist, MediaPlaylist):
            return playlist
        before = self._choice.candidates[self._candidate]
        choice = choose(playlist, self.stream.prefer, self.hls.min_audio_bps)
        if not choice.candidates:
            raise PlaylistError("no longer has a variant with audio")
        same = [
            i for i, c in enumerate(choice.candidates) if (name_of(c.uri), c.why) == (name_of(before.uri), before.why)
        ]
        self._choice, self._candidate = choice, same[0] if same else 0
        if not same:
            self.epochs.restarted("rendition")
        return self._reload()

    def _fatal(self, url: str, error: FetchError | PlaylistError) -> GenreError:
        """Tell why a stream can't be opened."""
        if isinstance(error, FetchError):
            return GenreError(shown(url), error.detail, _REMEDIES.get(error.cause, "check the server, then try again"))
        return GenreError(shown(url), str(error), "give the URL of an HLS playlist with audio")

    def _refuse(self, playlist: MediaPlaylist) -> None:
        """Refuse by name, before any download, what can't be decoded."""
        reason = next((why for s in playlist.segments if (why := refusal(s.key))), None)
        if reason:
            raise GenreError(shown(playlist.uri), reason, "use a stream that is not encrypted, or with AES-128")
        if finished(playlist) and not playlist.segments:
            raise GenreError(shown(playlist.uri), "the playlist has no segments", "use another stream")

    def _chosen(self, candidate: Candidate) -> Report:
        """Report the choice of a rendition and what it saves."""
        numbers: dict[str, float] = {}
        if candidate.bandwidth and self._choice:
            numbers = {
                "bandwidth_bps": candidate.bandwidth,
                "bandwidth_saved_bps": max(self._choice.dearest - candidate.bandwidth, 0),
            }
            self._measured = True
        return Report("chosen", f"{candidate.why}: {shown(candidate.uri)}", numbers)

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
                    playlist = self._reauthorize() if failures and failures % 3 == 0 else self._reload()
                except (FetchError, PlaylistError) as error:
                    failures += 1
                    if failures == 1:
                        yield Report("playlist-failed", f"{shown(self._media_url)}: {error}")
                    if isinstance(error, FetchError) and error.unauthorized and failures < 3:
                        failures = 3  # a token has expired: ask for a fresh one at once
                        continue
                    if time.monotonic() - self._last_success > self.hls.dead_after_s:
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
        if not self.epochs.heard_anything and self._without_audio:
            raise self._silent()
        yield Ended(self.epochs.position, reason)

    # --- segments ---------------------------------------------------------------------------------------------------

    def _hear(self, segment: Segment, playlist: MediaPlaylist) -> Iterator[Heard]:
        """Fetch, decrypt and decode one segment; whatever fails becomes a gap and a report."""
        try:
            data, init = self._media_of(segment, playlist)
        except FetchError as error:
            yield from self._lost(segment, error.cause, error.detail)
            return
        except DecryptionError as error:
            yield from self._lost(segment, "decryption", str(error))
            return
        received_at = time.time()
        if not self._measured and self._choice and segment.duration > 0:
            self._measured = True
            bps = round(len(data) * 8 / segment.duration)
            saved = max(self._choice.dearest - bps, 0)
            yield Report(
                "measured", "cost of the chosen rendition", {"bandwidth_bps": bps, "bandwidth_saved_bps": saved}
            )
        missing_before = self.epochs.missing_segments
        yield from self.epochs.hear(segment, data, init, received_at, live=forgets(playlist))
        if self.epochs.missing_segments > missing_before:
            cause, detail = self.epochs.last_missing
            if cause in ("no-audio", "encrypted"):
                self._without_audio += 1
                if not self.epochs.heard_anything and self._without_audio >= SEGMENTS_WITHOUT_AUDIO:
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

    def _media_of(self, segment: Segment, playlist: MediaPlaylist) -> tuple[bytes, bytes | None]:
        """Return the decrypted bytes of a segment and of its initialization section.

        Raises:
            FetchError, DecryptionError: it can't be had.
        """
        if segment.gap:
            raise FetchError("gap-tag", "the playlist says that it is not there (EXT-X-GAP)")
        if reason := refusal(segment.key):
            raise FetchError("encrypted", reason)
        if time.monotonic() - self._last_success > self.hls.dead_after_s:
            raise FetchError("dead", f"the origin gave nothing for {self.hls.dead_after_s:g} s")
        # At the live edge a segment may not have reached every cache yet: only there a 404 is worth another try.
        newest = not finished(playlist) and segment is playlist.segments[-1]
        try:
            return self._fetch_media(segment, newest)
        except FetchError as error:
            if not error.unauthorized:
                raise
            fresh = self._fresh_uri(segment)
            if fresh is None:
                raise
            return self._fetch_media(fresh, newest)

    def _fetch_media(self, segment: Segment, newest: bool) -> tuple[bytes, bytes | None]:
        """Fetch and decrypt a segment, its key and its initialization section."""
        init = None
        if segment.map is not None:
            place = (segment.map.uri, segment.map.byterange)
            if self._init is None or self._init[0] != place:
                byterange = segment.map.byterange
                span = (byterange.offset, byterange.length) if byterange else None
                body = self.origin.fetch(segment.map.uri, "init", span).body
                if segment.map.key is not None and refusal(segment.map.key) is None:
                    body = self._decrypted(body, segment.map.key, segment)
                self._init = (place, body)
            init = self._init[1]
        span = (segment.byterange.offset, segment.byterange.length) if segment.byterange else None
        try:
            data = self.origin.fetch(segment.uri, "segment", span).body
        except FetchError as error:
            if not (newest and error.cause == "http-404"):
                raise
            self.origin.wait(min(segment.duration / 2, 2.0))
            data = self.origin.fetch(segment.uri, "segment", span).body
        self._last_success = time.monotonic()
        return (self._decrypted(data, segment.key, segment) if segment.key else data), init

    def _decrypted(self, data: bytes, key: Key, segment: Segment) -> bytes:
        """Decrypt with the key of a URI; a key that does not fit is fetched once more, for it may have been changed."""
        iv = initialization_vector(key, segment)
        cached = key.uri in self._keys
        for again in (True, False):
            if key.uri not in self._keys:
                if len(self._keys) >= 64:
                    self._keys.pop(next(iter(self._keys)))
                self._keys[key.uri] = self.origin.fetch(key.uri, "key").body
            try:
                return decrypt(data, self._keys[key.uri], iv)
            except DecryptionError:
                del self._keys[key.uri]
                if not (cached and again):
                    raise
        raise AssertionError("unreachable")

    def _fresh_uri(self, segment: Segment) -> Segment | None:
        """Find the same segment in a freshly authorized playlist."""
        try:
            playlist = self._reauthorize()
        except (FetchError, PlaylistError):
            return None
        return next((s for s in playlist.segments if s.media_sequence == segment.media_sequence), None)

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


def _usable(entry: Entry, at: int | None, listed: dict[int, Segment]) -> bool:
    """Say whether every segment from an entry to the bookmark's own is still listed, and the entry's is the same."""
    if at is None or not entry.media_sequence <= at <= entry.media_sequence + len(listed):
        return False
    if any(number not in listed for number in range(entry.media_sequence, at + 1)):
        return False
    return name_of(listed[entry.media_sequence].uri) == entry.name
