"""How a Triton server ends, for whoever starts one: how long it takes, and the shared memory that a killed one leaves.

Two start one, and judge its health by different rules, on purpose. Under `genre up` (supervisor/triton_server.py) an
inference service is always there: it notices a dead model process by its own requests and loads the model again, so the
supervisor only asks whether the server still has the model. Under systemd (deploy/triton/watched.py) nobody may be
asking: there every model has to answer an inference, or the watchdog's beat stops. Start at `sweep`.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

STOP_S = 15.0
"""SIGTERM takes 5-6 s, and over 20 s after a crash of a model process: then the server is killed."""
SHM = Path("/dev/shm")


def sweep(prefix: str) -> None:
    """Remove the shared memory of this account's servers whose names begin so; of those that no longer run."""
    for left in SHM.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if left.stat().st_uid == os.getuid():
                left.unlink()
