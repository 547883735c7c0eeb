"""What a run cost: CPU seconds and peak memory of whole process trees, children that already ended included.

It only reads /proc through psutil; it starts and stops nothing. CPU time is the kernel's (10 ms ticks), so measure
seconds of work, not milliseconds. Start at `Account`; `spread` turns repeats into a median and its range.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Usage:
    """What one process tree used since it began.

    Attributes:
        cpu_s: user and system time of the process, its descendants, and those of them that ended and were reaped.
        peak_mib: largest resident set of each living process of the tree (VmHWM), summed.
        processes: how many live.
    """

    cpu_s: float
    peak_mib: float
    processes: int


def usage(pid: int) -> Usage:
    """Return what the tree below pid used; all zero where it is gone."""
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return Usage(0.0, 0.0, 0)
    cpu_s = peak_mib = 0.0
    alive = 0
    for process in tree:
        try:
            times = process.cpu_times()
            peak_mib += peak_memory_mib(process.pid)
        except psutil.NoSuchProcess:
            continue
        cpu_s += times.user + times.system + times.children_user + times.children_system
        alive += 1
    return Usage(cpu_s, peak_mib, alive)


def peak_memory_mib(pid: int | str = "self") -> float:
    """Return the largest resident set a process ever had, in MiB; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


class Account:
    """The cost of some named process trees between two moments.

    Example:
        >>> account = Account({"me": os.getpid()})
        >>> sorted(account.since_start())
        ['me']
    """

    def __init__(self, roots: Mapping[str, int]) -> None:
        """Take the first reading."""
        self._roots = dict(roots)
        self._before = {name: usage(pid) for name, pid in self._roots.items()}

    def since_start(self) -> dict[str, Usage]:
        """Return each tree's CPU time since the first reading, and its peak memory until now."""
        now = {name: usage(pid) for name, pid in self._roots.items()}
        return {
            name: Usage(max(0.0, use.cpu_s - self._before[name].cpu_s), use.peak_mib, use.processes)
            for name, use in now.items()
        }


@dataclass(frozen=True)
class Spread:
    """Repeats of one figure: their median, least and largest, and how many there were."""

    median: float
    least: float
    largest: float
    n: int

    def __str__(self) -> str:
        """Return "12.3 (11.9-12.8)", with as many digits as the size of the figure deserves."""
        if self.n == 1 or self.least == self.largest:
            return figure(self.median)
        return f"{figure(self.median)} ({figure(self.least)}-{figure(self.largest)})"

    def to_json(self) -> dict[str, float]:
        """Return it as JSON values."""
        return {
            "median": round(self.median, 6),
            "min": round(self.least, 6),
            "max": round(self.largest, 6),
            "n": self.n,
        }


def spread(values: Iterable[float]) -> Spread:
    """Return median and range of some repeats.

    Raises:
        ValueError: there are none.
    """
    found = list(values)
    if not found:
        raise ValueError("no measurement")
    return Spread(statistics.median(found), min(found), max(found), len(found))


def figure(value: float) -> str:
    """Return a number with three significant digits, without exponents."""
    size = abs(value)
    return (
        f"{value:,.0f}"
        if size >= 100
        else f"{value:.1f}"
        if size >= 10
        else f"{value:.2f}"
        if size >= 0.1 or value == 0
        else f"{value:.4f}"
    )


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value below which `share` (0..1) of the values lie; nearest rank, so it is one that was measured."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


@contextmanager
def others_busy(used: Callable[[], float]) -> Iterator[list[float]]:
    """Note which share of all cores went to processes that are not `used`'s while the block ran."""
    share: list[float] = []
    before, mine, began = psutil.cpu_times(), used(), time.monotonic()
    yield share
    now = psutil.cpu_times()
    busy = sum(now) - sum(before) - (now.idle - before.idle) - (now.iowait - before.iowait)
    cores = (psutil.cpu_count() or 1) * (time.monotonic() - began)
    share.append(max(0.0, min(1.0, (busy - (used() - mine)) / cores)))


def idle_share(seconds: float = 0.5) -> float:
    """Return the share of this machine's CPU time that nobody uses, 0..1: how quiet it is before a run."""
    return 1.0 - psutil.cpu_percent(interval=seconds) / 100.0 if os.cpu_count() else 0.0
