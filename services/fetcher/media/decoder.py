"""Decoder and resampler of one epoch: packets in, native samples and 22,050 Hz mono int16 out.

Both keep state across segments, so an epoch has exactly one of each: a fresh decoder per segment is heard as clicks.
Deterministic: the same packets give the same samples, bit for bit. Start at `Decoder` and `Resampler`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from math import gcd

import av
import av.error
import numpy as np
import soxr
from numpy.typing import NDArray

from services.contract.windows import SAMPLE_RATE
from services.fetcher.media import frames

LOWEST_RATE, HIGHEST_RATE, MOST_CHANNELS = 4_000, 384_000, 32
FULL_SCALE = 32_768.0
# No decoder gives more of good data; a filter would spread a broken value over its neighbours.
LOUDEST = 16.0
# soxr keeps buffers for the longest piece it was ever given, in double precision. Only a stream that decodes has them,
# so they may be this long: pieces of 4,096 cost 5 % more time to decode and resample.
RESAMPLED_AT_ONCE = 8_192
# A resampler that rests takes 0.15 CPU-ms to wake up: after less audio than this it stays awake.
REST_AFTER_S = 3.0
# It wakes up so long before its next sample. Its filter is 20 ms long; of the samples after them none rounds otherwise,
# but for one of 140,000 at 4,000 Hz (noise, nine rates).
RUN_UP_S = 0.05
# What it keeps for that: it lags by 20 to 110 ms; where it lags by more, it does not rest.
KEPT_S = 0.2
# Samples at the native rate: one float32 array a channel.
Native = tuple[NDArray[np.float32], ...]


class FormatChangedError(Exception):
    """A packet decodes to another rate or number of channels than those before it."""


class Decoder:
    """A codec that lives for one epoch, and the samples it gave that were not yet taken.

    Args:
        codec: libav's name of the decoder, e.g. "aac", "mp3float" (the one named "mp3" computes in fixed point).
        extradata: from the container, where the codec needs it.

    Attributes:
        rate, channels: of its output; 0 before the first frame.
        first_pts: timestamp of the first frame, in ticks of its packet.
        waiting: native samples that `take` would return.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._codec, self._extradata = codec, extradata
        self._open()
        self._last: av.Packet | None = None
        self._fifo: av.AudioFifo | None = None
        self.rate = self.channels = self.waiting = 0
        self.first_pts: int | None = None
        self._form: tuple[int, int, str] | None = None

    def _open(self) -> None:
        """Make libav's decoder."""
        codec = self._codec
        context = av.CodecContext.create(codec, "r")
        assert isinstance(context, av.AudioCodecContext)
        if self._extradata:
            context.extradata = self._extradata
        # One thread a decoder: hundreds of streams share the cores, and audio frames are too small to share out.
        context.thread_count = 1
        if codec in ("ac3", "eac3"):
            # Noise for the bands that were not coded comes from the frame's own bytes, not from the decoder's past:
            # then a restart in mid-epoch gives the same samples.
            context.options = {"cons_noisegen": "1"}
        self._context = context
        self._decode = context.decode

    def decode(self, packet: av.Packet | None) -> int:
        """Decode a packet and keep its samples; None drains what the codec still holds.

        Returns:
            The number of native samples that it gave.

        Raises:
            FormatChangedError: it belongs to another epoch; nothing of it was kept.
            av.error.FFmpegError: the packet is damaged and nothing of it was kept; later ones may be fine.
        """
        given = self._keep(self._decode(packet))
        self._last = packet
        return given

    def rewind(self, changed: bool) -> None:
        """Undo a failed `decode` of several frames of AAC, so that they can be decoded one by one.

        libav does not give back what came before the damaged frame. A frame overlaps with the one before it, so that
        is decoded again and dropped.

        Args:
            changed: the format changed among them; a decoder that has met HE-AAC takes all that follows for it.
        """
        if changed:
            self._open()
        else:
            self._context.flush_buffers()
        if self._last is not None:
            data, at = bytes(self._last), 0
            while (header := frames.adts(data, at)) is not None and at + header.length < len(data):
                at += header.length
            with contextlib.suppress(av.error.FFmpegError):
                self._decode(av.Packet(data[at:]))

    def _keep(self, decoded: Sequence[av.AudioFrame]) -> int:
        """Keep the samples of frames, of all or of none; return how many there are."""
        for frame in decoded:
            form = (frame.sample_rate, frame.layout.nb_channels, frame.format.name)
            if form != self._form:
                # Not left to the FIFO: it does not look at the channels, and reads planes that are not there.
                if self.rate:
                    raise FormatChangedError
                self._begin(frame, form)
        given = 0
        for frame in decoded:
            if self._fifo is None:
                self._fifo = av.AudioFifo()
            frame.pts = None  # else the FIFO insists on timestamps without the least jitter
            self._fifo.write(frame)
            given += frame.samples
        self.waiting += given
        return given

    def _begin(self, frame: av.AudioFrame, form: tuple[int, int, str]) -> None:
        """Take the format from the first frame."""
        rate, channels, _ = form
        if not (LOWEST_RATE <= rate <= HIGHEST_RATE and 0 < channels <= MOST_CHANNELS):
            raise av.error.InvalidDataError(0, f"{rate} Hz, {channels} channels")
        self._form, self.rate, self.channels, self.first_pts = form, rate, channels, frame.pts

    def take(self, segment_ends: bool = False) -> Native:
        """Return the samples kept so far, full scale 1.0.

        One FIFO in C joins the frames: an array a frame costs more than decoding it. It is given up where a segment
        ends: it would keep its memory, times hundreds of streams.
        """
        frame = self._fifo.read() if self._fifo is not None and self.waiting else None
        self.waiting = 0
        if segment_ends:
            self._fifo = None
        return () if frame is None else floats(frame)


