"""From a stream's URL to what it gives: an HLS playlist, or audio, perhaps by way of a list of mirrors.

Looks at the first bytes of the answer (detection.py) and keeps the connection, so that nothing is asked for twice.
Start at `Station.open`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from services.errors import GenreError
from services.fetcher.continuous.detection import MOST_HEAD, Found, what_is
from services.fetcher.continuous.icy import HEADER, IcyFilter, interval_of
from services.fetcher.continuous.station_list import MOST_BYTES, mirrors_of
from services.fetcher.http.body import GZIP, ends_in_a_line, unpacked
from services.fetcher.http.client import Origin
from services.fetcher.http.errors import FetchError
from services.fetcher.http.remedies import unavailable
from services.fetcher.http.response import OpenResponse, Response
from services.fetcher.http.urls import shown

MOST_LISTS = 3
"""Lists that name lists."""
REMEDY = (
    "give the URL of an HLS playlist with audio, of a station's MP3, AAC, Ogg or FLAC, "
    "or of a .m3u, .pls, .xspf or .asx that names one"
)


@dataclass(frozen=True)
class Audio:
    """Audio that has begun to come; whoever gets it closes the response."""

    url: str
    found: Found
    response: OpenResponse
    head: bytes

    @property
    def is_file(self) -> bool:
        """Whether it has a length and an end, and is no station."""
        headers = self.response.headers
        return "Content-Length" in headers and not any(name.lower().startswith("icy-") for name in headers)


class Station:
    """What a URL leads to.

    Args:
        origin: to ask with.
        url: of the stream.
    """

    def __init__(self, origin: Origin, url: str) -> None:
        self._origin, self._url = origin, url
        self._mirrors: list[str] = []

    def open(self) -> Response | Audio:
        """Ask for the URL, and for what a list names, with the retries of a playlist.

        Raises:
            GenreError: it is neither, or can't be had.
            StoppedError: the stream was stopped.
        """
        return self._open(self._url, 0)

    def reopen(self) -> Audio:
        """Ask once for the audio again: where it came from last, then its mirrors, then what the list says by now.

        Raises:
            FetchError: none of them gives audio.
            StoppedError: the stream was stopped.
        """
        failure: FetchError | None = None
        for url in list(self._mirrors):
            try:
                return self._heard(self._audio(url))
            except FetchError as error:
                failure = failure or error
        if self._url not in self._mirrors:
            try:
                found = self._open(self._url, 0, attempts=1)
            except GenreError as error:
                raise failure or FetchError("not-media", error.reason) from error
            if isinstance(found, Audio):
                return found
        raise failure or FetchError("not-media", "there is no audio any more")

    def _audio(self, url: str) -> Audio:
        found = self._ask(url)
        if isinstance(found, Audio):
            return found
        words = found.words if isinstance(found, _Other) else "an HLS playlist"
        raise FetchError("not-media", f"{shown(url)} gives {words} by now")

    def _heard(self, audio: Audio) -> Audio:
        """Remember which mirror gives audio, to begin with it the next time."""
        self._mirrors = [audio.url, *(mirror for mirror in self._mirrors if mirror != audio.url)]
        return audio

    def _open(self, url: str, lists: int, attempts: int | None = None) -> Response | Audio:
        try:
            found = self._origin.trying("playlist", lambda: self._ask(url), attempts)
        except FetchError as error:
            raise unavailable(url, error) from error
        if isinstance(found, Audio):
            return self._heard(found)
        if isinstance(found, Response):
            return found
        if found.mirrors is None:
            raise GenreError(shown(url), f"is {found.words}", REMEDY)
        if not found.mirrors or lists == MOST_LISTS:
            what = "names no http or https address" if lists < MOST_LISTS else "is the fourth list in a row"
            named = f" (but {found.other[0][:80]!r})" if found.other and not found.mirrors else ""
            raise GenreError(shown(url), f"is {found.words} that {what}{named}".replace("that is", "and"), REMEDY)
        failure: GenreError | None = None
        for mirror in found.mirrors:
            try:
                opened = self._open(mirror, lists + 1, attempts=1 if len(found.mirrors) > 1 else attempts)
            except GenreError as error:
                failure = failure or error
                continue
            if isinstance(opened, Audio):
                self._mirrors += [each for each in found.mirrors if each not in self._mirrors]
            return opened
        assert failure is not None
        raise failure

    def _ask(self, url: str) -> Response | Audio | _Other:
        """Ask for a URL once and read as much of the answer as its kind needs."""
        response = self._origin.open(url, {"Icy-MetaData": "1"})
        try:
            head, found = self._look(response)
            if head.startswith(GZIP):
                head, found = self._unpacked(response, head)
            if found.kind == "audio":
                response.endless()
                return Audio(url, found, response, head)
            if found.kind == "hls":
                body = self._rest(response, head, self._origin.hls.playlist_limit_bytes)
                content_type = response.headers.get("Content-Type", "")
                answer: Response | _Other = Response(body, response.url, content_type, url)
            elif found.kind == "list":
                mirrors, other = mirrors_of(self._rest(response, head, MOST_BYTES), found.what, response.url)
                answer = _Other(found.words, mirrors, other)
            else:
                answer = _Other(found.words, None, [])
        except BaseException:
            response.close()
            raise
        response.close()
        return answer

    def _look(self, response: OpenResponse) -> tuple[bytes, Found]:
        """Read until it is known what this is, but not longer than a silence may last."""
        head, audio, complete = b"", b"", False
        icy = IcyFilter(interval_of(response.headers.get(HEADER)))
        until = time.monotonic() + self._origin.hls.read_timeout_s
        while True:
            if found := what_is(audio, complete):
                return head, found
            piece = _read(response, head)
            head += piece
            audio += b"".join(part for part in icy.feed(piece) if isinstance(part, bytes))
            complete = not piece or time.monotonic() > until

    def _unpacked(self, response: OpenResponse, head: bytes) -> tuple[bytes, Found]:
        """Look into a gzip file: a list may be in it."""
        limit = self._origin.hls.playlist_limit_bytes
        try:
            text = unpacked(self._rest(response, head, limit), limit)
        except FetchError as error:
            if error.cause not in ("bad-encoding", "truncated", "too-large"):
                raise
            return head, Found("other", "", f"a gzip file that can't be read ({error.detail})")
        found = what_is(text[:MOST_HEAD], complete=True)
        if found is not None and found.kind in ("hls", "list"):
            return text, found
        return head, Found("other", "", f"a gzip file with {found.words if found else 'nothing'} inside")

    @staticmethod
    def _rest(response: OpenResponse, head: bytes, limit: int) -> bytes:
        body = bytearray(head)
        while piece := _read(response, body):
            body += piece
            if len(body) > limit:
                raise FetchError("too-large", f"more than {limit:,} bytes")
        return bytes(body)


def _read(response: OpenResponse, before: bytes | bytearray) -> bytes:
    """Read on; a list that came to the end of a line ends there, whatever length was announced."""
    try:
        return response.read()
    except FetchError as error:
        if ends_in_a_line(before, error):
            return b""
        raise


@dataclass(frozen=True)
class _Other:
    """A list of mirrors, or, without any, what can't be heard."""

    words: str
    mirrors: list[str] | None
    other: list[str]
