"""Decoder and resampler of one epoch: packets in, native samples and 22,050 Hz mono int16 out.

Both keep state across segments, so an epoch has exactly one of each: a fresh decoder per segment is heard as clicks.
Deterministic: the same packets give the same samples, bit for bit. Start at `Decoder` and `Resampler`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import av
import av.error
import numpy as np
import soxr
from numpy.typing import NDArray

from services.fetcher.heard import SAMPLE_RATE

LOWEST_RATE, HIGHEST_RATE, MOST_CHANNELS = 4_000, 384_000, 32
FULL_SCALE = 32_768.0


@dataclass(frozen=True)
class Frame:
    """A decoded frame: one float32 array a channel, full scale 1.0; pts in ticks of its packet's time base."""

    rate: int
    channels: tuple[NDArray[np.float32], ...]
    pts: int | None = None

    @property
    def samples(self) -> int:
        """Return its length in native samples."""
        return len(self.channels[0])


class Decoder:
    """A codec that lives for one epoch.

    Args:
        codec: libav's name of the decoder, e.g. "aac", "mp3float" (the one named "mp3" computes in fixed point).
        extradata: from the container, where the codec needs it.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        context = av.CodecContext.create(codec, "r")
        assert isinstance(context, av.AudioCodecContext)
        if extradata:
            context.extradata = extradata
        # One thread a decoder: hundreds of streams share the cores, and audio frames are too small to share out.
        context.thread_count = 1
        if codec in ("ac3", "eac3"):
            # Noise for the bands that were not coded comes from the frame's own bytes, not from the decoder's past:
            # then a restart in mid-epoch gives the same samples.
            context.options = {"cons_noisegen": "1"}
        self._context = context

    def decode(self, packet: av.Packet | None) -> list[Frame]:
        """Decode a packet; None drains what the codec still holds.

        Raises:
            av.error.FFmpegError: the packet is damaged; later ones may be fine.
        """
        return [_frame(frame) for frame in self._context.decode(packet) if frame.samples]


def _frame(frame: av.AudioFrame) -> Frame:
    """Take the samples out of a libav frame, as float32 a channel."""
    kind, count = frame.format.name, frame.samples
    channels = frame.layout.nb_channels
    if not (LOWEST_RATE <= frame.sample_rate <= HIGHEST_RATE and 0 < channels <= MOST_CHANNELS):
        raise av.error.InvalidDataError(0, f"{frame.sample_rate} Hz, {channels} channels")
    if kind == "fltp":  # what AAC, MP3, AC-3 and Opus give: no copy
        planes = tuple(np.frombuffer(plane, np.float32, count) for plane in frame.planes)
        return Frame(frame.sample_rate, planes, frame.pts)
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, channels).T
    if samples.dtype == np.uint8:
        scaled = (samples.astype(np.float32) - 128.0) / 128.0
    elif samples.dtype.kind == "i":
        scaled = (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    else:
        scaled = samples.astype(np.float32)
    return Frame(frame.sample_rate, tuple(scaled), frame.pts)


def joined(frames: list[Frame]) -> NDArray[np.float32]:
    """Join frames of one format: shape (channels, samples)."""
    if not frames:
        return np.zeros((1, 0), np.float32)
    return np.stack([np.concatenate(channel) for channel in zip(*(frame.channels for frame in frames), strict=True)])


def mono(native: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mix to mono: the mean of all channels. What a broken stream makes of NaN and infinity becomes silence."""
    mixed: NDArray[np.float64] = native[0].astype(np.float64)
    for channel in native[1:]:
        mixed += channel
    if len(native) > 1:
        mixed /= len(native)
    if mixed.size and not np.isfinite(mixed.sum()):
        mixed = np.nan_to_num(mixed, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(mixed, -16.0, 16.0, out=mixed)


def to_int16(samples: NDArray[np.floating]) -> NDArray[np.int16]:
    """Round to 16 bits as libswresample does: nearest, clipped, without dither."""
    rounded: NDArray[np.int16] = np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    return rounded


class Resampler:
    """Native rate to 22,050 Hz, for one epoch.

    Double precision (soxr "VHQ"), so that a restart in mid-epoch, aligned by `aligned`, differs by less than 1e-9 of
    full scale and rounds to the same 16 bits but for about one sample in 100,000.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._stream = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float64", "VHQ")

    def feed(self, samples: NDArray[np.float64]) -> NDArray[np.int16]:
        """Resample; the output lags the input by the filter's length, a few milliseconds."""
        if self._stream is not None:
            samples = self._stream.resample_chunk(samples)
        return to_int16(samples)

    def drain(self) -> NDArray[np.int16]:
        """Return what is still in the filter; call once, at the end."""
        if self._stream is None:
            return np.zeros(0, np.int16)
        return to_int16(self._stream.resample_chunk(np.zeros(0), last=True))


def aligned(native: int, rate: int) -> tuple[int, int]:
    """Find the first native sample from here on that falls on a sample of 22,050 Hz.

    Returns:
        How many native samples to leave out, and the 22,050 Hz sample that the next one is.
    """
    step = rate // gcd(rate, SAMPLE_RATE)
    skip = -native % step
    return skip, (native + skip) * SAMPLE_RATE // rate
