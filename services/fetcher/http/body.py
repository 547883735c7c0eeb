"""A response's body: read within its limit, the wanted part cut out where a server does not do byte ranges.

Start at `read_body`.
"""

from __future__ import annotations

import re
import zlib

import requests

from services.fetcher.http.errors import FetchError

READ_BYTES = 65_536
GZIP = b"\x1f\x8b"


def read_body(
    response: requests.Response, body: bytearray, limit: int, byterange: tuple[int, int] | None = None
) -> None:
    """Read a body to its end, or as far as the byte range goes.

    Args:
        response: with its body still to come.
        body: what is read is added to it; where that fails, it holds what came.
        limit: most bytes, after decompression.
        byterange: (offset, length) of what was asked for.

    Raises:
        FetchError: it is too large, too short, or another part than was asked for.
    """
    skip = _bytes_before(response, byterange) if byterange else 0
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


def ends_in_a_line(body: bytes | bytearray, error: FetchError) -> bool:
    """Say whether a playlist that is shorter than announced came to the end of a line: nothing in it is half.

    Servers announce the length before they compress, or of the list before this one.
    """
    return error.cause == "truncated" and body.endswith(b"\n")


def unpacked(body: bytes | bytearray, limit: int) -> bytes:
    """Return a playlist's text as bytes, where it is a gzip file and no header says so (list.m3u8.gz, CDNs).

    Raises:
        FetchError: it is too large, or no gzip file after all.
    """
    if not body.startswith(GZIP):
        return bytes(body)
    decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        text = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise FetchError("bad-encoding", f"a gzip file that is damaged ({error})") from error
    if len(text) > limit:
        raise FetchError("too-large", f"more than {limit:,} bytes")
    if not decompressor.eof:
        raise FetchError("truncated", "a gzip file that is cut off")
    return text


def _bytes_before(response: requests.Response, byterange: tuple[int, int]) -> int:
    """Return how many bytes of the body come before the wanted part: none, unless the server sends more than it.

    RFC 9110 14.2 lets a server ignore Range (200); some send the whole body as 206, with or without a Content-Range.
    """
    offset, length = byterange
    if response.status_code != 206:
        return offset
    said = response.headers.get("Content-Range")
    if said is None:
        whole = response.headers.get("Content-Length", "")
        return offset if whole.isdecimal() and int(whole) != length and int(whole) >= offset + length else 0
    match = re.match(r"\s*bytes[\s=]*(\d{1,18})\s*-\s*(\d{1,18})", said, re.IGNORECASE)
    if match is None or not int(match[1]) <= offset <= int(match[2]):
        raise FetchError("bad-range", f"asked from byte {offset}, got {said[:80]!r}")
    return offset - int(match[1])
