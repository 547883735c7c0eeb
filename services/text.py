"""Text from outside, made harmless once, where it comes in; and times as they go on the wire, RFC 3339 in UTC.

A title, a file's name or a server's reason phrase is written by strangers, and goes on to MQTT, a terminal, a log, a
page and names of files. Pure functions of strings and numbers; no import beyond the standard library, for errors.py
needs it. Start at `clean`.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone

MOST_TEXT = 512
"""Of a title, an artist, a word."""
MOST_REASON = 1_000
"""Of a sentence that says why."""
_NOTHING = re.compile(
    # Bidirectional controls turn what stands around them about, too: "gpj.exe" for "exe.jpg". U+FEFF is a byte order
    # mark, and paho ends its own connection at one; U+206A to U+206F and U+FFF9 to U+FFFB are for no reader either.
    r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb]+"
)
_SPACE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
"""Controls, among them all that a terminal obeys, and the ends of lines and paragraphs."""
_NEVER_ASSIGNED = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_NO_CHARACTER = re.compile(
    # Surrogates without their other half, e.g. of a file's name that is no UTF-8, and the 66 code points that Unicode
    # promises never to assign: MQTT 5 (1.5.4) forbids the first, and Mosquitto ends the connection at either.
    f"[\ud800-\udfff\ufdd0-\ufdef{_NEVER_ASSIGNED}]"
)


def clean(text: str, most: int = MOST_TEXT) -> str:
    """Return text on one line and without anything that a broker refuses or a terminal, a log or a page obeys.

    Controls and line ends become a space, what no character is U+FFFD, and bidirectional controls nothing; at most
    `most` characters are left. What is clean stays as it is.
    """
    if not (text.isascii() and text.isprintable()):
        text = _NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", _SPACE.sub(" ", _NOTHING.sub("", text)))
    return text.strip()[:most].rstrip()


def utc(unix_s: float) -> str:
    """Return a Unix time as RFC 3339 in UTC with milliseconds, e.g. 2026-01-31T12:00:00.000Z."""
    return datetime.fromtimestamp(unix_s, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
