"""Which addresses a stream may connect to, and a TCP connection to the first of them that answers.

A name's addresses are tried as RFC 8305 ("happy eyeballs") says: the next one a quarter of a second after the last, all
of them waiting side by side, so that an address behind a black hole costs that quarter and no more. Nothing here knows
of HTTP. Start at `connect`.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
import os
import select
import socket
import time
from collections.abc import Callable, Sequence

from services.fetcher.http.watch import LOOK_S

STAGGER_S = 0.25
"""RFC 8305, section 5: the recommended Connection Attempt Delay."""
LOCAL_SUFFIXES = ("localhost", "local", "home.arpa", "internal", "intranet", "lan", "home", "corp", "private", "svc")
"""Ends of names that the public DNS does not give out: RFC 6761, 6762, 8375, ICANN, common use, Kubernetes."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ForbiddenAddressError(Exception):
    """A public stream led to an address of a private network."""


def is_private(address: str) -> bool:
    """Say whether an IP address is not on the public internet: loopback, private, link-local, multicast, reserved."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        ip = embedded or ip
    return not ip.is_global or ip.is_multicast or ip.is_reserved


def is_local_host(host: str) -> bool:
    """Say whether a URL's host names something in a private network by what it is, without asking a name server.

    What a name server answers is in the hands of the name's owner: a public name that resolves to a private address is
    still public (DNS rebinding).
    """
    host = host.rstrip(".").lower()
    try:
        return is_private(host)
    except ValueError:
        return "." not in host or host.endswith(tuple(f".{suffix}" for suffix in LOCAL_SUFFIXES))


def is_loopback(host: str) -> bool:
    """Say whether a URL's host is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost" or host.lower().endswith(".localhost")


Address = tuple[int, tuple[object, ...]]
"""Address family and socket address."""


def addresses_of(host: str, port: int, private: bool) -> list[Address]:
    """Resolve a name to the addresses that may be connected to, families in turn, the resolver's favourite first.

    Raises:
        ForbiddenAddressError: it only has private ones, and they are not allowed.
        socket.gaierror: it is unknown.
    """
    found = [(info[0], info[4]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    allowed = [each for each in found if private or not is_private(str(each[1][0]))]
    if found and not allowed:
        raise ForbiddenAddressError(str(found[0][1][0]))
    favourite = [each for each in allowed if each[0] == allowed[0][0]]
    other = [each for each in allowed if each[0] != allowed[0][0]]
    pairs = itertools.zip_longest(favourite, other)
    return [each for pair in pairs for each in pair if each is not None]


def connect(addresses: Sequence[Address], timeout_s: float, check: Callable[[], None]) -> socket.socket:
    """Open a TCP connection to the first address that answers.

    Args:
        addresses: in the order to try them.
        timeout_s: for all of them together.
        check: called four times a second; what it raises ends the wait.

    Raises:
        OSError: none answers; TimeoutError among them.
    """
    poll = select.poll()
    trying: dict[int, socket.socket] = {}
    left = list(addresses)
    failure: OSError | None = None
    deadline = time.monotonic() + timeout_s
    next_try = time.monotonic()
    try:
        while trying or left:
            check()
            now = time.monotonic()
            if now > deadline:
                raise TimeoutError(f"no connection within {timeout_s:g} s")
            if left and (not trying or now >= next_try):
                family, address = left.pop(0)
                sock = socket.socket(family, socket.SOCK_STREAM)
                sock.setblocking(False)
                code = sock.connect_ex(address)
                if code not in (0, errno.EINPROGRESS):
                    sock.close()
                    failure = failure or OSError(code, os.strerror(code))
                    continue
                trying[sock.fileno()] = sock
                poll.register(sock, select.POLLOUT)
                next_try = now + STAGGER_S
            wait_s = min(LOOK_S, deadline - now, next_try - now if left else LOOK_S)
            for descriptor, _ in poll.poll(max(wait_s, 0.0) * 1000):
                poll.unregister(descriptor)
                sock = trying.pop(descriptor)
                if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    sock.close()
                    if not isinstance(failure, ConnectionRefusedError):  # a machine that answers says more than a route
                        failure = OSError(code, os.strerror(code))
                    continue
                sock.settimeout(max(deadline - time.monotonic(), 0.1))
                return sock
    finally:
        for sock in trying.values():
            sock.close()
    raise failure or OSError("the name has no address")
