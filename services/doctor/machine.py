"""The machine's stages: memory, disk, clock, temperature, power mode. Each stands alone. Start at `parts`."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path

from services.doctor.stages import Concern, Part
from services.errors import GenreError

LEAST_FREE_MB = 200
BUILT_AFTER = datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()


def parts(state_dir: Path) -> list[Part]:
    """Return one part for each, since none needs another."""
    return [
        Part("disk", [("space and rights", lambda: disk(state_dir))]),
        Part("clock", [("time", clock)]),
        Part("power", [("mode", power)]),
    ]


def disk(state_dir: Path) -> str:
    """Look for room and the right to write.

    Raises:
        GenreError: too little of either.
    """
    folder = state_dir.absolute()
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir():
        raise GenreError(str(there), "is no folder", "set paths.state_dir to one")
    free_mb = shutil.disk_usage(there).free // 1_000_000
    if free_mb < LEAST_FREE_MB:
        raise GenreError(
            str(there), f"only {free_mb} MB free", "make room; the history's limit is dashboard.history_limit_mb"
        )
    if not os.access(there, os.W_OK):
        text = "this user can't write there (a service's own user may)"
        raise Concern(str(there), text, "run 'sudo genre doctor', or correct paths.state_dir")
    return f"{free_mb} MB free at {there}"


def clock(now: float | None = None, synchronised: bool | None = None) -> str:
    """Tell whether the time can be right: certificates and wall-clock times depend on it.

    Raises:
        GenreError: it can't be.
        Concern: nobody keeps it.
    """
    now = time.time() if now is None else now
    shown = f"{datetime.fromtimestamp(now, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    if now < BUILT_AFTER:
        raise GenreError("clock", f"says {shown}", "set it: 'timedatectl set-ntp true'; TLS fails until then")
    if synchronised is None:
        synchronised = _synchronised()
    if synchronised is False:
        raise Concern("clock", f"{shown}, not synchronised", "'timedatectl set-ntp true'")
    return shown + (", synchronised" if synchronised else "")


def _synchronised() -> bool | None:
    """Ask systemd; None where it can't be known."""
    said = _output("timedatectl", "show", "-p", "NTPSynchronized", "--value")
    return {"yes": True, "no": False}.get(said.strip()) if said else None


def power() -> str:
    """Name the power mode: nvpmodel on a Jetson, else the processor's governor.

    Raises:
        Concern: a Jetson is not in its fastest mode, which the published figures are for.
    """
    said = _output("nvpmodel", "-q")
    if said:
        mode = next(
            (line.partition(":")[2].strip() for line in said.splitlines() if "Power Mode" in line), said.strip()
        )
        if "MAXN" not in mode.upper().replace("_", "").replace("-", "") and "MAX-N" not in mode.upper():
            raise Concern("power mode", mode, "'nvpmodel -m 0' is the paper's Max-N; docs/install.md helps to choose")
        return mode
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return f"governor {governor.read_text().strip()}" if governor.exists() else "no power modes here"


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
