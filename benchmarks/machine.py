"""What a measurement was made on: processor, system, versions, and whether others were using it too.

Values only; nothing is changed. Figures without this page beside them mean nothing. Start at `describe`.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from benchmarks.accounting import idle_share

PACKAGES = (
    "numpy", "scipy", "soxr", "av", "requests", "paho-mqtt", "onnxruntime", "tritonclient", "librosa", "keras",
    "tensorflow",
)  # fmt: skip
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "bf16")


def describe() -> dict[str, object]:
    """Return machine and versions as JSON values."""
    load = os.getloadavg()
    return {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": psutil.cpu_count(logical=True),
        "vector_units": [flag for flag in _FLAGS if flag in _cpu_flags()],
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "distribution": _distribution(),
        "python": platform.python_version(),
        "mosquitto": _first_line("mosquitto", "-h"),
        "ffmpeg": _first_line("ffmpeg", "-version"),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "load_before": round(load[0], 2),
        "idle_before": round(idle_share(), 2),
        "jetson": jetson(),
    }


def processor() -> str:
    """Return the processor's name, or the board's on a Jetson."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else jetson() or platform.machine()


def jetson() -> str:
    """Return the Jetson's model, "" elsewhere."""
    try:
        text = Path("/proc/device-tree/model").read_bytes().decode(errors="replace").strip("\0\n ")
    except OSError:
        return ""
    return text if "jetson" in text.lower() or "tegra" in text.lower() else ""


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _first_line(program: str, option: str) -> str:
    """Return the first line a program prints of itself, "" where it is not installed."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        return ""
    said = subprocess.run([found, option], capture_output=True, text=True, check=False, timeout=10)
    return (said.stdout or said.stderr).strip().splitlines()[0][:80] if said.stdout or said.stderr else ""
