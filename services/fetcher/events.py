"""What the fetcher hears of a stream: the typed items that the HLS side hands to the delivery side.

The HLS side (`reader.py`) yields them in timeline order; the delivery side cuts windows, sends and counts.
Positions and lengths are in samples of 22,050 Hz mono on the stream's own timeline, which starts at 0 with the
first segment listened to and runs through gaps. All of it is values: no socket, no thread, no MQTT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.text import MOST_REASON, clean


@dataclass(frozen=True)
class ResumePoint:
    """A place in a stream from which it can be heard again, with the same epochs, positions and samples.

    Attributes:
        epoch: number of the epoch, from 0.
        epoch_first_sample: timeline position of that epoch's first sample.
        first_sample: timeline position of the first sample that listening from here gives.
        place: what the HLS side needs to find it again; JSON values only, opaque to everyone else.
    """

    epoch: int
    epoch_first_sample: int
    first_sample: int
    place: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """From where a source listens.

    Attributes:
        resume_point: listen again from here; None: from the beginning, or near the live edge.
        heard_until: timeline position up to which everything is accounted for; what continues nothing begins there.
    """

    resume_point: ResumePoint | None = None
    heard_until: int = 0


BEGINNING = Start()


@dataclass(frozen=True)
class EpochStarted:
    """A stretch of audio without a break begins: one decoder, one resampler, one grid of windows."""

    epoch: int
    first_sample: int
    reason: str


@dataclass(frozen=True)
class Audio:
    """Decoded audio of one segment, in order and without a break since the last one of its epoch.

    Attributes:
        pcm: int16, mono, 22,050 Hz, shape (samples,).
        received_at: Unix time at which the segment's last byte arrived.
        observed_at: wall clock (Unix time) of pcm[0], from EXT-X-PROGRAM-DATE-TIME; None where the stream has none.
        resume_point: where to listen again from to hear pcm[0] once more.
        live: the playlist has no end yet and forgets old segments; freshness then beats completeness.
    """

    epoch: int
    first_sample: int
    pcm: NDArray[np.int16]
    received_at: float
    observed_at: float | None
    resume_point: ResumePoint
    live: bool = False


@dataclass(frozen=True)
class EpochEnded:
    """The epoch is over; end_sample - its first_sample is exactly the number of samples heard in it."""

    epoch: int
    end_sample: int


@dataclass(frozen=True)
class Gap:
    """Audio that the source never delivered, `samples` long on the timeline (cause is one word, e.g. "http-404")."""

    first_sample: int
    samples: int
    cause: str
    detail: str

    def __post_init__(self) -> None:
        """Make harmless what a server said."""
        object.__setattr__(self, "detail", clean(self.detail, MOST_REASON))


@dataclass(frozen=True)
class Track:
    """What plays from first_sample on, from timed ID3 or EXTINF titles; empty strings where unknown."""

    first_sample: int
    title: str
    artist: str

    def __post_init__(self) -> None:
        """Make harmless what a stranger wrote, whichever kind of tag it stood in."""
        object.__setattr__(self, "title", clean(self.title))
        object.__setattr__(self, "artist", clean(self.artist))


@dataclass(frozen=True)
class Report:
    """Something a person may want to know that changes no sample: rendition chosen, list stalled, skipped to the edge.

    Attributes:
        kind: one word of a closed list that docs/streams.md explains.
        reason: one sentence.
        numbers: figures that go with it, e.g. {"bandwidth_saved_bps": 1_200_000}.
    """

    kind: str
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make harmless what a list calls a rendition, or a station itself."""
        object.__setattr__(self, "reason", clean(self.reason, MOST_REASON))


@dataclass(frozen=True)
class Ended:
    """The stream is over because its source says so (EXT-X-ENDLIST, or VOD); the timeline stops at end_sample.

    Attributes:
        resume_point: behind the last segment, for a list that goes on after all.
    """

    end_sample: int
    reason: str
    resume_point: ResumePoint | None = None


StreamEvent = EpochStarted | Audio | EpochEnded | Gap | Track | Report | Ended
