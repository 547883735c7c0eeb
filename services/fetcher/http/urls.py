"""URLs as one stream asks for them: which are refused, where credentials belong to, what a log may show.

Text only; which address a host may lead to is addresses.py's business. Start at `admit` and `shown`.
"""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from services.fetcher.http.errors import FetchError


def shown(url: str) -> str:
    """Return a URL fit for a log: without user, password, query and fragment, where tokens live."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if parts.scheme else url.partition("?")[0]


def place_of(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a URL: where credentials belong to."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").rstrip("."), parts.port or (443 if scheme == "https" else 80)


def admit(url: str) -> None:
    """Refuse a URL that is not http(s).

    Raises:
        FetchError: bad-url.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as error:
        raise FetchError("bad-url", f"{url[:200]!r} is not a URL") from error
    if parts.scheme not in ("http", "https") or not host:
        raise FetchError("bad-url", f"{shown(url)[:200]!r} is not http or https")


def redirected(url: str, location: str) -> str:
    """Resolve a Location header against the URL that gave it.

    Raises:
        FetchError: bad-url.
    """
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise FetchError("bad-url", f"redirected to {location[:200]!r}, which is no URL") from error
