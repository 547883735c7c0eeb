"""A stream's ledger: every sample of the timeline in exactly one place, in timeline order.

Entries are opened in order and settled in any order; the ledger is moved over an entry only when all before it are
settled, so what it says can be saved and begun from again. Thread-safe, no I/O. Start at `Account`.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from services.contract import Ledger
from services.fetcher.heard import Bookmark


@dataclass
class _Entry:
    samples: int
    place: str
    cause: str = ""
    windows: int = 0
    chunk: str | None = None
    resume: Bookmark | None = None
    settled: bool = True


class Account:
    """The ledger of one stream.

    Args:
        ledger: where to begin; a fresh one, or the one saved at the frontier.
        resume: where to listen again from to continue after that ledger.
    """

    def __init__(self, ledger: Ledger, resume: Bookmark | None = None) -> None:
        self._ledger, self._resume = ledger, resume
        self._entries: deque[_Entry] = deque()
        self._open: dict[str, _Entry] = {}
        self._ended = ledger.ended
        self._lock = threading.Lock()

    def chunk(self, chunk: str, covers: int, windows: int, resume: Bookmark) -> None:
        """Open an entry that waits for its ack."""
        with self._lock:
            entry = _Entry(covers, "classified", windows=windows, chunk=chunk, resume=resume, settled=False)
            self._entries.append(entry)
            self._open[chunk] = entry

    def gap(self, samples: int, cause: str) -> None:
        """Enter samples that the source never delivered."""
        self._closed(_Entry(samples, "gap", cause))

    def short(self, samples: int) -> None:
        """Enter samples of an epoch too short to classify."""
        self._closed(_Entry(samples, "short"))

    def lost(self, samples: int, cause: str) -> None:
        """Enter samples that were given up before they became a chunk."""
        self._closed(_Entry(samples, "lost", cause))

    def settle(self, chunk: str, lost_cause: str = "") -> int:
        """Close a chunk's entry, as classified or, where a cause is given, as lost.

        Returns:
            The samples it covers; 0 where it is not open (a duplicate ack).
        """
        with self._lock:
            entry = self._open.pop(chunk, None)
            if entry is None:
                return 0
            if lost_cause:
                entry.place, entry.cause, entry.windows = "lost", lost_cause, 0
            entry.settled = True
            self._advance()
            return entry.samples

    def end(self) -> None:
        """Note that nothing more will be opened."""
        with self._lock:
            self._ended = True
            self._advance()

    def fail(self, reason: str) -> None:
        """Note that nothing more will be opened because the stream can't be heard."""
        with self._lock:
            self._ledger = self._ledger.model_copy(update={"failed": reason})
            self._ended = True
            self._advance()

    def begin_again_from(self, bookmark: Bookmark) -> None:
        """Offer a place to listen again from; taken where everything before it is settled."""
        with self._lock:
            if not self._entries and bookmark.first_sample <= self._ledger.timeline:
                self._resume = bookmark

    def saved(self) -> tuple[Ledger, Bookmark | None]:
        """Return the ledger at the frontier and where to continue from: what a restart needs."""
        with self._lock:
            in_flight = sum(entry.samples for entry in self._entries)
            return self._ledger.model_copy(update={"in_flight": in_flight}), self._resume

    def _closed(self, entry: _Entry) -> None:
        with self._lock:
            self._entries.append(entry)
            self._advance()

    def _advance(self) -> None:
        values = self._ledger.model_dump()
        while self._entries and self._entries[0].settled:
            entry = self._entries.popleft()
            values["timeline"] += entry.samples
            values[entry.place] += entry.samples
            values["windows"] += entry.windows
            if entry.cause and entry.samples:
                values["causes"][entry.cause] = values["causes"].get(entry.cause, 0) + entry.samples
            self._resume = entry.resume or self._resume
        values["ended"] = self._ended and not self._entries
        self._ledger = Ledger.model_construct(**values)
