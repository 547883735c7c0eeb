"""Streams decode in turns. Start at `DECODING`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

DECODING = threading.Lock()
"""Held while a stream decodes.

Libav lets go of the interpreter's lock several times a packet, and threads that decode at once hand it to and fro: two
of them need twice the CPU a second of audio, a hundred of them ten times (measured).
"""


@contextlib.contextmanager
def out_of_turn() -> Iterator[None]:
    """Let others decode meanwhile; for a wait in the middle of decoding."""
    DECODING.release()
    try:
        yield
    finally:
        DECODING.acquire()
