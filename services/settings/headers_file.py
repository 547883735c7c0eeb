"""The extra HTTP headers of a stream: credentials, cookies, a Referer; one "Name: value" a line.

Start at `read_headers`; where they go is said by `headers_for`.
"""

from __future__ import annotations

import re

from services.errors import GenreError, UsageError
from services.settings.schema import Stream

OF_A_PAGE = frozenset({"accept", "accept-language", "origin", "referer", "user-agent"})
"""Headers that say which page or player asks: hosts of segments look at them, and they hold no secret of the stream."""


def headers_for(headers: dict[str, str], own: bool) -> dict[str, str]:
    """Return the headers that go along: all to the stream's own scheme, host and port, elsewhere those of a page."""
    return headers if own else {name: value for name, value in headers.items() if name.lower() in OF_A_PAGE}


def read_headers(stream: Stream) -> dict[str, str]:
    """Read the extra headers of a stream, one "Name: value" a line; empty lines and those that begin with '#' are none.

    Raises:
        GenreError: the file can't be read; UsageError: naming the line that is no header.
    """
    if stream.headers_file is None:
        return {}
    try:
        lines = stream.headers_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        remedy = "correct headers_file of the stream"
        raise GenreError(str(stream.headers_file), f"can't be read ({reason})", remedy) from error
    headers = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        match = re.fullmatch(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff]*)", line.strip())
        if not match:
            raise UsageError(f"{stream.headers_file}, line {number}", "is not 'Name: value'", "correct that line")
        headers[match[1]] = match[2]
    return headers
