"""A chunk on its way to its ack: what is known of it, when its ack is overdue, and its letter when it is given up.

Values and arithmetic, no MQTT; who sends and settles is the chunk sender (sender.py). Start at `InFlightChunk`.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

from services.contract.chunks import Chunk
from services.contract.messages import Dead
from services.contract.topics import Topics
from services.fetcher.events import ResumePoint
from services.text import utc

MOST_BACKOFF = 4.0
"""A chunk that is sent again and again waits up to this many timeouts: few copies queue at a replica that is stuck."""
SILENT_BROKER_S = 60.0
"""A PUBACK that takes longer, on a connection that is up, will not come."""


class RetransmissionTimer:
    """How long to wait for an ack, learned from those that came (RFC 6298, with Karn's rule left to the caller)."""

    def __init__(self, least_s: float, most_s: float) -> None:
        self._least_s, self._most_s = least_s, most_s
        self._smoothed: float | None = None
        self._variation = 0.0

    def learn(self, seconds: float) -> None:
        """Take in one measured wait."""
        if self._smoothed is None:
            self._smoothed, self._variation = seconds, seconds / 2
        else:
            self._variation = 0.75 * self._variation + 0.25 * abs(self._smoothed - seconds)
            self._smoothed = 0.875 * self._smoothed + 0.125 * seconds

    @property
    def timeout_s(self) -> float:
        """The wait after which a chunk is overdue."""
        if self._smoothed is None:
            return self._least_s
        return min(max(self._smoothed + 4 * self._variation, self._least_s), self._most_s)


@dataclass(frozen=True)
class Lost:
    """Why a chunk was given up: one word for the ledger, one sentence for a person."""

    cause: str
    reason: str


@dataclass(eq=False)
class InFlightChunk:
    """One chunk from the windower to its ack: what it means for the ledger, and how far it is known to have come.

    Attributes:
        covers: samples of the timeline that this chunk covers and no earlier one did.
        resume_point: where to listen again from, should everything after this chunk have to be done again.
        live: freshness beats completeness for this audio.
        heard, first_sent, last_sent, acked_at: monotonic times, set by the chunk sender; 0 before.
    """

    chunk: Chunk
    covers: int
    resume_point: ResumePoint
    live: bool
    heard: float = 0.0
    first_sent: float = 0.0
    last_sent: float = 0.0
    attempts: int = 1
    overtaken: int = 0
    with_broker: bool = False
    unheard: bool = False
    refused: bool = False
    unsent: bool = False
    featurized: bool = False
    acked_at: float = 0.0
    outcome: Lost | None = None

    @property
    def id(self) -> str:
        """The chunk's id."""
        return self.chunk.header.chunk

    @property
    def stream(self) -> str:
        """Name of its stream."""
        return self.chunk.header.stream

    def overdue(self, now: float, timeout_s: float) -> bool:
        """Say whether its ack should be here by now; each time it was overtaken it may take twice as long."""
        patience_s = timeout_s * min(2.0**self.overtaken, MOST_BACKOFF)
        return now - self.last_sent > (patience_s if self.with_broker else SILENT_BROKER_S + patience_s)


def dead_letter(chunk: Chunk, reason: str, fetcher: str, topics: Topics) -> Dead:
    """Return what is published of a chunk that was given up."""
    return Dead(
        at=utc(time.time()),
        service="fetcher",
        instance=fetcher,
        topic=topics.pcm(chunk.header.stream),
        reason=reason,
        chunk=chunk.header.chunk,
        payload_bytes=chunk.pcm.nbytes,
        payload_sha256=hashlib.sha256(chunk.pcm.tobytes()).hexdigest(),
    )
