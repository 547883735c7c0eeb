"""Sets this process's wall clock wrong by what the file $CHAOS_CLOCK says; Python imports it at its start.

Only time.time() is turned, which is all that the services read the time of day with. Not a part of the product.
"""

import mmap
import os
import struct
import time

_path = os.environ.get("CHAOS_CLOCK")
if _path:
    with open(_path, "r+b") as _file:
        _offset = mmap.mmap(_file.fileno(), 8)
    _real = time.time

    def _wrong() -> float:
        return _real() + struct.unpack("d", _offset[:8])[0]

    time.time = _wrong
