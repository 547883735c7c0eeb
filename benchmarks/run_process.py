"""Runs one process of a benchmark to its end and says what it cost, its start-up apart from its work.

The process prints {"ready": true} once it is set up, then one JSON object a result. Start at `run`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accounting import usage
from services.errors import GenreError
from services.supervisor.children import LEAN

ROOT = Path(__file__).resolve().parents[1]


def as_a_service(module: str) -> None:
    """Begin this process anew with the environment of a service, unless it has that: threads' heaps are memory, too."""
    if any(os.environ.get(name) != value for name, value in LEAN.items()):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, **LEAN})


@dataclass(frozen=True)
class Ran:
    """What a process did and cost.

    Attributes:
        start_cpu_s: CPU time until it was ready.
        cpu_s: CPU time from then until its last result, of its children too; the interpreter's end is not work.
        peak_mib: largest resident set of the process and of the children it had when a result came.
        results: what it printed after it was ready.
    """

    start_s: float
    start_cpu_s: float
    wall_s: float
    cpu_s: float
    peak_mib: float
    results: list[dict[str, Any]]


def run(argv: Sequence[str], env: Mapping[str, str] | None = None) -> Ran:
    """Run a process to its end.

    Args:
        env: added to this process's environment.

    Raises:
        GenreError: it failed, or ended without a result; with its last words.
    """
    began = time.monotonic()
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
    )
    assert child.stdout is not None and child.stderr is not None
    ready_at = last_at = began
    start_cpu_s, cpu_s, peak_mib, results = 0.0, 0.0, 0.0, []
    try:
        for line in child.stdout:
            if not line.startswith("{"):
                continue
            value = json.loads(line)
            if value.get("ready"):
                ready_at, start_cpu_s = time.monotonic(), usage(child.pid).cpu_s
            else:
                results.append(value)
                now = usage(child.pid)
                last_at, cpu_s, peak_mib = time.monotonic(), max(cpu_s, now.cpu_s), max(peak_mib, now.peak_mib)
        child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            child.wait()
    words = child.stderr.read().strip().splitlines()
    child.stdout.close()
    child.stderr.close()
    if child.returncode != 0 or not results:
        said = words[-1] if words else "no output"
        raise GenreError(str(argv[-3:]), f"ended with {child.returncode} ({said})", "run it by hand to see more")
    return Ran(
        start_s=ready_at - began,
        start_cpu_s=start_cpu_s,
        wall_s=last_at - ready_at,
        cpu_s=cpu_s - start_cpu_s,
        peak_mib=peak_mib,
        results=results,
    )