def floats(frame: av.AudioFrame) -> Native:
    """Return the samples of a frame as float32, full scale 1.0."""
    if frame.format.name == "fltp":  # what AAC, MP3, AC-3 and Opus give: no copy
        # With 8 channels PyAV lists planes beyond the last one, at addresses that are none.
        planes = frame.planes[: frame.layout.nb_channels]
        return tuple(np.frombuffer(plane, np.float32, frame.samples) for plane in planes)
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    scaled = samples.astype(np.float32)
    if samples.dtype.kind == "u":
        scaled = (scaled - np.float32(128.0)) / np.float32(128.0)
    elif samples.dtype.kind == "i":
        scaled = (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    return tuple(scaled)


def mono(native: Native) -> NDArray[np.float32]:
    """Mix to mono: the mean of all channels. What a broken stream makes of NaN and infinity becomes silence."""
    mixed = native[0] + native[1] if len(native) > 1 else np.array(native[0])
    for channel in native[2:]:
        mixed += channel
    if len(native) > 1:
        mixed *= np.float32(1 / len(native))
    if not np.dot(mixed, mixed) <= LOUDEST**2 * mixed.size:
        mixed = np.clip(np.nan_to_num(mixed, nan=0.0, posinf=0.0, neginf=0.0), -LOUDEST, LOUDEST)
    return mixed


def to_int16(samples: NDArray[np.floating]) -> NDArray[np.int16]:
    """Round to 16 bits as libswresample does: nearest, clipped, without dither."""
    scaled = samples * np.float32(FULL_SCALE)
    np.rint(scaled, out=scaled)
    rounded: NDArray[np.int16] = np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1, out=scaled).astype(np.int16)
    return rounded


class Resampler:
    """Native rate to 22,050 Hz, for one epoch.

    In double precision inside (soxr "VHQ"), so that a restart in mid-epoch, aligned by `aligned`, rounds to the same
    16 bits but for about one sample in 100,000.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._stream: soxr.ResampleStream | None = None
        self._recent = np.zeros(0, np.float32)
        self._fed = self._given = self._leave_out = self._awake_since = 0

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.int16]:
        """Resample; the output lags the input by the filter's length, a few milliseconds."""
        if self.rate == SAMPLE_RATE or not len(samples):
            return to_int16(samples)
        before, self._recent = self._recent, _last(self._recent, samples, round(KEPT_S * self.rate))
        if self._stream is None:
            self._wake()
            samples, self._fed = np.concatenate([before, samples]), self._fed - len(before)
        self._fed += len(samples)
        parts = [samples[first : first + RESAMPLED_AT_ONCE] for first in range(0, len(samples), RESAMPLED_AT_ONCE)]
        return self._counted([self._resampled(part) for part in parts])

    def drain(self) -> NDArray[np.int16]:
        """Return what is still in the filter; call once, at the end."""
        if self.rate == SAMPLE_RATE:
            return np.zeros(0, np.int16)
        parts = []
        if self._stream is None:
            self._wake()
            parts.append(self._resampled(self._recent))
        return self._counted([*parts, self._resampled(np.zeros(0, np.float32), last=True)])

    def rest(self) -> None:
        """Give up soxr's buffers until more is fed: 210 KiB, times hundreds of streams that wait for a segment.

        FIR filters remember nothing but their last input: with that fed again, what follows is the same.
        """
        if self._stream is None or self._fed - self._awake_since < REST_AFTER_S * self.rate:
            return
        step = self.rate // gcd(self.rate, SAMPLE_RATE)
        begin = max(self._given * self.rate // SAMPLE_RATE - round(RUN_UP_S * self.rate), 0) // step * step
        keep = self._fed - begin
        if keep <= len(self._recent):
            self._recent = self._recent[-keep:].copy()
            self._leave_out = self._given - begin * SAMPLE_RATE // self.rate
            self._stream = None

    def _wake(self) -> None:
        """Make soxr's resampler."""
        self._stream = soxr.ResampleStream(self.rate, SAMPLE_RATE, 1, "float32", "VHQ")
        self._awake_since = self._fed

    def _resampled(self, samples: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        """Resample a part; leave out what was given before the rest."""
        assert self._stream is not None
        out: NDArray[np.float32] = self._stream.resample_chunk(samples, last)
        cut = min(self._leave_out, len(out))
        self._leave_out -= cut
        kept: NDArray[np.float32] = out[cut:]
        return kept

    def _counted(self, parts: Sequence[NDArray[np.float32]]) -> NDArray[np.int16]:
        """Join what is given now."""
        joined = np.concatenate(parts)
        self._given += len(joined)
        return to_int16(joined)


def _last(before: NDArray[np.float32], samples: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Return a copy of the last samples, at most so many."""
    if len(samples) >= most:
        last: NDArray[np.float32] = samples[-most:].copy()
        return last
    return np.concatenate([before[max(0, len(before) + len(samples) - most) :], samples])


def aligned(native: int, rate: int) -> tuple[int, int]:
    """Find the first native sample from here on that falls on a sample of 22,050 Hz.

    Returns:
        How many native samples to leave out, and the 22,050 Hz sample that the next one is.
    """
    step = rate // gcd(rate, SAMPLE_RATE)
    skip = -native % step
    return skip, (native + skip) * SAMPLE_RATE // rate
