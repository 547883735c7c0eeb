"""Small lists that name a station's audio, often on several mirrors: .m3u, .pls, .xspf and .asx.

What these files hold is written by hand as often as not, so only the addresses are looked for. Pure.
Start at `mirrors_of`.
"""

from __future__ import annotations

import html
import re
from urllib.parse import urljoin, urlsplit

MOST_BYTES = 65_536
MOST_MIRRORS = 16
_ENTRIES = {
    "m3u": re.compile(r"^[ \t]*([^#\s][^\r\n]*)", re.MULTILINE),
    "pls": re.compile(r"^[ \t]*File\d*[ \t]*=[ \t]*([^\r\n]+)", re.MULTILINE | re.IGNORECASE),
    "xspf": re.compile(r"<(?:\w+:)?location[^>]*>\s*(?:<!\[CDATA\[)?(.*?)(?:\]\]>)?\s*</", re.IGNORECASE | re.DOTALL),
    "asx": re.compile(r"<(?:ref|entryref)\b[^>]*?\bhref\s*=\s*[\"']?([^\"'>\s]+)", re.IGNORECASE),
}


def mirrors_of(body: bytes, kind: str, url: str) -> tuple[list[str], list[str]]:
    """Return the http and https URLs that a list names, each once, in its order, and what else it names.

    Args:
        body: of the list.
        kind: m3u, pls, xspf or asx.
        url: that the list came from; its entries may be relative to it.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = body.decode("latin-1")
    found: dict[str, None] = {}
    other: dict[str, None] = {}
    for entry in _ENTRIES[kind].findall(text):
        entry = entry.strip().strip('"')
        if kind in ("xspf", "asx"):
            entry = html.unescape(entry)
        try:
            address = urljoin(url, entry)
            scheme, host = urlsplit(address).scheme, urlsplit(address).hostname
        except ValueError:
            continue
        if scheme in ("http", "https") and host:
            found[address] = None
        elif entry:
            other[entry] = None
    return list(found)[:MOST_MIRRORS], list(other)[:MOST_MIRRORS]
