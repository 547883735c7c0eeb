"""Hear a station until a condition holds, with its native samples; and what ffmpeg makes of the same bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.fetcher.events import ResumePoint, Start
from services.fetcher.media.decoder import Native, to_int16
from services.fetcher.source import StreamSource
from services.settings.schema import Stream
from tests.fetcher.builders import Listened, ffmpeg, hls


@dataclass
class Station(Listened):
    """What was heard of a station."""

    native: dict[int, list[NDArray[np.int16]]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return sum(len(item.pcm) for item in self.audio) / 22_050

    def samples(self, epoch: int) -> NDArray[np.int16]:
        """Return an epoch's samples at its native rate, shape (samples, channels)."""
        return np.concatenate(self.native[epoch])

    def note(self, epoch: int, rate: int, native: Native) -> None:
        self.native.setdefault(epoch, []).append(to_int16(np.stack(native, axis=1)))


def hear(
    url: str,
    until: Callable[[Station], bool],
    within_s: float = 30.0,
    resume: ResumePoint | None = None,
    start: int = 0,
    **changes: Any,
) -> Station:
    """Hear until the condition holds after an item; the ledger is checked."""
    heard, stop = Station(), threading.Event()
    deadline = threading.Timer(within_s, stop.set)
    deadline.start()
    source = StreamSource(Stream(name="test", url=url), hls(**changes), stop, Start(resume), heard.note)
    items = source.listen()
    try:
        for item in items:
            heard.items.append(item)
            if until(heard):
                break
        else:
            assert not stop.is_set(), f"not within {within_s:g} s: {heard.reports}, {heard.seconds:.1f} s heard"
    finally:
        deadline.cancel()
        items.close()  # type: ignore[attr-defined]
        source.close()
    heard.check_ledger(start)
    return heard


def oracle(data: bytes, format: str) -> NDArray[np.int16]:
    """Return ffmpeg's decode of the bytes, native rate, stereo."""
    raw = ffmpeg("-f", format, "-i", "-", "-f", "s16le", "-ac", "2", "-", stdin=data)
    return np.frombuffer(raw, "<i2").reshape(-1, 2)


def same(ours: NDArray[np.int16], theirs: NDArray[np.int16]) -> bool:
    """Say whether samples are those of ffmpeg, as far as ours go: but for one unit in one of 1,000."""
    assert 0 < len(ours) <= len(theirs), (len(ours), len(theirs))
    apart = np.abs(ours.astype(np.int32) - theirs[: len(ours)])
    return int(apart.max()) <= 1 and float(np.mean(apart > 0)) <= 0.001
