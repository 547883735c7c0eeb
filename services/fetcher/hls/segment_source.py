"""The bytes of one segment: fetched with its initialization section, decrypted; with fresh tokens where they expired.

What the bytes mean is epochs.py's business; what a failure costs is the reader's. Start at `SegmentSource.media_of`.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from services.fetcher.hls.data_uri import data_of, is_data
from services.fetcher.hls.encryption import DecryptionError, decrypt, initialization_vector, refusal
from services.fetcher.hls.playlist import MediaPlaylist, PlaylistError
from services.fetcher.hls.playlist_loader import PlaylistLoader
from services.fetcher.hls.reload import finished
from services.fetcher.http.client import Kind, Origin
from services.fetcher.http.errors import FetchError
from services.fetcher.segment import Key, Segment

MOST_KEYS = 64
MOST_HOSTS = 16


class Media(NamedTuple):
    """A segment's bytes and its initialization section's, decrypted.

    Attributes:
        cut: where its body ended early, the failure's cause and detail.
    """

    data: bytes
    init: bytes | None
    cut: tuple[str, str] | None = None


class SegmentSource:
    """Segments of one stream; remembers keys and the latest initialization section."""

    def __init__(self, origin: Origin, loader: PlaylistLoader) -> None:
        self.origin, self.loader = origin, loader
        self._keys: dict[str, bytes] = {}
        self._init: tuple[object, bytes] | None = None
        self._gave: dict[str, tuple[str, tuple[int, int] | None]] = {}

    def is_away(self, segment: Segment) -> bool:
        """Say whether a segment's host is away: what it gave last can't be had any more, or not even the playlist.

        Where it gives that, the segment alone is broken.
        """
        known = self._gave.get(_host(segment.uri))
        try:
            if known is not None:
                self.origin.fetch(known[0], "segment", known[1], attempts=1)
            else:
                self.origin.fetch(self.loader.media_url, "playlist", attempts=1)
        except FetchError as error:
            return error.transient
        return False

    def media_of(self, segment: Segment, playlist: MediaPlaylist) -> Media:
        """Return the decrypted bytes of a segment and of its initialization section.

        Raises:
            FetchError, DecryptionError: it can't be had.
        """
        if segment.gap:
            raise FetchError("gap-tag", "the playlist says that it is not there (EXT-X-GAP)")
        if reason := refusal(segment.key):
            raise FetchError("encrypted", reason)
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

    def what_came(self, segment: Segment, error: FetchError) -> Media | None:
        """Return what came of a segment whose body ended early; None where that is nothing, or does not decrypt."""
        if not error.came:
            return None
        try:
            init = self._initialization_section(segment) if segment.map is not None else None
            data = self._decrypted(error.came, segment.key, segment) if segment.key else error.came
        except (FetchError, DecryptionError):
            return None
        return Media(data, init, (error.cause, error.detail))

    def _fetch_media(self, segment: Segment, newest: bool) -> Media:
        """Fetch and decrypt a segment, its key and its initialization section."""
        init = self._initialization_section(segment) if segment.map is not None else None
        span = (segment.byterange.offset, segment.byterange.length) if segment.byterange else None
        try:
            data = self._body(segment.uri, "segment", span)
        except FetchError as error:
            if not (newest and error.cause == "http-404"):
                raise
            self.origin.wait(min(segment.duration / 2, 2.0))
            data = self._body(segment.uri, "segment", span)
        self.loader.silence.restart()
        if not is_data(segment.uri):
            if len(self._gave) >= MOST_HOSTS:
                self._gave.pop(next(iter(self._gave)))
            self._gave[_host(segment.uri)] = (segment.uri, span)
        return Media(self._decrypted(data, segment.key, segment) if segment.key else data, init)

    def _body(self, uri: str, kind: Kind, span: tuple[int, int] | None = None) -> bytes:
        """Fetch a resource, or read it where its URI holds it."""
        return data_of(uri, span) if is_data(uri) else self.origin.fetch(uri, kind, span).body

    def _initialization_section(self, segment: Segment) -> bytes:
        """Fetch and decrypt the section of a segment, unless it is the one at hand.

        After a discontinuity it is asked for again: an encoder that was restarted writes another one under its name.
        """
        section = segment.map
        assert section is not None
        place = (section, segment.discontinuity_sequence)
        if self._init is None or self._init[0] != place:
            byterange = section.byterange
            body = self._body(section.uri, "init", (byterange.offset, byterange.length) if byterange else None)
            if section.key is not None:
                if reason := refusal(section.key):
                    raise FetchError("encrypted", f"the initialization section {reason}")
                body = self._decrypted(body, section.key, segment)
            self._init = (place, body)
        return self._init[1]

    def forget_init(self) -> None:
        """Ask for the initialization section again with the next segment."""
        self._init = None

    def another_init(self, segment: Segment) -> bytes | None:
        """Ask again for the section of a segment that does not decode; None where it is the same as before."""
        before = self._init[1] if self._init else None
        self.forget_init()
        try:
            init = self._initialization_section(segment) if segment.map is not None else None
        except (FetchError, DecryptionError):
            return None
        return init if init != before else None

    def _decrypted(self, data: bytes, key: Key, segment: Segment) -> bytes:
        """Decrypt with the key of a URI; a key that does not fit is fetched once more: it may have been changed."""
        iv = initialization_vector(key, segment)
        cached = key.uri in self._keys
        for again in (True, False):
            if key.uri not in self._keys:
                if len(self._keys) >= MOST_KEYS:
                    self._keys.pop(next(iter(self._keys)))
                self._keys[key.uri] = self._body(key.uri, "key")
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


def _host(uri: str) -> str:
    """Return the host and port of a URI."""
    return urlsplit(uri).netloc
