"""The service side of systemd's notify protocol: ready, watchdog, stopping. Nothing happens outside systemd.

A few lines over a datagram socket; the sdnotify package has no wheel. See sd_notify(3).
"""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send one state, e.g. "READY=1"; a missing or broken socket is no reason to fail."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(address)
            sender.send(state.encode())
    except OSError:
        pass


def watchdog_interval_s() -> float | None:
    """Return how often to send WATCHDOG=1 (a third of what systemd allows); None where there is no watchdog."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdigit() or pid != str(os.getpid()):
        return None
    return int(microseconds) / 1e6 / 3
