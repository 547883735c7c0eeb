"""Text from outside on its way to a terminal: nothing in it may move the cursor, recolour or ring.

A title, a file's name or an event's reason is written by strangers; rich and click pass escape sequences through.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Return text with every control character replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
