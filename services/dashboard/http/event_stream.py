"""Live updates as server-sent events: two a second at most, made once for all browsers that ask at about one time.

Start at `EventStream.updates`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable

from services.dashboard.state.live_state import LiveState

TICK_S = 0.5
MOST_READERS = 200


class EventStream:
    """The browsers that look on."""

    def __init__(self, live_state: LiveState, stopping: Callable[[], bool]) -> None:
        self._live_state, self._stopping = live_state, stopping
        self._readers = 0
        self._made: dict[int, tuple[float, int, bytes]] = {}

    @property
    def full(self) -> bool:
        """Whether no further browser can be served."""
        return self._readers >= MOST_READERS

    async def updates(self) -> AsyncIterator[bytes]:
        """Yield events until the service stops: first everything, then what changed."""
        version = 0
        self._readers += 1
        try:
            while not self._stopping():
                version, event = self._update(version)
                yield event
                await asyncio.sleep(TICK_S)
        finally:
            self._readers -= 1

    def _update(self, version: int) -> tuple[int, bytes]:
        """Return what changed after a version, as an event."""
        now = time.monotonic()
        at, after, event = self._made.get(version, (0.0, 0, b""))
        if now - at > TICK_S / 2:
            update = self._live_state.since(version)
            after = update["version"]
            event = b"retry: 1000\ndata: " + json.dumps(update, separators=(",", ":")).encode() + b"\n\n"
            self._made = {key: value for key, value in self._made.items() if now - value[0] <= TICK_S / 2}
            self._made[version] = (now, after, event)
        return after, event
