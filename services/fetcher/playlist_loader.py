"""Loads a stream's playlists: the first one, the chosen rendition's, and both again for fresh tokens.

Which rendition is choice.py's decision, what a playlist says playlist.py's, when to load it the listener's.
Start at `PlaylistLoader.open`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from services.errors import GenreError
from services.fetcher.bookmarks import name_of
from services.fetcher.choice import Candidate, Choice, choose
from services.fetcher.encryption import refusal
from services.fetcher.failures import FetchError
from services.fetcher.heard import Heard, Report
from services.fetcher.http import Origin, shown
from services.fetcher.live import finished
from services.fetcher.playlist import MediaPlaylist, MultivariantPlaylist, PlaylistError, parse
from services.fetcher.playlist_lines import variables_of
from services.settings import Hls, Stream

REMEDIES = {
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


class PlaylistLoader:
    """The playlists of one stream, and which rendition of it is heard.

    Args:
        on_switch: called where another rendition than before had to be taken.

    Attributes:
        last_success: monotonic time at which the origin last gave something that could be used.
    """

    def __init__(self, stream: Stream, hls: Hls, origin: Origin, on_switch: Callable[[], None]) -> None:
        self.stream, self.hls, self.origin, self._on_switch = stream, hls, origin, on_switch
        self.choice: Choice | None = None
        self.last_success = time.monotonic()
        self._candidate = 0
        self._variables: dict[str, str] = {}
        self._cost_told = False

    def open(self) -> tuple[MediaPlaylist, list[Heard]]:
        """Load the first playlist, choose a rendition, load its playlist; any failure here is final."""
        reports: list[Heard] = []
        try:
            playlist = self._load(self.stream.url)
        except (FetchError, PlaylistError) as error:
            raise self._fatal(self.stream.url, error) from error
        if isinstance(playlist, MediaPlaylist):
            self._refuse(playlist)
            return playlist, reports
        self.choice = choose(playlist, self.stream.prefer, self.hls.min_audio_bps)
        if not self.choice.candidates:
            raise GenreError(
                shown(self.stream.url), "no variant carries audio that can be decoded", "use another stream"
            )
        failure: GenreError | None = None
        for index, candidate in enumerate(self.choice.candidates):
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
        self.last_success = time.monotonic()
        return playlist

    def _load_media(self, url: str, attempts: int | None = None) -> MediaPlaylist:
        """Load a media playlist; a second multivariant one is an error."""
        playlist = self._load(url, attempts)
        if isinstance(playlist, MultivariantPlaylist):
            raise PlaylistError("is a multivariant playlist, where a media playlist should be")
        return playlist

    @property
    def media_url(self) -> str:
        """Return the URL of the media playlist, as it was before any redirect: a rotating host is asked anew."""
        return self.choice.candidates[self._candidate].uri if self.choice else self.stream.url

    def reload(self) -> MediaPlaylist:
        """Load the media playlist again, once."""
        return self._load_media(self.media_url, attempts=1)

    def reauthorize(self) -> MediaPlaylist:
        """Load the multivariant playlist again for fresh tokens, and the media playlist it now leads to."""
        if self.choice is None:
            return self.reload()
        playlist = self._load(self.stream.url, attempts=1)
        if isinstance(playlist, MediaPlaylist):
            return playlist
        before = self.choice.candidates[self._candidate]
        choice = choose(playlist, self.stream.prefer, self.hls.min_audio_bps)
        if not choice.candidates:
            raise PlaylistError("no longer has a variant with audio")
        same = [
            i for i, c in enumerate(choice.candidates) if (name_of(c.uri), c.why) == (name_of(before.uri), before.why)
        ]
        self.choice, self._candidate = choice, same[0] if same else 0
        if not same:
            self._on_switch()
        return self.reload()

    def _fatal(self, url: str, error: FetchError | PlaylistError) -> GenreError:
        """Tell why a stream can't be opened."""
        if isinstance(error, FetchError):
            return GenreError(shown(url), error.detail, REMEDIES.get(error.cause, "check the server, then try again"))
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
        if candidate.bandwidth and self.choice:
            numbers = {
                "bandwidth_bps": candidate.bandwidth,
                "bandwidth_saved_bps": max(self.choice.dearest - candidate.bandwidth, 0),
            }
            self._cost_told = True
        return Report("chosen", f"{candidate.why}: {shown(candidate.uri)}", numbers)

    def cost(self, size_bytes: int, duration_s: float) -> Report | None:
        """Report once what the rendition costs by its first segment, where no list says its bandwidth."""
        if self._cost_told or not self.choice or duration_s <= 0:
            return None
        self._cost_told = True
        bps = round(size_bytes * 8 / duration_s)
        saved = max(self.choice.dearest - bps, 0)
        return Report("measured", "cost of the chosen rendition", {"bandwidth_bps": bps, "bandwidth_saved_bps": saved})
