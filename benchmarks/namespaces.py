"""Several hosts on one machine: a network namespace each, joined to this one by veth, with the broker on this one.

Their links are as fast as memory: what is shown is that services need nothing but the broker's address, and how many
bytes cross each host's wire. It needs root and iproute2. Start at `Hosts`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from services.errors import GenreError


class Hosts:
    """Some hosts, for as long as it is open.

    Args:
        names: of the hosts.

    Attributes:
        address: this machine's address as every host sees it.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = {name: f"gb{os.getpid() % 10_000}{index}" for index, name in enumerate(names)}
        self._octet = 16 + os.getpid() % 200
        self.address = f"10.77.{self._octet}.1"

    def __enter__(self) -> Hosts:
        """Make them.

        Raises:
            GenreError: not allowed here, or iproute2 is missing.
        """
        try:
            for index, link in enumerate(self._names.values()):
                here, there = (f"10.77.{self._octet}.{4 * index + place}" for place in (1, 2))
                _ip("netns", "add", link)
                _ip("link", "add", f"{link}h", "type", "veth", "peer", "name", "eth0", "netns", link)
                _ip("addr", "add", f"{here}/30", "dev", f"{link}h")
                _ip("link", "set", f"{link}h", "up")
                _ip("-n", link, "addr", "add", f"{there}/30", "dev", "eth0")
                _ip("-n", link, "link", "set", "eth0", "up")
                _ip("-n", link, "link", "set", "lo", "up")
                _ip("-n", link, "route", "add", "default", "via", here)
        except (OSError, subprocess.CalledProcessError) as error:
            self._remove()
            said = getattr(error, "stderr", "") or str(error)
            raise GenreError(
                "network namespaces", f"can't be made ({said.strip()})", "run as root, with iproute2 installed"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        for link in self._names.values():
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                _ip("netns", "del", link)
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                _ip("link", "del", f"{link}h")

    def prefix(self, name: str) -> list[str]:
        """Return what to put before a command line so that it runs on that host."""
        return ["ip", "netns", "exec", self._names[name]]

    def bytes(self, name: str) -> int:
        """Return the bytes that crossed a host's wire so far, both ways."""
        counters = Path(f"/sys/class/net/{self._names[name]}h/statistics")
        return sum(int((counters / way).read_text()) for way in ("rx_bytes", "tx_bytes"))


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
