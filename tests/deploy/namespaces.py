"""Two machines in one kernel: network namespaces with a cable between them that can be pulled. Needs root.

Start at `cable`; everything that was made is gone afterwards, also after a failure.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Namespace:
    """One of the two: its name, its address, and its end of the cable."""

    name: str
    address: str
    interface: str

    def command(self, *argv: str) -> list[str]:
        """Return argv as it runs inside."""
        return ["ip", "netns", "exec", self.name, *argv]

    def run(self, *argv: str) -> None:
        """Run a command inside."""
        subprocess.run(self.command(*argv), check=True)

    def plug(self, state: str) -> None:
        """Pull the cable out ("down") or put it in again ("up")."""
        self.run("ip", "link", "set", self.interface, state)

    def sent_bytes(self) -> int:
        """Return what this end has sent since it was made."""
        path = f"/sys/class/net/{self.interface}/statistics/tx_bytes"
        done = subprocess.run(self.command("cat", path), check=True, capture_output=True, text=True)
        return int(done.stdout)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Let this thread open its sockets inside; they stay there."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(Path("/var/run/netns") / self.name, os.O_RDONLY)
        try:
            _setns(there)
            yield
        finally:
            _setns(here)
            os.close(here)
            os.close(there)


def _setns(descriptor: int) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def cable(subnet: str = "10.213.78") -> Iterator[tuple[Namespace, Namespace]]:
    """Make the two ends, joined."""
    mark = f"ge{os.getpid() % 100_000}"
    ends = (Namespace(f"{mark}a", f"{subnet}.1", f"{mark}a0"), Namespace(f"{mark}b", f"{subnet}.2", f"{mark}b0"))
    try:
        for end in ends:
            subprocess.run(["ip", "netns", "add", end.name], check=True)
        first, second = ends
        link = ["ip", "link", "add", first.interface, "netns", first.name, "type", "veth"]
        subprocess.run([*link, "peer", "name", second.interface, "netns", second.name], check=True)
        for end in ends:
            end.run("ip", "addr", "add", f"{end.address}/24", "dev", end.interface)
            end.run("ip", "link", "set", "lo", "up")
            end.plug("up")
        yield ends
    finally:
        for end in ends:
            subprocess.run(["ip", "netns", "delete", end.name], check=False, stderr=subprocess.DEVNULL)
