"""Loads a stream's playlists: the first one, the chosen rendition's, and both again for fresh tokens.

Which rendition is rendition.py's decision, what a playlist says playlist.py's, when to load it the reader's.
Start at `PlaylistLoader.open`.
"""

from __future__ import annotations

from collections.abc import Callable

from services.errors import GenreError
from services.fetcher.events import Report, StreamEvent
from services.fetcher.hls.continuation import continued
from services.fetcher.hls.encryption import refusal
from services.fetcher.hls.playlist import MediaPlaylist, MultivariantPlaylist, PlaylistError, parse
from services.fetcher.hls.playlist_lines import text_of, variables_of
from services.fetcher.hls.reload import finished
from services.fetcher.hls.rendition import Candidate, Choice, choose
from services.fetcher.hls.spares import Spares
from services.fetcher.hls.stopwatch import Stopwatch
from services.fetcher.http.client import Origin
from services.fetcher.http.errors import FetchError
from services.fetcher.http.remedies import unavailable
from services.fetcher.http.response import Response
from services.fetcher.http.urls import shown
from services.fetcher.timeline.resume_point import name_of

MOST_NESTED = 3
"""Multivariant playlists that lead to one another (aggregators wrap what stations give them)."""


class PlaylistLoader:
    """The playlists of one stream, and which rendition of it is heard.

    Args:
        on_switch: called where another rendition than before had to be taken.
        found: the first playlist, where it was loaded already.

    Attributes:
        silence: since the origin last gave something that could be used.
    """

    def __init__(self, origin: Origin, on_switch: Callable[[], None], found: Response | None = None) -> None:
        self.origin, self._on_switch = origin, on_switch
        self.choice: Choice | None = None
        self._reports: list[Report] = []
        self.silence = Stopwatch()
        self._url, self._found = found.asked if found else origin.stream.url, found
        self._candidate = 0
        self._variables: dict[str, str] = {}
        self._cost_told = False
        self._latest: MediaPlaylist | None = None
        # The last list that may change and what it was read as: one that did not change is not parsed again.
        self._held: tuple[Response, MediaPlaylist] | None = None
        self._spares = Spares()

    def reports(self) -> list[Report]:
        """Return what a person may want to know since the last call."""
        reports, self._reports = self._reports, []
        return reports

    def check_silence(self, last: str = "") -> None:
        """Fail where the origin gave nothing for too long; `last` is what it said last.

        Raises:
            GenreError: it did.
        """
        self.silence.check(self.origin, last)

    def open(self) -> tuple[MediaPlaylist, list[StreamEvent]]:
        """Load the first playlist, choose a rendition, load its playlist; any failure here is final."""
        reports: list[StreamEvent] = []
        try:
            playlist = self._load(self._url)
        except (FetchError, PlaylistError) as error:
            raise self._fatal(self._url, error) from error
        if isinstance(playlist, MediaPlaylist):
            self._refuse(playlist)
            self._latest = playlist
            return playlist, reports
        self.choice = self._choose(playlist)
        if not self.choice.candidates:
            raise GenreError(shown(self._url), "no variant carries audio that can be decoded", "use another stream")
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
            self._candidate = self._spares.home = index
            reports.append(self._chosen(candidate))
            return media, reports
        assert failure is not None
        raise failure

    def _choose(self, playlist: MultivariantPlaylist) -> Choice:
        return choose(playlist, self.origin.stream.prefer, self.origin.hls.min_audio_bps)

    def _load(self, url: str, attempts: int | None = None) -> MediaPlaylist | MultivariantPlaylist:
        """Load and parse a playlist."""
        held, before = self._held or (None, None)
        response, self._found = self._found or self.origin.fetch(url, "playlist", attempts=attempts, held=held), None
        if held and before and (response.url, response.body) == (held.url, held.body):
            self.silence.restart()
            return before
        text = text_of(response.body)
        playlist = parse(text, response.url, self._variables)
        self._held = None
        if isinstance(playlist, MultivariantPlaylist):
            self._variables = variables_of(text, response.url)
        elif not finished(playlist):
            self._held = (response, playlist)
        self.silence.restart()
        return playlist

    def _load_media(self, url: str, attempts: int | None = None, above: int = 1) -> MediaPlaylist:
        """Load a media playlist; where another multivariant one stands there, the one that would be chosen of it."""
        playlist = self._load(url, attempts)
        if isinstance(playlist, MultivariantPlaylist):
            choice = self._choose(playlist)
            if above == MOST_NESTED or not choice.candidates:
                raise PlaylistError("is a multivariant playlist, where a media playlist should be")
            return self._load_media(choice.candidates[0].uri, attempts, above + 1)
        self._latest = continued(playlist, self._latest)
        return self._latest

    @property
    def media_url(self) -> str:
        """Return the URL of the media playlist, as it was before any redirect: a rotating host is asked again."""
        return self.choice.candidates[self._candidate].uri if self.choice else self._url

    def reload(self) -> MediaPlaylist:
        """Load the media playlist again, once; where that fails, or should be avoided, one that may stand in for it.

        Raises:
            FetchError, PlaylistError: there is none.
        """
        self._try_home()
        try:
            if self._spares.avoided and self._take_another():
                assert self._latest is not None
                return self._latest
            playlist = self._load_media(self.media_url, attempts=1)
            self._spares.failures = 0
            return playlist
        except (FetchError, PlaylistError) as error:
            self._spares.failures += 1
            if (isinstance(error, FetchError) and error.unauthorized) or not self._take_another():
                raise
            assert self._latest is not None
            return self._latest

    def avoid(self, why: str) -> None:
        """Hear another rendition from the next load on, where there is one: this one's media can't be had or heard."""
        self._spares.avoided = why

    def reject(self, why: str) -> bool:
        """Never hear this rendition again: its media can't be decoded. Say whether there is another one."""
        if self.choice is None:
            return False
        self._spares.rejected.add(self._candidate)
        left = [n for n in range(len(self.choice.candidates)) if n not in self._spares.rejected]
        if not left:
            return False
        self._reports.append(Report("switched", f"{shown(self.media_url)}: {why}"))
        self._candidate, self._latest = left[0], None
        self._spares.home = left[0]
        return True

    def _take_another(self) -> bool:
        """Load a redundant variant's playlist; after some failures, any other's."""
        if self.choice is None:
            return False
        candidates, here = self.choice.candidates, self.choice.candidates[self._candidate]
        for number in self._spares.order(candidates, self._candidate):
            other = candidates[number]
            try:
                self._load_media(other.uri, attempts=1)
            except (FetchError, PlaylistError):
                continue
            why = self._spares.avoided or "its playlist can't be had"
            self._reports.append(Report("switched", f"{shown(here.uri)}: {why}; {other.why}: {shown(other.uri)}"))
            if not other.stands_in_for(here):
                self._on_switch()
            self._candidate = number
            self._spares.left()
            return True
        self._spares.avoided = ""
        return False

    def _try_home(self) -> None:
        """Go back to the rendition that was chosen, once it is there again and as fresh as the one that stands in."""
        if self.choice is None or not self._spares.due(self._candidate):
            return
        home = self.choice.candidates[self._spares.home]
        here = self._latest
        try:
            playlist = self._load(home.uri, attempts=1)
        except (FetchError, PlaylistError):
            return
        if isinstance(playlist, MediaPlaylist) and playlist.segments and not _older(playlist, here):
            if not home.stands_in_for(self.choice.candidates[self._candidate]):
                self._on_switch()
            self._candidate = self._spares.home
            self._reports.append(Report("switched", f"back to {shown(home.uri)}"))
            self._spares.came_back()

    def reauthorize(self) -> MediaPlaylist:
        """Load the multivariant playlist again for fresh tokens, and the media playlist it now leads to."""
        if self.choice is None:
            return self.reload()
        playlist = self._load(self._url, attempts=1)
        if isinstance(playlist, MediaPlaylist):
            return continued(playlist, self._latest)
        before = self.choice.candidates[self._candidate]
        choice = self._choose(playlist)
        if not choice.candidates:
            raise PlaylistError("no longer has a variant with audio")
        same = [
            i for i, c in enumerate(choice.candidates) if (name_of(c.uri), c.why) == (name_of(before.uri), before.why)
        ]
        if [name_of(c.uri) for c in choice.candidates] != [name_of(c.uri) for c in self.choice.candidates]:
            self._spares = Spares(home=same[0] if same else 0)
        self.choice, self._candidate = choice, same[0] if same else 0
        if not same:
            self._on_switch()
        return self.reload()

    def _fatal(self, url: str, error: FetchError | PlaylistError) -> GenreError:
        """Tell why a stream can't be opened."""
        if isinstance(error, FetchError):
            return unavailable(url, error)
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


def _older(playlist: MediaPlaylist, than: MediaPlaylist | None) -> bool:
    """Say whether a list of the same segments is behind another by more than caches explain."""
    if than is None or not than.segments or not playlist.segments:
        return False
    return playlist.segments[-1].media_sequence < than.segments[-1].media_sequence - 3
