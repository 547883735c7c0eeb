"""The HTTP side of one stream: one keep-alive connection an origin, limits on everything, retries by kind of request.

Fetches bytes and says exactly why where it can't; knows nothing of playlists or media. Start at `Origin.get` (one try)
and `Origin.fetch` (with the retries of its kind).
"""

from __future__ import annotations

import os
import random
import re
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from services.errors import UsageError
from services.fetcher.failures import FetchError, failure_of
from services.fetcher.headers_file import read_headers
from services.fetcher.sockets import (
    ForbiddenAddressError,
    Patience,
    PatientAdapter,
    StoppedError,
    is_private,
    tls_context,
)
from services.settings import Hls, Retry, Stream

Kind = Literal["playlist", "key", "init", "segment"]
READ_BYTES = 65_536


@dataclass(frozen=True)
class Response:
    """A whole body, and the URL it came from after redirects."""

    body: bytes
    url: str
    content_type: str


def shown(url: str) -> str:
    """Return a URL fit for a log: without user, password, query and fragment, where tokens live."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if parts.scheme else url.partition("?")[0]


class Origin:
    """What one stream asks of its origins; used by one thread.

    Args:
        stream: whose URL says whether private addresses are fine, and whose headers go along.
        hls: timeouts, limits and retries.
        stop: when it is set, every wait ends with StoppedError.

    Raises:
        UsageError: the CA file or the headers file can't be used.
    """

    def __init__(self, stream: Stream, hls: Hls, stop: threading.Event) -> None:
        self.stream, self.hls, self.stop = stream, hls, stop
        self.patience = Patience(stop, allow_private=self._private_is_fine)
        self._own_host = urlsplit(stream.url).hostname or ""
        self._own_is_private: bool | None = None
        self._headers = read_headers(stream)
        if hls.ca_file or stream.url.lower().startswith("https:"):
            self._context()  # a file that can't be used is said at once
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["User-Agent"] = "genre-edge"
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, PatientAdapter(self.patience, self._context))

    def _context(self) -> ssl.SSLContext:
        """Return what TLS connections trust; loading the usual certificates takes 60 ms, so not before it is needed."""
        ca = str(self.hls.ca_file or os.environ.get("SSL_CERT_FILE") or requests.utils.DEFAULT_CA_BUNDLE_PATH)
        try:
            return tls_context(ca)
        except OSError as error:
            reason = f"is not a file of CA certificates ({error})"
            raise UsageError(ca, reason, "give hls.ca_file a PEM file") from error

    @property
    def connections(self) -> int:
        """Return how many TCP connections were opened so far."""
        return self.patience.connections

    def close(self) -> None:
        """Close every connection."""
        self.session.close()

    def fetch(
        self, url: str, kind: Kind, byterange: tuple[int, int] | None = None, attempts: int | None = None
    ) -> Response:
        """Get a resource, trying again as the settings say for its kind; attempts overrides how often.

        Raises:
            FetchError: the last failure, when the budget is spent or trying again can't help.
            StoppedError: the listener was stopped.
        """
        retry = self.retry_of(kind)
        most = attempts or retry.attempts
        for attempt in range(1, most + 1):
            try:
                return self.get(url, kind, byterange)
            except FetchError as error:
                if not error.transient or attempt == most:
                    raise
                self.wait(max(backoff_s(retry, attempt), min(error.retry_after_s or 0.0, retry.longest_wait_s)))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def retry_of(self, kind: Kind) -> Retry:
        """Return the retry policy of a kind of request."""
        policies = {"playlist": self.hls.playlist_retry, "key": self.hls.key_retry}
        return policies.get(kind, self.hls.segment_retry)

    def wait(self, seconds: float) -> None:
        """Wait, but not longer than until the stop.

        Raises:
            StoppedError: the listener was stopped.
        """
        if self.stop.wait(max(seconds, 0.0)):
            raise StoppedError

    def get(self, url: str, kind: Kind, byterange: tuple[int, int] | None = None) -> Response:
        """Get a resource once, following redirects one by one.

        Args:
            url: absolute.
            kind: sets the largest size.
            byterange: (offset, length) where only a part is wanted.

        Raises:
            FetchError: with its cause.
            StoppedError: the listener was stopped.
        """
        self.patience.deadline = time.monotonic() + self.hls.request_timeout_s
        seen = 0
        while True:
            self._admit(url)
            try:
                with self._send(url, kind, byterange) as response:
                    location = response.headers.get("Location")
                    if response.is_redirect and location:
                        seen += 1
                        if seen > self.hls.redirects:
                            raise FetchError("redirects", f"more than {self.hls.redirects} redirects in a row")
                        url = _redirected(url, location)
                        continue
                    return self._receive(response, url, kind, byterange)
            except requests.exceptions.RequestException as error:
                raise failure_of(error) from error
            except urllib3.exceptions.HTTPError as error:
                raise failure_of(error) from error
            except ForbiddenAddressError as error:
                raise FetchError(
                    "forbidden-address", f"{urlsplit(url).hostname} is the private address {error}"
                ) from error
            except OSError as error:
                raise FetchError("timeout" if isinstance(error, TimeoutError) else "reset", str(error)) from error
            except ValueError as error:  # what requests, urllib3 and http.client make of a hostile header
                raise FetchError("bad-response", f"{type(error).__name__}: {error}"[:200]) from error

    def _admit(self, url: str) -> None:
        """Refuse a URL that is not http(s) or names a private address where that is not allowed.

        Names are checked again when they are resolved, on the very address that is connected to (sockets.py).
        """
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            _ = parts.port
        except ValueError as error:
            raise FetchError("bad-url", f"{url[:200]!r} is not a URL") from error
        if parts.scheme not in ("http", "https") or not host:
            raise FetchError("bad-url", f"{shown(url)[:200]!r} is not http or https")

    def _private_is_fine(self, host: str) -> bool:
        """Say whether a private address may be connected to: allowed, the stream's own host, or that is private too."""
        if self.hls.allow_private or host == self._own_host:
            if host == self._own_host:
                self._own_is_private = True
            return True
        if self._own_is_private is None:
            try:
                self._own_is_private = is_private(self._own_host)
            except ValueError:
                self._own_is_private = False
        return self._own_is_private

    def _send(self, url: str, kind: Kind, byterange: tuple[int, int] | None) -> requests.Response:
        """Send the request and return the response with its body still to come."""
        own = urlsplit(url).hostname == self._own_host
        headers = {
            name: value
            for name, value in self._headers.items()
            if own or name.lower() not in ("authorization", "cookie", "proxy-authorization")
        }
        headers["Accept-Encoding"] = "gzip, deflate" if kind == "playlist" else "identity"
        if byterange:
            headers["Range"] = f"bytes={byterange[0]}-{byterange[0] + byterange[1] - 1}"
        # Session.get would merge cookies, parameters and proxies that are none: a fifth of a request's time.
        request = requests.PreparedRequest()
        request.prepare("GET", url, headers={**self.session.headers, **headers}, cookies=self.session.cookies)
        return self.session.send(
            request,
            stream=True,
            allow_redirects=False,
            timeout=(self.hls.connect_timeout_s, self.hls.read_timeout_s),
            proxies={},
        )

    def _receive(
        self, response: requests.Response, url: str, kind: Kind, byterange: tuple[int, int] | None
    ) -> Response:
        """Read the body within its limit, or say why it is not what was asked for."""
        status = response.status_code
        if status not in (200, 206):
            raise FetchError(
                f"http-{status}", f"the server answers {status} {response.reason or ''}", _retry_after(response)
            )
        limit = {
            "playlist": self.hls.playlist_limit_bytes,
            "key": self.hls.key_limit_bytes,
            "init": self.hls.init_limit_bytes,
            "segment": self.hls.segment_limit_bytes,
        }[kind]
        skip = 0
        if byterange:
            if status == 200:  # the server does not do ranges: the part is cut out here
                skip = byterange[0]
            elif not re.match(
                rf"bytes\s+{byterange[0]}-", response.headers.get("Content-Range", f"bytes {byterange[0]}-")
            ):
                raise FetchError(
                    "bad-range", f"asked from byte {byterange[0]}, got {response.headers['Content-Range'][:80]!r}"
                )
        body = bytearray()
        while True:
            piece = response.raw.read1(READ_BYTES, decode_content=True)
            if not piece:
                break
            body += piece
            if skip:
                cut = min(skip, len(body))
                del body[:cut]
                skip -= cut
            if byterange and len(body) >= byterange[1]:
                break
            if len(body) > limit:
                raise FetchError("too-large", f"more than {limit:,} bytes")
        if byterange:
            if len(body) < byterange[1]:
                raise FetchError("truncated", f"{len(body):,} of {byterange[1]:,} bytes came")
            del body[byterange[1] :]
        return Response(bytes(body), url, response.headers.get("Content-Type", ""))


def _redirected(url: str, location: str) -> str:
    """Resolve a Location header against the URL that gave it."""
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise FetchError("bad-url", f"redirected to {location[:200]!r}, which is no URL") from error


def backoff_s(retry: Retry, attempt: int, random_01: Callable[[], float] = random.random) -> float:
    """Return how long to wait after this many failures: doubling, capped, half of it jitter."""
    ceiling = min(retry.longest_wait_s, retry.first_wait_s * 2.0 ** min(attempt - 1, 30))
    return ceiling * (0.5 + 0.5 * random_01())


def _retry_after(response: requests.Response) -> float | None:
    """Return the seconds of a Retry-After header, where it says seconds."""
    text = response.headers.get("Retry-After", "")
    return float(text) if re.fullmatch(r"\d{1,6}", text) else None
