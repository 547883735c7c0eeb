"""Audio in, chunks of whole windows out: the one grid of windows an epoch has, and what each window newly covers.

Pure: no clock, no MQTT, no thread. The grid starts at the epoch's first sample; window i begins at i * hop. What a
window adds to the ledger are the samples that no window before it covered. Start at `Windower.audio`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.contract.chunks import MAX_PAYLOAD_BYTES, TENSOR_WINDOW_BYTES, Chunk, ChunkHeader
from services.contract.windows import SAMPLE_RATE, WINDOW
from services.fetcher.delivery.in_flight import InFlightChunk
from services.fetcher.events import Audio, EpochStarted, Track

SHORTEST = SAMPLE_RATE
"""An epoch of 1 s or more is repeated to fill a window; a shorter one is not classified."""


def windows_that_fit(payload_bytes: int | None, hop: int, most: int) -> int:
    """Return how many windows, at most `most`, fit a payload as PCM and as the tensor that is made of them; 0: none.

    Args:
        payload_bytes: what the broker takes; None: anything. The contract's own limit holds besides: featurizers take
            no larger message, and windows far apart reach it with fewer of them.
        hop: samples between windows.
    """
    limit = min(MAX_PAYLOAD_BYTES, payload_bytes) if payload_bytes is not None else MAX_PAYLOAD_BYTES
    as_pcm = (limit // 2 - WINDOW) // hop + 1
    return max(0, min(most, as_pcm, limit // TENSOR_WINDOW_BYTES))


@dataclass(frozen=True)
class Short:
    """An epoch too short to classify."""

    samples: int


class Windower:
    """Cuts one stream's epochs into chunks.

    Args:
        stream: its name.
        hop: samples between windows.
        most: most windows in a chunk.
        frontier: timeline position up to which everything is accounted for already (after a restart).
        timeline_id: identity of its timeline.
        reply_to: topic that the acks of its chunks come to.
    """

    def __init__(
        self, stream: str, hop: int, most: int, frontier: int = 0, timeline_id: str = "", reply_to: str = ""
    ) -> None:
        self._stream, self._hop, self._most = stream, hop, most
        self._frontier, self._timeline_id, self._reply_to = frontier, timeline_id, reply_to
        self._tracks: deque[Track] = deque([Track(0, "", "")])
        self._epoch = -1
        self._start = 0
        self._next = 0
        self._covered = 0
        self._end = 0
        self._pieces: deque[Audio] = deque()

    @property
    def heard(self) -> int:
        """Timeline position up to which audio came in."""
        return self._end

    def track(self, track: Track) -> None:
        """Note what plays from a position on."""
        self._tracks.append(track)

    def start(self, started: EpochStarted) -> None:
        """Begin an epoch; windows that lie before the frontier are not cut again."""
        self._epoch, self._start = started.epoch, started.first_sample
        self._pieces.clear()
        self._end = self._start
        self._covered = max(self._start, self._frontier)
        done = self._covered - self._start
        self._next = (done - WINDOW) // self._hop + 1 if done >= WINDOW else 0

    def audio(self, piece: Audio) -> list[InFlightChunk]:
        """Take a piece of the current epoch and return every chunk that is complete now."""
        if not self._pieces:
            self._end = piece.first_sample
        if piece.first_sample != self._end:
            raise ValueError(f"audio at {piece.first_sample} does not follow {self._end}")
        self._pieces.append(piece)
        self._end += piece.pcm.size
        ready = max(0, (self._end - self._start - WINDOW) // self._hop + 1) - self._next
        chunks = []
        while ready > 0:
            count = self._alike(self._next, min(ready, self._most))
            chunks.append(self._cut(self._start + self._next * self._hop, count))
            self._next += count
            ready -= count
        self._forget()
        return chunks

    def finish(self, end_sample: int) -> InFlightChunk | Short | None:
        """End the epoch: its last window is moved back to end with the audio; a short epoch is repeated or counted."""
        samples = end_sample - self._start
        if end_sample <= self._covered:
            return None
        if samples >= WINDOW:
            return self._cut(end_sample - WINDOW, 1)
        if samples >= SHORTEST and self._pieces:
            return self._padded(samples)
        covers = end_sample - self._covered
        self._covered = end_sample
        return Short(covers)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _cut(self, first: int, count: int) -> InFlightChunk:
        samples = WINDOW + (count - 1) * self._hop
        pcm = self._read(first, first + samples)
        return self._made(first, count, pcm, first + samples, filled_from=0)

    def _padded(self, samples: int) -> InFlightChunk:
        pcm = np.resize(self._read(self._start, self._start + samples), WINDOW)
        return self._made(self._start, 1, pcm, self._start + samples, filled_from=samples)

    def _made(self, first: int, count: int, pcm: NDArray[np.int16], end: int, *, filled_from: int) -> InFlightChunk:
        piece = self._piece_at(first)
        track = self._track_at(first + WINDOW // 2)
        wall_clock = piece.received_at
        if piece.observed_at is not None:
            wall_clock = piece.observed_at + (first - piece.first_sample) / SAMPLE_RATE
        header = ChunkHeader(
            stream=self._stream,
            timeline_id=self._timeline_id,
            epoch=self._epoch,
            first_sample=first,
            windows=count,
            hop=self._hop,
            filled_from=filled_from,
            received_at=self._pieces[-1].received_at,
            observed_at=round(wall_clock, 3),
            title=track.title,
            artist=track.artist,
        )
        covers, self._covered = end - self._covered, end
        return InFlightChunk(Chunk(header, pcm, self._reply_to), covers, piece.resume_point, self._pieces[-1].live)

    def _read(self, first: int, end: int) -> NDArray[np.int16]:
        parts = [
            piece.pcm[max(0, first - piece.first_sample) : end - piece.first_sample]
            for piece in self._pieces
            if piece.first_sample < end and piece.first_sample + piece.pcm.size > first
        ]
        pcm = np.concatenate(parts)
        if pcm.size != end - first:
            raise ValueError(f"audio from {first} to {end} is not in hand")
        return pcm

    def _piece_at(self, sample: int) -> Audio:
        return next(p for p in self._pieces if p.first_sample <= sample < p.first_sample + p.pcm.size)

    def _forget(self) -> None:
        """Keep what a later window can need: the next one ends after all that was heard, a moved-back one with it."""
        needed = max(self._start, self._end - WINDOW)
        while len(self._pieces) > 1 and self._pieces[0].first_sample + self._pieces[0].pcm.size <= needed:
            self._pieces.popleft()
        self._shorten(needed)
        while len(self._tracks) > 1 and self._tracks[1].first_sample <= needed:
            self._tracks.popleft()

    def _shorten(self, needed: int) -> None:
        """Copy what is needed of the first piece: a view would keep all of it, twice as much of segments of 6 s."""
        piece = self._pieces[0]
        over = needed - piece.first_sample
        if over <= piece.pcm.size // 8:
            return  # the copy would hardly be shorter
        observed_at = None if piece.observed_at is None else piece.observed_at + over / SAMPLE_RATE
        self._pieces[0] = replace(piece, first_sample=needed, pcm=piece.pcm[over:].copy(), observed_at=observed_at)

    def _alike(self, index: int, count: int) -> int:
        """Return how many of the next windows belong to one track."""
        middles = [self._start + (index + i) * self._hop + WINDOW // 2 for i in range(count)]
        track = self._track_at(middles[0])
        return next((i for i, middle in enumerate(middles) if self._track_at(middle) is not track), count)

    def _track_at(self, sample: int) -> Track:
        found = self._tracks[0]
        for track in self._tracks:
            if track.first_sample <= sample:
                found = track
        return found
