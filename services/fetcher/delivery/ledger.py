"""A stream's ledger: every sample of the timeline in exactly one place, in timeline order.

Entries are opened in order and settled in any order; the ledger is moved over an entry only when all before it are
settled, so what it says can be saved and begun from again. Thread-safe, no I/O. Start at `StreamLedger`.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from dataclasses import dataclass

from services.contract.messages import Ledger
from services.fetcher.delivery.in_flight import InFlightChunk
from services.fetcher.events import ResumePoint


@dataclass
class _Entry:
    samples: int
    place: str
    cause: str = ""
    windows: int = 0
    resume: ResumePoint | None = None
    settled: bool = True


def new_ledger(stream: str) -> Ledger:
    """Return the ledger of a timeline that begins now, with an identity of its own (48 bits of an RFC 4122 UUID)."""
    return Ledger(stream=stream, timeline_id=uuid.uuid4().hex[:12])


class StreamLedger:
    """The ledger of one stream.

    Args:
        ledger: where to begin; a fresh one, or the one saved at the frontier.
        resume: where to listen again from to continue after that ledger.
    """

    def __init__(self, ledger: Ledger, resume: ResumePoint | None = None) -> None:
        self._ledger, self._resume = ledger, resume
        self._entries: deque[_Entry] = deque()
        self._open: dict[str, _Entry] = {}
        self._ended = ledger.ended
        self._beyond: ResumePoint | None = None
        self._lock = threading.Lock()

    def chunk(self, in_flight: InFlightChunk) -> None:
        """Open an entry that waits for its ack."""
        with self._lock:
            windows, resume = in_flight.chunk.header.windows, in_flight.resume_point
            entry = _Entry(in_flight.covers, "classified", windows=windows, resume=resume, settled=False)
            self._entries.append(entry)
            self._open[in_flight.id] = entry

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

    def end(self, resume: ResumePoint | None = None) -> None:
        """Note that nothing more will be opened; `resume` is where a stream that goes on after all would do so."""
        with self._lock:
            self._ended, self._beyond = True, resume
            self._advance()

    def go_on(self) -> None:
        """Note that a stream that had ended goes on."""
        with self._lock:
            self._ended = False
            self._advance()

    def failing(self, reason: str) -> None:
        """Note why the stream can't be heard at present; '' where it is heard again."""
        with self._lock:
            self._ledger = self._ledger.model_copy(update={"failed": reason})

    def begin_again_from(self, resume_point: ResumePoint) -> None:
        """Offer a place to listen again from; taken where everything before it is settled."""
        with self._lock:
            if not self._entries and resume_point.first_sample <= self._ledger.timeline:
                self._resume = resume_point

    def saved(self) -> tuple[Ledger, ResumePoint | None]:
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
        if values["ended"]:
            self._resume, self._beyond = self._beyond or self._resume, None
        self._ledger = Ledger.model_construct(**values)
