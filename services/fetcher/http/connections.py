"""urllib3's connections with three things of our own: which addresses, a watch over every wait, and odd dialects.

urllib3 makes no choice of addresses that could be refused before a byte is sent, http.client stops at `ICY 200 OK`
(Shoutcast 1) and at 103 Early Hints, and both believe a Content-Encoding that is not true. All else (TLS, proxies,
keep-alive, bodies) is theirs. Start at `OriginAdapter`.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Callable
from functools import lru_cache
from http.client import BadStatusLine, HTTPResponse, parse_headers
from pathlib import Path
from typing import Any

from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from services.fetcher.http.addresses import addresses_of, connect
from services.fetcher.http.body import GZIP
from services.fetcher.http.watch import RequestWatch

MOST_INTERIM = 10
"""Interim (1xx) answers to one request."""
MOST_STATUS_BYTES = 8_192


@lru_cache(maxsize=8)
def tls_context(ca: str, certificate: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """Return the context that trusts the certificates in this file or folder, TLS 1.2 or newer.

    Shared by all streams: the 150 usual certificates cost about 1 MiB each time they are loaded.

    Args:
        ca: PEM file or folder.
        certificate: PEM file of the client's own certificate.
        key: PEM file of its key, where the certificate's file does not hold it.

    Raises:
        OSError: it can't be read or holds no certificate (ssl.SSLError is an OSError).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(**({"capath": ca} if Path(ca).is_dir() else {"cafile": ca}))
    if certificate:
        context.load_cert_chain(certificate, key, password="")  # a key under a password: an error, not a question
    return context


class _Response(HTTPResponse):
    """An answer that may begin as Shoutcast 1 does, with interim answers other than 100, or lie about gzip."""

    def begin(self) -> None:
        """Read the status and the headers; a body that does not begin as gzip does is none, whatever they say."""
        super().begin()
        coding = self.headers.get("Content-Encoding", "").strip().lower()
        if coding in ("gzip", "x-gzip") and not GZIP.startswith(self.peek(len(GZIP))[: len(GZIP)]):
            del self.headers["Content-Encoding"]

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MOST_INTERIM):
            version, status, reason = self._read_one_status()
            if not 101 < status < 200:
                return version, status, reason
            parse_headers(self.fp)
        raise BadStatusLine(f"more than {MOST_INTERIM} interim answers")

    def _read_one_status(self) -> tuple[str, int, str]:
        if self.fp.peek(1)[:1] != b"I":
            return super()._read_status()  # type: ignore[misc,no-any-return]
        line = self.fp.readline(MOST_STATUS_BYTES)
        match = re.fullmatch(rb"ICY ([1-5]\d\d)[ \t]*(.*?)\r?\n", line)
        if match is None:
            raise BadStatusLine(line[:80].decode("latin-1"))
        return "HTTP/1.0", int(match[1]), match[2].decode("latin-1")


class _Connection(HTTPConnection):
    """An HTTP connection under a watch."""

    response_class = _Response

    def __init__(self, *args: Any, watch: RequestWatch, private: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watch, self._private = watch, private

    def _new_conn(self) -> socket.socket:
        timeout_s = self.timeout if isinstance(self.timeout, (int, float)) else 5.0
        try:
            # A proxy was named by who runs this box, and resolves the origin's name itself.
            addresses = addresses_of(self._dns_host.strip("[]"), self.port, self._private or self.proxy is not None)
            sock = connect(addresses, timeout_s, self._watch.check)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, str(error)) from error
        except OSError as error:
            raise NewConnectionError(self, f"no connection: {error}") from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch.connections += 1
        return sock

    def connect(self) -> None:
        """Connect, through the proxy and with the TLS handshake where there are such."""
        super().connect()
        if self.sock is not None:
            self._watch.opened(self.sock)


class _TlsConnection(_Connection, HTTPSConnection):
    """The same with TLS on top."""

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        # The handshake takes the socket object away and gives none until it is done; until then a duplicate is watched.
        self._shaking = sock.dup()
        self._watch.opened(self._shaking)
        return sock

    def connect(self) -> None:
        """Connect and shake hands."""
        try:
            super().connect()
        finally:
            with contextlib.suppress(AttributeError):
                self._shaking.close()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class OriginAdapter(HTTPAdapter):
    """Lets a requests.Session keep one connection an origin, under a watch.

    Args:
        watch: over all its connections.
        private: whether private addresses may be connected to.
        context: called with the URL of each TLS request; decides alone which certificates are good and whether the
            stream's own is shown. requests' own idea (certifi, REQUESTS_CA_BUNDLE) is left out, because that
            environment variable silently overrides what the configuration says.
    """

    def __init__(self, watch: RequestWatch, private: bool, context: Callable[[str], ssl.SSLContext]) -> None:
        self._context = context
        self._classes: dict[str, Any] = {
            "http": lambda *a, **k: _Pool(*a, **k, watch=watch, private=private),
            "https": lambda *a, **k: _TlsPool(*a, **k, watch=watch, private=private),
        }
        super().__init__(pool_connections=16, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make pools of our connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._classes

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> ProxyManager:
        """Make pools of our connections through a proxy."""
        tls = {"proxy_ssl_context": self._context(proxy)} if proxy.lower().startswith("https:") else {}
        manager: ProxyManager = super().proxy_manager_for(proxy, **tls, **kwargs)
        manager.pool_classes_by_scheme = self._classes
        return manager

    def build_connection_pool_key_attributes(
        self, request: PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        """Take the certificates from the context."""
        host, _ = super().build_connection_pool_key_attributes(request, False, None)
        return host, {"ssl_context": self._context(str(request.url))} if host["scheme"] == "https" else {}

    def cert_verify(self, conn: HTTPConnectionPool, *args: Any) -> None:
        """Leave the certificates to the context."""
