"""TCP and TLS connections that a waiting stream can be called away from, for requests and urllib3.

A plain socket blocks until its timeout: a stopping service would hang, and a server that sends one byte now and then
would never time out. Here every wait looks at a `Patience` four times a second, and a connection to an address that is
not allowed is closed before a byte is sent. Start at `PatientAdapter`; not the requests themselves (http.py).
"""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

LOOK_S = 0.25
T = TypeVar("T")


class StoppedError(Exception):
    """The listener was told to stop while it waited."""


class ForbiddenAddressError(Exception):
    """A public playlist led to an address of a private network."""


@dataclass
class Patience:
    """How long one stream's current request may still wait; one thread, one request at a time."""

    stop: threading.Event
    deadline: float = float("inf")
    allow_private: Callable[[str], bool] = field(default=lambda host: False)
    connections: int = 0

    def check(self) -> None:
        """Raise StoppedError or TimeoutError where there is nothing more to wait for."""
        if self.stop.is_set():
            raise StoppedError
        if time.monotonic() > self.deadline:
            raise TimeoutError("the whole response took too long")


def is_private(address: str) -> bool:
    """Say whether an IP address is not on the public internet: loopback, private, link-local, multicast, reserved."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    return not (mapped or ip).is_global or (mapped or ip).is_multicast


class _Patient:
    """The waits of a socket, cut into looks at the Patience; mixed into a plain and a TLS socket."""

    patience: Patience
    quiet_s: float | None = None

    def settimeout(self, value: float | None) -> None:
        """Remember the longest silence; each single wait is shorter."""
        self.quiet_s = value
        super().settimeout(LOOK_S if value is None or value > LOOK_S else value)  # type: ignore[misc]

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        """Receive, looking up while nothing comes."""
        received: int = self._waiting(lambda: super(_Patient, self).recv_into(*args, **kwargs))  # type: ignore[misc]
        return received

    def _waiting(self, act: Callable[[], T]) -> T:
        """Call act until it gives something, the silence is too long, or the Patience is at its end."""
        since = time.monotonic()
        while True:
            self.patience.check()
            try:
                return act()
            except TimeoutError:
                if self.quiet_s is not None and time.monotonic() - since > self.quiet_s:
                    raise


class _Socket(_Patient, socket.socket):
    """A patient TCP socket."""


class _TlsSocket(_Patient, ssl.SSLSocket):
    """A patient TLS socket."""

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, looking up while nothing comes."""
        self._waiting(lambda: super(_TlsSocket, self).do_handshake(block))


class _TlsContext(ssl.SSLContext):
    """TLS 1.2 or newer, certificates verified; its sockets inherit the Patience of the TCP socket below them."""

    sslsocket_class = _TlsSocket

    def wrap_socket(self, sock: socket.socket, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """Wrap first and shake hands then, when the new socket has the old one's Patience."""
        tls = super().wrap_socket(sock, *args, **{**kwargs, "do_handshake_on_connect": False})
        assert isinstance(sock, _Socket) and isinstance(tls, _TlsSocket)
        tls.patience = sock.patience
        tls.settimeout(sock.quiet_s)
        tls.do_handshake()
        return tls


@lru_cache(maxsize=8)
def tls_context(ca: str) -> ssl.SSLContext:
    """Return the context that trusts the certificates in this file or folder.

    Shared by all streams: the 150 usual certificates cost about 1 MiB each time they are loaded.

    Raises:
        OSError: it can't be read or holds no certificate (ssl.SSLError is an OSError).
    """
    context = _TlsContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(**({"capath": ca} if Path(ca).is_dir() else {"cafile": ca}))
    return context


def _connect(host: str, port: int, timeout_s: float, patience: Patience) -> socket.socket:
    """Open a TCP connection to the first address of host that answers and is allowed.

    Raises:
        ForbiddenAddressError: the only addresses are private ones, and they are not allowed.
        OSError: none answers (TimeoutError among them); socket.gaierror where the name is unknown.
    """
    forbidden, failure = None, None
    deadline = time.monotonic() + timeout_s
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        patience.check()
        if is_private(str(address[0])) and not patience.allow_private(host):
            forbidden = str(address[0])
            continue
        sock = _Socket(family, kind, protocol)
        sock.patience = patience
        try:
            sock.setblocking(False)
            sock.connect_ex(address)
            poll = select.poll()
            poll.register(sock, select.POLLOUT)
            while not poll.poll(LOOK_S * 1000):
                patience.check()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no connection within {timeout_s:g} s")
            if reason := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(reason, os.strerror(reason))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(timeout_s)
            patience.connections += 1
            return sock
        except OSError as error:
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
    if failure is None and forbidden:
        raise ForbiddenAddressError(forbidden)
    raise failure or OSError(f"{host} has no address")


class _Connection(HTTPConnection):
    """An HTTP connection over a patient socket."""

    patience: Patience

    def __init__(self, *args: Any, patience: Patience, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.patience = patience

    def _new_conn(self) -> socket.socket:
        timeout_s = self.timeout if isinstance(self.timeout, (int, float)) else 5.0
        try:
            return _connect(self._dns_host.strip("[]"), self.port, timeout_s, self.patience)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, str(error)) from error
        except OSError as error:
            raise NewConnectionError(self, f"no connection: {error}") from error


class _TlsConnection(_Connection, HTTPSConnection):
    """The same with TLS on top."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class PatientAdapter(HTTPAdapter):
    """Lets a requests.Session keep one connection an origin, over patient sockets.

    Args:
        patience: looked at by every wait.
        context: called for the first TLS connection; decides alone which certificates are good. requests' own idea
            (certifi, REQUESTS_CA_BUNDLE) is left out, because that environment variable silently overrides what the
            configuration says.
    """

    def __init__(self, patience: Patience, context: Callable[[], ssl.SSLContext]) -> None:
        self.patience, self.context = patience, context
        super().__init__(pool_connections=16, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make pools of patient connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": lambda *a, **k: _Pool(*a, **k, patience=self.patience),
            "https": lambda *a, **k: _TlsPool(*a, **{**k, "ssl_context": self.context()}, patience=self.patience),
        }

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        """Leave the certificates to the context."""
        host, pool = super().build_connection_pool_key_attributes(*args, **kwargs)
        return host, {name: value for name, value in pool.items() if name not in ("ca_certs", "ca_cert_dir")}

    def cert_verify(self, conn: HTTPConnectionPool, *args: Any) -> None:
        """Leave the certificates to the context."""
