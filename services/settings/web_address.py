"""How a person writes the web addresses of the dashboard: names, URLs, paths. Pure; start at `host_name`."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9]+)?")
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")


def host_name(text: str) -> str:
    """Return the host of a name, an address or a URL, with or without a port: lower case, no brackets, no last dot.

    Raises:
        ValueError: it holds no host.
    """
    bare = text.strip()
    if ":" in bare and "://" not in bare and bare.count(":") > 1 and not bare.startswith("["):
        bare = f"[{bare}]"  # an IPv6 address by itself
    try:
        parts = urlsplit(bare if "://" in bare else f"//{bare}")
        name, _ = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        name = ""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{text!r} is no host: write a name such as 'genre.local', or the URL that browsers open")
    return name


def browser_host(text: str) -> str:
    """Check an entry of `dashboard.hosts` and return it as it was written."""
    host_name(text)
    return text


def base_path(text: str) -> str:
    """Return a path below which the page lies, with a slash before and none after it; "" for the top.

    Raises:
        ValueError: it is no path.
    """
    path = "/" + text.strip().strip("/") if text.strip().strip("/") else ""
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError(f"{text!r} is no path such as '/genre'")
    return path


def frame_ancestor(text: str) -> str:
    """Check a source of Content Security Policy's frame-ancestors: 'self' or scheme://host[:port].

    Raises:
        ValueError: it is neither.
    """
    bare = text.strip().rstrip("/")
    if bare.strip("'") == "self":
        return "'self'"
    parts = urlsplit(bare)
    if parts.scheme not in ("http", "https") or parts.path or parts.query or parts.username is not None:
        raise ValueError(f"{text!r} is neither 'self' nor an origin such as https://homeassistant.local:8123")
    host_name(bare)
    return bare
