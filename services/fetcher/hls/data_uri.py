"""Keys, initialization sections and segments that stand in the playlist itself, as data: URIs (RFC 2397).

What is in one may be a key: no message holds it. Start at `data_of`.
"""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote_to_bytes

from services.fetcher.http.errors import FetchError


def is_data(uri: str) -> bool:
    """Say whether a URI holds its data itself."""
    return uri[:5].lower() == "data:"


def data_of(uri: str, span: tuple[int, int] | None = None) -> bytes:
    """Return the data of a data: URI, or a part of it: (offset, length).

    Raises:
        FetchError: it can't be read.
    """
    head, comma, body = uri.partition(",")
    try:
        if not comma:
            raise ValueError
        data = unquote_to_bytes(body)
        if head.lower().rstrip().endswith(";base64"):
            kept = data.translate(None, b" \t\r\n").replace(b"-", b"+").replace(b"_", b"/")
            data = base64.b64decode(kept + b"=" * (-len(kept) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise FetchError("bad-url", "a data: URI can't be read") from None
    if span is None:
        return data
    if len(data) < span[0] + span[1]:
        raise FetchError("truncated", f"a data: URI has {len(data):,} bytes, not {span[0] + span[1]:,}")
    return data[span[0] : span[0] + span[1]]
