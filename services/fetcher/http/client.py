"""The HTTP side of one stream: one keep-alive connection an origin, limits on everything, retries by kind of request.

Fetches bytes and says exactly why where it can't; knows nothing of playlists or media. What comes back is in
response.py. Start at `Origin.get` (one try), `Origin.fetch` (with the retries of its kind) and `Origin.open` (a
response that may never end).
"""

from __future__ import annotations

import os
import random
import re
import ssl
import threading
import time
from collections.abc import Callable
from typing import Literal, TypeVar

import requests

from services.errors import UsageError
from services.fetcher.http.addresses import ForbiddenAddressError, is_local_host
from services.fetcher.http.body import ends_in_a_line, read_body, unpacked
from services.fetcher.http.connections import OriginAdapter, tls_context
from services.fetcher.http.errors import FetchError, named_failures
from services.fetcher.http.proxies import proxy_of
from services.fetcher.http.response import OpenResponse, Response, etag_of
from services.fetcher.http.urls import admit, place_of, redirected
from services.fetcher.http.watch import RequestWatch, StoppedError
from services.settings.headers_file import headers_for, read_headers
from services.settings.schema import Hls, Retry, Stream

Kind = Literal["playlist", "key", "init", "segment"]
T = TypeVar("T")


class Origin:
    """What one stream asks of its origins; used by one thread.

    Private addresses are connected to where the stream's own URL names one (is_local_host) or the settings say so; what
    a name server answers changes nothing about that.

    Args:
        stream: whose URL says whether private addresses are fine and where the extra headers and the client's own
            certificate go.
        hls: timeouts, limits and retries.
        stop: when it is set, every wait ends with StoppedError.

    Raises:
        UsageError: the CA file, the client's certificate or the headers file can't be used.
    """

    def __init__(self, stream: Stream, hls: Hls, stop: threading.Event) -> None:
        self.stream, self.hls, self.stop = stream, hls, stop
        self.watch = RequestWatch(stop)
        self._own_place = place_of(stream.url)
        self._private = hls.allow_private or is_local_host(self._own_place[1])
        self._headers = read_headers(stream)
        self._proxies: dict[tuple[str, str, int], str | None] = {}
        if hls.ca_file or stream.client_cert_file or self._own_place[0] == "https":
            self._context(stream.url)  # a file that can't be used is said at once
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["User-Agent"] = "genre-edge"
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, OriginAdapter(self.watch, self._private, self._context))

    def _context(self, url: str) -> ssl.SSLContext:
        """Return what a TLS connection trusts and shows; loading the usual certificates takes 60 ms, so not before."""
        ca = str(self.hls.ca_file or os.environ.get("SSL_CERT_FILE") or requests.utils.DEFAULT_CA_BUNDLE_PATH)
        try:
            context = tls_context(ca)
        except OSError as error:
            reason = f"is not a file of CA certificates ({error})"
            raise UsageError(ca, reason, "give hls.ca_file a PEM file") from error
        certificate, key = self.stream.client_cert_file, self.stream.client_key_file
        if certificate is None or place_of(url) != self._own_place:
            return context
        try:
            return tls_context(ca, str(certificate), str(key) if key else None)
        except (OSError, ValueError) as error:
            reason = f"is not a client certificate with its key ({error})"
            remedy = f"correct client_cert_file and client_key_file of stream {self.stream.name}: PEM without password"
            raise UsageError(str(certificate), reason, remedy) from error

    @property
    def connections(self) -> int:
        """Return how many TCP connections were opened so far."""
        return self.watch.connections

    def close(self) -> None:
        """Close every connection."""
        self.session.close()

    # --- asking -----------------------------------------------------------------------------------------------------

    def fetch(
        self,
        url: str,
        kind: Kind,
        byterange: tuple[int, int] | None = None,
        attempts: int | None = None,
        held: Response | None = None,
    ) -> Response:
        """Get a resource, trying again as the settings say for its kind; attempts overrides how often.

        `held` is as in `get`.

        Raises:
            FetchError: the last failure, when the budget is spent or trying again can't help.
            StoppedError: the stream was stopped.
        """
        return self.trying(kind, lambda: self.get(url, kind, byterange, held), attempts)

    def trying(self, kind: Kind, request: Callable[[], T], attempts: int | None = None) -> T:
        """Call a request until it succeeds, as often as the settings say for its kind; raises what `fetch` does."""
        retry = self.retry_of(kind)
        most = attempts or retry.attempts
        came = b""
        for attempt in range(1, most + 1):
            try:
                return request()
            except FetchError as error:
                # The same bytes again: it is the announced length that is wrong.
                if not error.transient or attempt == most or (error.came and error.came == came):
                    raise
                came = error.came
                self.wait(max(backoff_s(retry, attempt), min(error.retry_after_s or 0.0, retry.longest_wait_s)))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def retry_of(self, kind: Kind) -> Retry:
        """Return the retry policy of a kind of request."""
        policies = {"playlist": self.hls.playlist_retry, "key": self.hls.key_retry}
        return policies.get(kind, self.hls.segment_retry)

    def wait(self, seconds: float) -> None:
        """Wait, but not longer than until the stop.

        Raises:
            StoppedError: the stream was stopped.
        """
        if self.stop.wait(max(seconds, 0.0)):
            raise StoppedError

    def get(
        self, url: str, kind: Kind, byterange: tuple[int, int] | None = None, held: Response | None = None
    ) -> Response:
        """Get a resource once, following redirects one by one.

        Args:
            url: absolute.
            kind: sets the largest size.
            byterange: (offset, length) where only a part is wanted.
            held: an earlier response, which is returned where the server says by its ETag that nothing changed.

        Raises:
            FetchError: with its cause.
            StoppedError: the stream was stopped.
        """
        limit = {
            "playlist": self.hls.playlist_limit_bytes,
            "key": self.hls.key_limit_bytes,
            "init": self.hls.init_limit_bytes,
            "segment": self.hls.segment_limit_bytes,
        }[kind]
        headers = {"Accept-Encoding": "gzip, deflate" if kind == "playlist" else "identity"}
        if byterange:
            headers["Range"] = f"bytes={byterange[0]}-{byterange[0] + byterange[1] - 1}"
        # Not across redirects: an ETag speaks of the resource that gave it.
        if held and held.etag and held.asked == held.url == url:
            headers["If-None-Match"] = held.etag
        self.watch.begin(time.monotonic() + self.hls.request_timeout_s)
        body = bytearray()
        try:
            with self._answer(url, headers) as response:
                if response.status_code == 304 and held:
                    _ = response.content  # none, but read: else the connection would be closed
                    return held
                try:
                    with named_failures(response.url, self.watch):
                        read_body(response, body, limit, byterange)
                        self.watch.check()  # a body without a length ends where the connection was shut
                except FetchError as error:
                    if kind == "segment" and error.cause in ("truncated", "reset"):
                        error.came = bytes(body)
                    if not (kind == "playlist" and ends_in_a_line(body, error)):
                        raise
                whole = unpacked(body, limit) if kind == "playlist" else bytes(body)
                return Response(whole, response.url, response.headers.get("Content-Type", ""), url, etag_of(response))
        finally:
            self.watch.end()

    def open(self, url: str, headers: dict[str, str]) -> OpenResponse:
        """Get a resource that may never end: its body is read piece by piece.

        Until `endless` is called, the whole response has as long as any other.

        Raises:
            FetchError: with its cause.
            StoppedError: the stream was stopped.
        """
        self.watch.begin(time.monotonic() + self.hls.request_timeout_s)
        try:
            answer = self._answer(url, {"Accept-Encoding": "gzip, deflate", **headers})
        except BaseException:
            self.watch.end()
            raise
        return OpenResponse(self.watch, answer)

    def _answer(self, url: str, headers: dict[str, str]) -> requests.Response:
        """Return the answer that is no redirect, its body still to come.

        Raises:
            FetchError: there is none, or its status is not one of a body, nor 304 where an ETag was sent.
        """
        seen = 0
        again = True
        while True:
            admit(url)
            opened = self.watch.connections
            try:
                with named_failures(url, self.watch):
                    response = self._send(url, headers)
            except FetchError as error:
                if error.cause == "reset" and again and self.watch.connections == opened:
                    again = False  # a kept connection that the server closed just now (RFC 9112, 9.3.1)
                    continue
                raise
            location = response.headers.get("Location")
            if not (response.is_redirect and location):
                break
            response.close()
            seen += 1
            if seen > self.hls.redirects:
                raise FetchError("redirects", f"more than {self.hls.redirects} redirects in a row")
            url = redirected(url, location)
        response.url = url
        status = response.status_code
        if not _has_body(response) and not (status == 304 and "If-None-Match" in headers):
            retry_after = response.headers.get("Retry-After", "")
            response.close()
            raise FetchError(
                f"http-{status}",
                f"the server answers {status} {response.reason or ''}",
                float(retry_after) if re.fullmatch(r"\d{1,6}", retry_after) else None,
            )
        return response

    def _send(self, url: str, headers: dict[str, str]) -> requests.Response:
        """Send the request and return the response with its body still to come."""
        place = place_of(url)
        if place not in self._proxies:
            self._proxies[place] = proxy_of(url, self.hls.proxy)
        proxy = self._proxies[place]
        if proxy and not self._private and is_local_host(place[1]):
            raise ForbiddenAddressError(place[1])  # the proxy would connect to whatever it is
        own = headers_for(self._headers, place == self._own_place)
        # Session.get would merge cookies, parameters and proxies that are none: a fifth of a request's time.
        request = requests.PreparedRequest()
        request.prepare("GET", url, headers={**self.session.headers, **own, **headers}, cookies=self.session.cookies)
        return self.session.send(
            request,
            stream=True,
            allow_redirects=False,
            timeout=(self.hls.connect_timeout_s, self.hls.read_timeout_s),
            proxies={place[0]: proxy} if proxy else {},
        )


def _has_body(response: requests.Response) -> bool:
    """Say whether what was asked for comes with this answer: some servers send it with an odd 2xx, or as a redirect
    that leads nowhere."""
    status = response.status_code
    if 300 <= status < 400:
        return status != 304 and response.headers.get("Content-Length", "") != "0"
    return 200 <= status < 300 and status not in (204, 205)


def backoff_s(retry: Retry, attempt: int, random_01: Callable[[], float] = random.random) -> float:
    """Return how long to wait after this many failures: doubling, capped, half of it jitter."""
    ceiling = min(retry.longest_wait_s, retry.first_wait_s * 2.0 ** min(attempt - 1, 30))
    return ceiling * (0.5 + 0.5 * random_01())
