"""The extra HTTP headers of a stream: credentials, cookies, a Referer; one "Name: value" a line.

Start at `read_headers`.
"""

from __future__ import annotations

import re

from services.errors import GenreError, UsageError
from services.settings import Stream


def read_headers(stream: Stream) -> dict[str, str]:
    """Read the extra headers of a stream, one "Name: value" a line."""
    if stream.headers_file is None:
        return {}
    try:
        lines = stream.headers_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GenreError(
            str(stream.headers_file), f"can't be read ({error})", "mend headers_file of the stream"
        ) from error
    headers = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff]*)", line.strip())
        if not match:
            raise UsageError(f"{stream.headers_file}, line {number}", "is not 'Name: value'", "mend that line")
        headers[match[1]] = match[2]
    return headers
