"""A broker's address as people write it: host, host:port, [::1]:1884, mqtt://, mqtts://, ws:// and wss:// URLs.

One reader for the file, the environment and `genre watch --broker`. Start at `read`.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

SCHEMES = {"mqtt": (False, "tcp"), "mqtts": (True, "tcp"), "ws": (False, "websockets"), "wss": (True, "websockets")}
"""Whether TLS is on, and the transport."""
DEFAULT_PORTS = {("tcp", False): 1883, ("tcp", True): 8883, ("websockets", False): 80, ("websockets", True): 443}
"""By transport and TLS: IANA's of mqtt and secure-mqtt, and RFC 6455's."""
FORMS = "write HOST, HOST:PORT, [IPv6]:PORT, or a URL of mqtt://, mqtts://, ws:// or wss://"
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?|[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9._-]+)?")


def read(text: str) -> dict[str, Any]:
    """Return what an address says, by the keys of [broker]: host, and port, tls, transport, websockets_path if said.

    Raises:
        ValueError: it is none of the forms; saying which there are.
    """
    if "://" in text:
        return _url(text)
    host, port = _host_and_port(text)
    return {"host": host} if port is None else {"host": host, "port": port}


def _url(text: str) -> dict[str, Any]:
    url = urlsplit(text)
    if url.scheme not in SCHEMES:
        raise ValueError(f"{url.scheme}:// is no scheme of a broker; {FORMS}")
    tls, transport = SCHEMES[url.scheme]
    if "@" in url.netloc:
        raise ValueError("a broker's URL holds no user; that goes to username and password_file")
    if url.query or url.fragment or (url.path.strip("/") and transport == "tcp"):
        raise ValueError("a broker's URL holds host and port only")
    host, port = _host_and_port(url.netloc)
    values: dict[str, Any] = {"host": host, "transport": transport}
    if port is not None:
        values["port"] = port
    if tls:
        values["tls"] = True
    if url.path.strip("/"):
        values["websockets_path"] = url.path
    return values


def _host_and_port(text: str) -> tuple[str, int | None]:
    if not text:
        raise ValueError(f"it names no host; {FORMS}")
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", text, re.DOTALL)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
        if ":" not in host:
            raise ValueError(f"only an IPv6 address stands in brackets; {FORMS}")
    elif text.count(":") == 1:
        host, port = text.split(":")
    else:  # more than one colon: an IPv6 address alone
        host, port = text, None
    if not _HOST.fullmatch(host):
        raise ValueError(f"{host!r} is no host name or address; {FORMS}")
    if port is None:
        return host, None
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        raise ValueError(f"{port!r} is not a port from 1 to 65535; {FORMS}")
    return host, int(port)
