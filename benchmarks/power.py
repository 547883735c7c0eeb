"""Power and GPU use of a Jetson, from the INA3221 monitors and the GPU's load file in sysfs: what tegrastats reads.

Elsewhere there is nothing to read: `Meter.read` gives None. The paths follow NVIDIA's documentation for JetPack 4
(iio) and 5 and 6 (hwmon); they were not run on a Jetson. Start at `Meter`.
"""

from __future__ import annotations

import statistics
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

EVERY_S = 0.2
_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN", "5V_IN", "SYS5V_IN", "VDD_SYS_IN")
"""The rail before all others; where none has such a name (AGX boards), the rails are summed."""


@dataclass(frozen=True)
class Drawn:
    """What a Jetson drew while a meter was open: means over the samples.

    Attributes:
        watts: of the whole board, or of all monitored rails where there is none for it.
        gpu: share of the GPU's time in use, 0..1; None where its load file is missing.
    """

    watts: float
    gpu: float | None
    samples: int


class Meter:
    """Samples power and GPU use in a thread for as long as it is open.

    Example:
        >>> with Meter() as meter:
        ...     work = sum(range(1000))
        >>> meter.read() is None or meter.read().watts > 0
        True
    """

    def __init__(self, sys: Path = Path("/sys")) -> None:
        self._sys = sys
        self._watts: list[float] = []
        self._gpu: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Meter:
        self._sample()
        if self._watts:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2)

    def read(self) -> Drawn | None:
        """Return the means so far; None on a machine without these monitors."""
        if not self._watts:
            return None
        gpu = statistics.fmean(self._gpu) if self._gpu else None
        return Drawn(statistics.fmean(self._watts), gpu, len(self._watts))

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._sample()

    def _sample(self) -> None:
        rails = rails_w(self._sys)
        if rails:
            whole = next((rails[name] for name in _WHOLE_BOARD if name in rails), None)
            self._watts.append(sum(rails.values()) if whole is None else whole)
        load = gpu_load(self._sys)
        if load is not None:
            self._gpu.append(load)


def rails_w(sys: Path = Path("/sys")) -> dict[str, float]:
    """Return the watts of each rail of every INA3221 there is, by the rail's name."""
    rails: dict[str, float] = {}
    for label in sys.glob("bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label"):  # JetPack 5 and 6
        number = label.name.removeprefix("in").removesuffix("_label")
        volts, amperes = (_number(label.with_name(f"{kind}{number}_input")) for kind in ("in", "curr"))
        if volts is not None and amperes is not None:
            rails[_text(label)] = volts * amperes / 1e6  # mV and mA
    for label in sys.glob("bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*"):  # JetPack 4
        milliwatts = _number(label.with_name(f"in_power{label.name.rsplit('_', 1)[1]}_input"))
        if milliwatts is not None:
            rails[_text(label)] = milliwatts / 1e3
    return rails


def gpu_load(sys: Path = Path("/sys")) -> float | None:
    """Return the share of the GPU's time in use, 0..1; None where its load file is missing."""
    for pattern in ("devices/gpu.0/load", "devices/platform/gpu.0/load", "devices/platform/*.gpu/load",
                    "devices/platform/bus@0/*.gpu/load"):  # fmt: skip
        for file in sys.glob(pattern):
            load = _number(file)
            if load is not None:
                return load / 1000
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(file: Path) -> float | None:
    try:
        return float(_text(file))
    except ValueError:
        return None
