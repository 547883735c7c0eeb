"""The file that libav reads a station from: the audio bytes of one response, one Ogg link after the other.

Takes metadata out on the way, and ends rather than raises: what ended it is then in `failure`. Start at
`ByteStream.read`.
"""

from __future__ import annotations

import time
from collections import deque

from services.fetcher.continuous.icy import IcyFilter
from services.fetcher.continuous.ogg_links import OggLinks
from services.fetcher.http.errors import FetchError
from services.fetcher.http.response import OpenResponse
from services.fetcher.http.watch import StoppedError
from services.fetcher.media.id3 import Tags
from services.fetcher.media.turns import out_of_turn

MOST_BYTES_WITHOUT_AUDIO = 8 << 20
"""Bytes in a row without audio that decodes, but pictures in tags: then the station is asked again."""
READ_AT_ONCE = 4_096
"""A quarter of a second at 128 kbit/s: how much later than its audio a title may be taken for."""


class ByteStream:
    """The bytes of one response; libav calls `read`, in the stream's turn to decode.

    Args:
        response: with its body still to come.
        head: bytes of the body that were read already.
        interval: of ICY metadata; 0 where there is none.
        ogg: whether the audio is in Ogg.
        patience_s: longest wait in all, since audio last came of the bytes.

    Attributes:
        failure: what ended the response; None while it goes on, or where the server ended it.
        closed: whether the response has ended.
        received_at: Unix time at which the last bytes came.
        tags: what plays, as the latest metadata says; taken by `news`.
    """

    def __init__(self, response: OpenResponse, head: bytes, interval: int, ogg: bool, patience_s: float) -> None:
        self._response, self._head = response, head
        self._icy = IcyFilter(interval)
        self._links = OggLinks() if ogg else None
        self._ready: deque[bytes] = deque()
        self._patience_s = patience_s
        self._waited_s, self._without_audio = 0.0, 0
        self._news: list[Tags] = []
        self.failure: FetchError | StoppedError | None = None  # raised by whoever asked libav, outside of it
        self.closed = self.link_ended = False
        self.received_at = time.time()

    def read(self, size: int) -> bytes:
        """Return the next bytes, as many as are there; none where the response or the Ogg link has ended."""
        while True:
            if self._ready:
                piece = self._ready.popleft()
                if len(piece) > size:
                    self._ready.appendleft(piece[size:])
                return piece[:size]
            if self._links is not None and not self.link_ended:
                page = self._links.next_page()
                if page == b"":
                    self.link_ended = True
                elif page is not None:
                    self._ready.append(page)
                    continue
            if self.closed or self.link_ended:
                return b""
            self._receive()

    def heard(self) -> None:
        """Note that audio came of the bytes."""
        self._waited_s, self._without_audio = 0.0, 0

    def next_link(self) -> bool:
        """Go on with the next Ogg link; return whether there is one."""
        if self._links is None or not self.link_ended:
            return False
        self._links.next_link()
        self.link_ended = False
        return True

    def news(self) -> list[Tags]:
        """Return what metadata said since the last call."""
        news, self._news = self._news, []
        return news

    def _receive(self) -> None:
        """Read from the response and sort what comes."""
        data, self._head = self._head, b""
        began = time.monotonic()
        try:
            if not data:
                with out_of_turn():
                    data = self._response.read()
                self.received_at = time.time()
            self._waited_s += time.monotonic() - began
            self._without_audio += len(data)
            if self._waited_s > self._patience_s:
                raise FetchError("timeout", f"no audio came for {self._waited_s:.0f} s")
            if self._without_audio > MOST_BYTES_WITHOUT_AUDIO:
                raise FetchError("undecodable", f"{self._without_audio:,} bytes in a row without audio")
        except (FetchError, StoppedError) as error:
            self.failure, self.closed = error, True
            return
        if not data:
            self.closed = True
            return
        for part in self._icy.feed(data):
            if isinstance(part, Tags):
                self._news.append(part)
            elif self._links is not None:
                self._links.feed(part)
            else:
                self._ready.extend(part[at : at + READ_AT_ONCE] for at in range(0, len(part), READ_AT_ONCE))
