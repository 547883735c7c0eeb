"""What an origin answered: a whole body, or one that is still coming.

Start at `Response` and `OpenResponse`; client.py makes both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import requests

from services.fetcher.http.body import READ_BYTES
from services.fetcher.http.errors import named_failures
from services.fetcher.http.watch import RequestWatch

FOREVER = float("inf")


@dataclass(frozen=True)
class Response:
    """A whole body.

    Attributes:
        url: that it came from, after redirects.
        asked: the URL that was asked for.
        etag: as it is sent back to learn whether the body changed; empty without one.
    """

    body: bytes
    url: str
    content_type: str
    asked: str
    etag: str = ""


class OpenResponse:
    """A response whose body is still coming; a context manager.

    Args:
        watch: ends its reads; it is told when the response is over.
        response: with its body still to come.

    Attributes:
        url: after redirects.
        headers: of the response, by name in any case.
    """

    def __init__(self, watch: RequestWatch, response: requests.Response) -> None:
        self._watch, self._response = watch, response
        self.url, self.headers = str(response.url), response.headers

    def read(self) -> bytes:
        """Return the next bytes as they come, at most 64 KiB; none at the end of the body.

        Raises:
            FetchError: the connection broke, or was silent for hls.read_timeout_s.
            StoppedError: the stream was stopped.
        """
        with named_failures(self.url, self._watch):
            piece: bytes = self._response.raw.read1(READ_BYTES, decode_content=True)
            self._watch.check()
            return piece

    def endless(self) -> None:
        """Set no whole time for this response any more."""
        self._watch.begin(FOREVER)

    def close(self) -> None:
        """Close the connection, unless the body came to its end."""
        self._response.close()
        self._watch.end()

    def __enter__(self) -> OpenResponse:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()


def etag_of(response: requests.Response) -> str:
    """Return a response's ETag, empty where it has none that can be sent back (RFC 9110, 8.8.3)."""
    etag = response.headers.get("ETag", "")
    return etag if re.fullmatch(r'(W/)?"[\x21\x23-\x7e]{0,256}"', etag) else ""
