"""Ogg's chain of links: where one logical stream ends and the next begins, as at each track of an Icecast stream.

RFC 3533: a page with the flag "beginning of stream" after pages without it begins another link, which needs decoders of
its own. Only headers of pages are read; what is in them is libav's. Pure; start at `OggLinks.feed`.
"""

from __future__ import annotations

HEADER_BYTES = 27
MOST_PAGE_BYTES = HEADER_BYTES + 255 + 255 * 255


class OggLinks:
    """Cuts bytes of Ogg into whole pages, and tells where a link ends."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._began = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the response."""
        self._waiting += data

    def next_page(self) -> bytes | None:
        """Return a page (or bytes between pages that are none); nothing where a link ends; None where it is not whole.

        After a link has ended, `next_link` has to be called before the next page comes.
        """
        waiting = self._waiting
        start = waiting.find(b"OggS")
        if start < 0:
            return self._take(len(waiting) - 3) if len(waiting) > MOST_PAGE_BYTES else None
        if start:
            return self._take(start)
        if len(waiting) < HEADER_BYTES or len(waiting) < HEADER_BYTES + waiting[26]:
            return None
        body = HEADER_BYTES + waiting[26]
        length = body + sum(waiting[HEADER_BYTES:body])
        if waiting[5] & 2:
            if self._began:
                return b""
        elif len(waiting) >= length:
            self._began = True
        return self._take(length) if len(waiting) >= length else None

    def next_link(self) -> None:
        """Go on with the link that begins."""
        self._began = False

    def _take(self, length: int) -> bytes:
        taken = bytes(self._waiting[:length])
        del self._waiting[:length]
        return taken
