"""The supervisor's side of systemd's notify protocol: hears READY=1 and WATCHDOG=1 of one child.

The same beats that systemd reads (services/process/lifecycle.py sends them through the real loop) work without it: a
child that is stopped or hangs is noticed here too. Start at `Watchdog`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time

PAUSE_S = 5.0
"""A supervisor that did not look for this long was itself asleep: a suspended machine is no reason to kill anyone."""


class Watchdog:
    """Whether one child still beats.

    Args:
        limit_s: a child that said READY=1 and then nothing for this long hangs.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._name = f"genre-edge-{os.getpid()}-{secrets.token_hex(8)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(f"\0{self._name}")
        self.reset()

    @property
    def environment(self) -> dict[str, str]:
        """What the child must find in its environment."""
        return {"NOTIFY_SOCKET": f"@{self._name}", "WATCHDOG_USEC": str(int(self._limit_s * 1e6))}

    def reset(self) -> None:
        """Begin again: the child was just started."""
        self._listen()
        self._beat: float | None = None
        self._looked = time.monotonic()

    def hangs(self) -> bool:
        """Whether the child was ready and has been silent for too long; look often."""
        now = time.monotonic()
        if self._listen() or (self._beat is not None and now - self._looked > PAUSE_S):
            self._beat = now
        self._looked = now
        return self._beat is not None and now - self._beat > self._limit_s

    def _listen(self) -> bool:
        """Return whether any beat came."""
        came = False
        with contextlib.suppress(BlockingIOError):
            while True:
                lines = self._socket.recv(4096).split(b"\n")
                came = came or b"READY=1" in lines or b"WATCHDOG=1" in lines
        return came

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
