"""The Range header of RFC 9110, 14.1.2: one range; a list of them is answered with the whole. Start at `byte_range`."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the first and the last byte that a header asks for of a file of `size` bytes.

    Returns:
        None where the whole file is the answer; first > last where no byte of the file is asked for (416).
    """
    found = _RANGE.fullmatch(header)
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        return (max(0, size - int(found[2])), size - 1) if int(found[2]) else (size, size - 1)
    return int(found[1]), min(size - 1, int(found[2])) if found[2] else size - 1
