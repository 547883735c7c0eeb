"""Several hosts on one machine: a network namespace each, on one switch (a Linux bridge), each with its own address.

A host's cable can be pulled and put back; its share of the CPU can be limited by a control group, so that a host costs
what a small machine would. Links are as fast as memory: what is shown is that services need nothing but the broker's
address, and how many bytes cross a host's wire. It needs root and iproute2. Start at `Network`.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from services.errors import GenreError

_count = itertools.count()
CGROUP_1, CGROUP_2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
PERIOD_US = 20_000
CLONE_NEWNET = 0x40000000


def why_not() -> str:
    """Return why no network namespaces can be made here; "" where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    try:
        with Network(["probe"]):
            return ""
    except GenreError as error:
        return f"no network namespaces here ({error.reason})"


class Network:
    """Some hosts, for as long as it is open; this machine is on the switch too, at `gateway`.

    Args:
        names: of the hosts.
    """

    def __init__(self, names: Sequence[str]) -> None:
        number = (os.getpid() * 7 + next(_count)) % 10_000
        self._switch = f"gs{number}"
        self._octet = 10 + number % 240
        self.gateway = f"10.78.{self._octet}.254"
        self._spaces = {name: f"gh{number}-{index}" for index, name in enumerate(names)}
        self.addresses = {name: f"10.78.{self._octet}.{index + 1}" for index, name in enumerate(names)}
        self._groups: list[Path] = []

    def __enter__(self) -> Network:
        """Make them.

        Raises:
            GenreError: not allowed here, or iproute2 is missing; nothing is left.
        """
        try:
            _ip("link", "add", self._switch, "type", "bridge")
            _ip("addr", "add", f"{self.gateway}/24", "dev", self._switch)
            _ip("link", "set", self._switch, "up")
            for name, space in self._spaces.items():
                _ip("netns", "add", space)
                _ip("link", "add", space, "type", "veth", "peer", "name", "eth0", "netns", space)
                _ip("link", "set", space, "master", self._switch, "up")
                _ip("-n", space, "addr", "add", f"{self.addresses[name]}/24", "dev", "eth0")
                for device in ("eth0", "lo"):
                    _ip("-n", space, "link", "set", device, "up")
        except (OSError, subprocess.CalledProcessError) as error:
            self._remove()
            said = (getattr(error, "stderr", "") or str(error)).strip()
            remedy = "run as root, with iproute2 installed"
            raise GenreError("network namespaces", f"can't be made ({said})", remedy) from error
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        for group in self._groups:
            with contextlib.suppress(OSError):
                group.rmdir()
        for words in [*(("netns", "del", space) for space in self._spaces.values()), ("link", "del", self._switch)]:
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                _ip(*words)

    def prefix(self, name: str, group: Path | None = None) -> list[str]:
        """Return what to put before a command line so that it runs on that host, and in a control group."""
        inside = ["sh", "-c", f'echo $$ > {group / "cgroup.procs"} && exec "$@"', "sh"] if group else []
        return [*inside, "ip", "netns", "exec", self._spaces[name]]

    def pull(self, name: str) -> None:
        """Pull a host's cable: its link goes down, and nobody is told."""
        _ip("link", "set", self._spaces[name], "down")

    def plug(self, name: str) -> None:
        """Put it back."""
        _ip("link", "set", self._spaces[name], "up")

    def bytes(self, name: str) -> int:
        """Return the bytes that crossed a host's wire so far, both ways."""
        counters = Path(f"/sys/class/net/{self._spaces[name]}/statistics")
        return sum(int((counters / way).read_text()) for way in ("rx_bytes", "tx_bytes"))

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Let this thread open its sockets on a host; they stay there."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(Path("/var/run/netns") / self._spaces[name], os.O_RDONLY)
        try:
            _setns(there)
            yield
        finally:
            _setns(here)
            os.close(here)
            os.close(there)

    def limit(self, name: str, cores: float) -> Path | None:
        """Return a control group that gets so many cores, not more and, ahead of all else on this machine, not less.

        None where this machine lets us make none.
        """
        quota = int(cores * PERIOD_US)
        first, values = (
            (CGROUP_1, {"cpu.cfs_period_us": f"{PERIOD_US}", "cpu.cfs_quota_us": f"{quota}", "cpu.shares": "262144"})
            if CGROUP_1.is_dir()
            else (CGROUP_2, {"cpu.max": f"{quota} {PERIOD_US}", "cpu.weight": "10000"})
        )
        group = first / f"{self._spaces[name]}"
        try:
            group.mkdir(exist_ok=True)
            self._groups.append(group)
            for file, value in values.items():
                (group / file).write_text(value)
        except OSError:
            return None
        return group


def _setns(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
