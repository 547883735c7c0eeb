"""Turns this process's clocks by what the file $MONTH_CLOCK says; Python imports it at its start. Not the product's.

Two doubles: by how many seconds the wall clock is set wrong, and for how many the machine has slept. Sleep moves the
wall clock and CLOCK_BOOTTIME, but not the monotonic clock; setting the wall clock moves that alone. As Linux does.
"""

import mmap
import os
import struct
import time

_path = os.environ.get("MONTH_CLOCK")
if _path:
    with open(_path, "r+b") as _file:
        _offsets = mmap.mmap(_file.fileno(), 16)
    _time, _clock_gettime = time.time, time.clock_gettime

    def _now() -> float:
        wrong, slept = struct.unpack("2d", _offsets[:16])
        return _time() + wrong + slept

    def _gettime(clock: int) -> float:
        wrong, slept = struct.unpack("2d", _offsets[:16])
        if clock == time.CLOCK_REALTIME:
            return _clock_gettime(clock) + wrong + slept
        return _clock_gettime(clock) + (slept if clock == time.CLOCK_BOOTTIME else 0.0)

    time.time, time.clock_gettime = _now, _gettime
