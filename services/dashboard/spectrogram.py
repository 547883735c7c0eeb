"""The picture of a stream's last window: a mel tensor as a small PNG, made only while somebody looks.

A hundred streams of tensors are megabytes a second; so a stream's topic is subscribed when its picture is asked for and
left half a minute after the last time. Start at `Spectrograms`; `png` is the pure part.
"""

from __future__ import annotations

import struct
import threading
import time
import zlib

import numpy as np
from numpy.typing import NDArray

from services.contract.messages import Message
from services.contract.tensors import MelTensor
from services.contract.topics import Topics
from services.mqtt.client import MqttClient
from services.mqtt.reader import read

LOOKING_S = 30.0
MOST_WATCHED = 20
# Dark violet over red to pale yellow: even steps of lightness, so that it reads in grey and to the colour-blind too.
_ANCHORS = (
    (0, 0, 4),
    (40, 11, 84),
    (101, 21, 110),
    (159, 42, 99),
    (212, 72, 66),
    (245, 125, 21),
    (250, 193, 39),
    (252, 255, 164),
)


def _palette() -> bytes:
    """Return 256 colours, RGB."""
    at = np.linspace(0, len(_ANCHORS) - 1, 256)
    bands = [np.interp(at, np.arange(len(_ANCHORS)), channel) for channel in zip(*_ANCHORS, strict=True)]
    return bytes(np.stack(bands, axis=1).round().astype(np.uint8).tobytes())


_PALETTE = _palette()


def png(features: NDArray[np.float32]) -> bytes:
    """Return a picture of one window: time from left to right, low bands at the bottom.

    Args:
        features: float32, shape [frames, bands]; its quietest twentieth is black, its loudest value the lightest.
    """
    low, high = float(np.percentile(features, 5)), float(features.max())
    span = high - low if high > low else 1.0
    levels = (np.clip((features - low) / span, 0, 1) * 255).astype(np.uint8).T[::-1]
    height, width = levels.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter type, 0: none
    rows[:, 1:] = levels
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, data)
        for kind, data in (
            (b"IHDR", header),
            (b"PLTE", _PALETTE),
            (b"IDAT", zlib.compress(rows.tobytes(), 6)),
            (b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class Spectrograms:
    """The last window of the streams that are looked at."""

    def __init__(self, mqtt: MqttClient, topics: Topics) -> None:
        self._mqtt, self._topics = mqtt, topics
        self._lock = threading.Lock()
        self._looked_at: dict[str, float] = {}
        self._windows: dict[str, tuple[NDArray[np.float32], str, float]] = {}

    def look(self, stream: str) -> tuple[bytes, str, float] | None:
        """Return (PNG, recipe id, start of the window in s) of a stream's last window; None while there is none yet."""
        with self._lock:
            new = stream not in self._looked_at
            if new and len(self._looked_at) >= MOST_WATCHED:
                return None
            self._looked_at[stream] = time.monotonic()
            window = self._windows.get(stream)
        if new:
            read(self._mqtt, self._topics.mel("+", stream), self._take)
        return (png(window[0]), window[1], window[2]) if window else None

    def turn(self) -> None:
        """Leave the streams that nobody looks at any more."""
        now = time.monotonic()
        with self._lock:
            left = [stream for stream, at in self._looked_at.items() if now - at > LOOKING_S]
            for stream in left:
                del self._looked_at[stream]
                self._windows.pop(stream, None)
        for stream in left:
            self._mqtt.unsubscribe(self._topics.mel("+", stream))

    def _take(self, message: Message) -> None:
        tensor = MelTensor.from_message(message)
        header = tensor.header
        start_s = header.first_samples()[-1] / 22_050
        first = next(iter(tensor.views.values()))  # of several views the first is shown
        with self._lock:
            if header.stream in self._looked_at:
                self._windows[header.stream] = (first[-1].copy(), header.recipe, start_s)
