"""The periodic work of a service, in a thread of its own: the loop that feeds the watchdog never waits for it.

A turn may take long (a model is exchanged in up to 90 s) but not for ever, and an error in it ends the process as one
in the main thread would. Start at `Turns`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

EVERY_S = 1.0
STUCK_S = 120.0
"""Longer than the longest turn: a model exchange, 30 s to load and 60 s until Triton answers."""
END_S = 2.0
"""How long the end of a service waits for a turn that is under way."""


class Turns:
    """Calls `turn` about once a second until `stop`."""

    def __init__(self, turn: Callable[[], None], stop: threading.Event) -> None:
        self._turn, self._stop = turn, stop
        self._began: float | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="turns", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def healthy(self) -> bool:
        """Whether no turn hangs."""
        began = self._began
        return began is None or time.monotonic() - began < STUCK_S

    def check(self) -> None:
        """Raise the error of a turn that failed."""
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Wait for a turn that is under way, for a while."""
        self._thread.join(END_S)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._began = time.monotonic()
            try:
                self._turn()
            except BaseException as error:
                self._error = error
                return
            self._began = None
