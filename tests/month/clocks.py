"""A month's time, told to real processes: each scene lasts some seconds, and the machine sleeps from one to the next.

Start at `Calendar`. The services are Python and are turned by clock/sitecustomize.py; the broker is C and follows
through libfaketime (tests/chaos/wall_clock.py says why not all of them).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from tests.chaos.wall_clock import turned_by

ZONE = ZoneInfo("Europe/Berlin")


def local(text: str) -> float:
    """Return the Unix time of a local date and time, e.g. "2026-03-28 20:00"."""
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=ZONE).timestamp()


class Calendar:
    """The clocks of one box; Unix time as its processes see it."""

    def __init__(self, folder: Path) -> None:
        self._python, self._c = folder / "clock", folder / "clock.faketime"
        self._wrong = self._slept = 0.0
        self._python.write_bytes(bytes(16))
        self._tell()

    @property
    def now(self) -> float:
        """The box's wall clock."""
        return time.time() + self._wrong + self._slept

    def set_to(self, unix_s: float) -> float:
        """Set the wall clock, as NTP or a person does; return by how many seconds it moved."""
        moved = unix_s - self.now
        self._wrong += moved
        self._tell()
        return moved

    def sleep_until(self, unix_s: float) -> None:
        """Let the machine sleep: its wall clock goes on, its processes do not notice."""
        self._slept += unix_s - self.now
        self._tell()

    def _tell(self) -> None:
        with self._python.open("r+b") as file:
            file.write(struct.pack("2d", self._wrong, self._slept))
        new = self._c.with_suffix(".new")
        new.write_text(f"{self._wrong + self._slept:+.3f}\n")
        new.replace(self._c)

    def of_service(self, env: Mapping[str, str], root: Path) -> dict[str, str]:
        """Return a service's environment with these clocks in it."""
        hook = root / "tests" / "month" / "clock"
        return {**env, "PYTHONPATH": f"{hook}:{root}", "MONTH_CLOCK": str(self._python), "TZ": ZONE.key}

    def of_broker(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return the broker's environment with this wall clock in it."""
        return turned_by(self._c, env)
