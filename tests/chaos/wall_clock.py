"""The time of day in a pipeline, set wrong for its services and its broker at once. Not a part of the product.

Services read it with time.time() alone, which `clock/sitecustomize.py` turns. The broker is C: libfaketime turns it
there (Python can't live with libfaketime 0.9.10, which makes its sleeps fail). The monotonic clock stays, as it does
when a person or NTP sets a machine's clock.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*-linux-gnu/faketime/libfaketime.so.1"))), None)
"""From the package that `make test` and `make chaos` install; None where it is not there."""


class WallClock:
    """Starts right. The broker follows a change within a second, the services at once."""

    def __init__(self, folder: Path) -> None:
        self._python, self._c = folder / "clock", folder / "clock.faketime"
        self._python.write_bytes(bytes(8))
        self.set(0.0)

    def set(self, offset_s: float) -> None:
        """Set the clock wrong by so many seconds."""
        with self._python.open("r+b") as file:
            file.write(struct.pack("d", offset_s))
        new = self._c.with_suffix(".new")
        new.write_text(f"{offset_s:+.3f}\n")
        new.replace(self._c)

    def of_service(self, env: Mapping[str, str], root: Path) -> dict[str, str]:
        """Return a service's environment with this clock in it."""
        hook = root / "tests" / "chaos" / "clock"
        return {**env, "PYTHONPATH": f"{hook}:{root}", "CHAOS_CLOCK": str(self._python)}

    def of_broker(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return the broker's environment with this clock in it."""
        return turned_by(self._c, env)


def turned_by(file: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a C program whose wall clock follows a file of libfaketime.

    Raises:
        RuntimeError: libfaketime is not installed.
    """
    if LIBRARY is None:
        raise RuntimeError("the broker's clock can't be set without libfaketime: 'apt-get install faketime'")
    return {
        **env,
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
