"""What an ONNX file costs: CPU milliseconds a window and memory, measured in a process of its own.

Features are not counted. Start at `measure`.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

_PROBE = """
import json, sys, time
import numpy as np, onnxruntime, psutil
path, frames, bands, runs = sys.argv[1], *map(int, sys.argv[2:5])
own = psutil.Process()
before = own.memory_info().rss
from pathlib import Path
from services.inference.onnx_backend import session
model = session(Path(path))
x = np.random.default_rng(0).random((1, frames, bands), np.float32)
model.run(None, {"features": x})
times = []
for _ in range(runs):
    start = time.process_time()
    model.run(None, {"features": x})
    times.append(time.process_time() - start)
mib = (own.memory_info().rss - before) / 2**20
print(json.dumps([sorted(times)[len(times) // 2] * 1000, mib]))
"""


def measure(path: Path, shape: tuple[int, int], runs: int = 30) -> tuple[float, float]:
    """Return (median CPU milliseconds a window with one thread, MiB of resident memory added)."""
    command = [sys.executable, "-c", _PROBE, str(path), *map(str, shape), str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cpu_ms, mib = json.loads(done.stdout)
    return round(float(cpu_ms), 3), round(max(0.1, float(mib)), 1)


def of(content: bytes, shape: tuple[int, int]) -> tuple[float, float]:
    """Return the same of a network that is not on disk yet."""
    with tempfile.NamedTemporaryFile(suffix=".onnx") as scratch:
        scratch.write(content)
        scratch.flush()
        return measure(Path(scratch.name), shape)


def machine() -> str:
    """Name the processor the costs were measured on, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        name = ""
    return f"{name or platform.processor() or platform.machine()}, one thread"
