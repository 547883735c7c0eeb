"""What the broker says to each PUBLISH (its PUBACK), and who waits for it.

Start at `Receipt`; `Receipts` brings each one to its callback.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Receipt:
    """What the broker said to a PUBLISH.

    Attributes:
        code: MQTT 5 reason code of the PUBACK; 0 success, 16 no matching subscribers, 128 and above refused;
            -1 where the message was never queued.
    """

    code: int
    text: str

    @property
    def accepted(self) -> bool:
        """The broker took it, whether or not anyone listens."""
        return 0 <= self.code < 128

    @property
    def reached_someone(self) -> bool:
        """The broker took it and at least one session will get it."""
        return self.code == 0


OnReceipt = Callable[[Receipt], None]


class Receipts:
    """The PUBLISHes of one client whose PUBACK is still to come, by packet identifier."""

    def __init__(self) -> None:
        # paho holds a lock of its own while it calls `arrived`, and publish() takes that one too: never hold this lock
        # around publish(). So a receipt may be here before who waits for it.
        self._lock = threading.Lock()
        self._waiting: dict[int, OnReceipt] = {}
        self._early: dict[int, Receipt] = {}

    def expect(self, mid: int, on_receipt: OnReceipt) -> None:
        """Note who waits for the receipt of a PUBLISH that was just queued; one that is here already is passed on."""
        with self._lock:
            receipt = self._early.pop(mid, None)
            if receipt is None:
                self._waiting[mid] = on_receipt
        if receipt is not None:
            on_receipt(receipt)

    def arrived(self, mid: int, receipt: Receipt) -> OnReceipt | None:
        """Return who waits for a receipt; None where nobody does so far: it is kept for who is about to."""
        with self._lock:
            waiting = self._waiting.pop(mid, None)
            if waiting is None:
                self._early[mid] = receipt
        return waiting

    def __len__(self) -> int:
        """Return how many PUBLISHes and receipts wait for each other."""
        return len(self._waiting) + len(self._early)


_refused = itertools.count(1)


def log_refusal(receipt: Receipt) -> None:
    """Log that a message nobody waits for was refused: the 1st, 10th, 100th ... time, as an outage brings many."""
    if not receipt.accepted:
        count = next(_refused)
        if str(count).strip("0") == "1":
            log.error("%d messages were refused or found no room to wait, the last one: %s", count, receipt.text)
