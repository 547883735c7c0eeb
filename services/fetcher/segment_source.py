"""The bytes of one segment: fetched with its initialization section, decrypted; with fresh tokens where they expired.

What the bytes mean is epochs.py's business; what a failure costs is the listener's. Start at `SegmentSource.media_of`.
"""

from __future__ import annotations

import time

from services.fetcher.encryption import DecryptionError, decrypt, initialization_vector, refusal
from services.fetcher.failures import FetchError
from services.fetcher.http import Origin
from services.fetcher.live import finished
from services.fetcher.playlist import Key, MediaPlaylist, PlaylistError, Segment
from services.fetcher.playlist_loader import PlaylistLoader
from services.settings import Hls

MOST_KEYS = 64


class SegmentSource:
    """Segments of one stream; remembers keys and the latest initialization section."""

    def __init__(self, hls: Hls, origin: Origin, loader: PlaylistLoader) -> None:
        self.hls, self.origin, self.loader = hls, origin, loader
        self._keys: dict[str, bytes] = {}
        self._init: tuple[object, bytes] | None = None

    def media_of(self, segment: Segment, playlist: MediaPlaylist) -> tuple[bytes, bytes | None]:
        """Return the decrypted bytes of a segment and of its initialization section.

        Raises:
            FetchError, DecryptionError: it can't be had.
        """
        if segment.gap:
            raise FetchError("gap-tag", "the playlist says that it is not there (EXT-X-GAP)")
        if reason := refusal(segment.key):
            raise FetchError("encrypted", reason)
        if time.monotonic() - self.loader.last_success > self.hls.dead_after_s:
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
        self.loader.last_success = time.monotonic()
        return (self._decrypted(data, segment.key, segment) if segment.key else data), init

    def _decrypted(self, data: bytes, key: Key, segment: Segment) -> bytes:
        """Decrypt with the key of a URI; a key that does not fit is fetched once more, for it may have been changed."""
        iv = initialization_vector(key, segment)
        cached = key.uri in self._keys
        for again in (True, False):
            if key.uri not in self._keys:
                if len(self._keys) >= MOST_KEYS:
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
            playlist = self.loader.reauthorize()
        except (FetchError, PlaylistError):
            return None
        return next((s for s in playlist.segments if s.media_sequence == segment.media_sequence), None)
