"""How fast passwords may be guessed, by address, so that nobody can lock the others out. Start at `Guesses`."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict

FREE_TRIES = 5
LONGEST_WAIT_S = 60.0
FORGET_S = 900.0
"""Without a wrong guess for this long, an address begins again. A right one does not forgive the others."""
MOST_SOURCES = 10_000


class Guesses:
    """Wrong guesses by source; not safe for several threads at once."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Return how long this address has to wait before its next guess; 0 where it need not."""
        count, at = self._wrong.get(_source(address), (0, 0.0))
        if count < FREE_TRIES:
            return 0.0
        pause = min(LONGEST_WAIT_S, 2.0 ** min(count - FREE_TRIES, 10))
        return max(0.0, at + pause - time.monotonic())

    def wrong(self, address: str) -> None:
        """Note a wrong guess."""
        source, now = _source(address), time.monotonic()
        count, at = self._wrong.pop(source, (0, now))
        self._wrong[source] = (1 if now - at > FORGET_S else count + 1, now)
        if len(self._wrong) > MOST_SOURCES:
            self._wrong.popitem(last=False)


def _source(address: str) -> str:
    """Return who an address stands for: itself, or in IPv6 its network, which one household has whole."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 6 and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
