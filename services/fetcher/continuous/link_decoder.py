"""One link of a station's audio as pieces of samples: libav demuxes it, and one decoder lives as long as its format.

A link is what one container holds: all of a response, or one logical stream of Ogg. Where frames do not decode or their
format changes, the next piece begins an epoch. Start at `LinkDecoder.next`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from services.fetcher.continuous.byte_stream import ByteStream
from services.fetcher.media.decoder import Decoder, FormatChangedError, Native, Resampler, mono
from services.fetcher.media.id3 import Tags
from services.fetcher.media.sniff import MediaError

CODECS = ("mp3", "mp2", "aac", "vorbis", "opus", "flac")
PIECE_S = 1.5
"""Seconds of a piece: as much as one window after another needs."""
BLOCK_SAMPLES = 16_384
"""Native samples that are mixed and resampled at once: a piece in the decoder's FIFO cost a station 1 MiB."""
BUFFER_BYTES = 4_096
MOST_LATE_STREAMS = 16
# What libav may look at before it names the stream; no decoder is opened for that.
_QUICK_LOOK = {"probesize": "5000", "analyzeduration": "0", "codec_whitelist": "none"}
_DEEP_LOOK = {"probesize": "200000", "analyzeduration": "0", "codec_whitelist": "none"}
_BROKEN = (av.error.FFmpegError, ValueError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Piece:
    """Samples in a row.

    Attributes:
        pcm: int16, mono, 22,050 Hz, shape (samples,).
        native, rate: the same as they were decoded, one float32 array a channel; none where nobody wants them.
        begins: why an epoch begins with it; empty where it continues the piece before.
        missing_s: seconds before it that did not decode.
    """

    pcm: NDArray[np.int16]
    native: Native
    rate: int
    begins: str
    missing_s: float


class LinkDecoder:
    """Decodes one link.

    Args:
        source: the bytes, at the link's begin; read in turn (turns.py).
        format: libav's name of the container: mp3, aac, ogg, flac.
        begins: why the first epoch begins.
        tolerance_s: frames that do not decode break the epoch from so many seconds on; fewer are settled at its end.
        native: whether native samples are wanted.

    Attributes:
        tags: title and artist of the link.
        missing_s: seconds that did not decode and are in no piece yet.

    Raises:
        MediaError: there is no audio that can be decoded.
    """

    def __init__(self, source: ByteStream, format: str, begins: str, tolerance_s: float, native: bool = False) -> None:
        self._source, self._tolerance_s, self._keeps_native = source, tolerance_s, native
        options = _DEEP_LOOK if format == "flac" else _QUICK_LOOK
        try:
            self._container = av.open(
                source, format=format, options=options, metadata_errors="ignore", buffer_size=BUFFER_BYTES
            )
        except _BROKEN as error:
            raise MediaError("undecodable", f"{format}: {error}"[:200]) from error
        found = [s for s in self._container.streams.audio if s.codec_context and s.codec_context.codec]
        known = [s for s in found if s.codec_context.codec.canonical_name in CODECS]
        if not known:
            self._container.close()
            there = ", ".join(sorted({s.codec_context.codec.canonical_name for s in found})) or "nothing"
            raise MediaError("no-audio", f"no audio that can be decoded ({there[:120]})")
        self._stream = known[0]
        context = self._stream.codec_context
        self._codec, self._extradata = context.codec.name, context.extradata
        said = {**self._container.metadata, **self._stream.metadata}
        said = {name.lower(): value for name, value in said.items()}
        self.tags = Tags(None, said.get("title", "")[:500], said.get("artist", "")[:500])
        self._packets = self._container.demux(self._stream)
        self._again: av.Packet | None = None
        self._ended = False
        self._packet_s = 0.0
        self.missing_s = 0.0
        self._begin(begins)

    def close(self) -> None:
        """Close the container."""
        self._container.close()

    def _begin(self, reason: str) -> None:
        """Begin an epoch: another decoder and resampler."""
        self._begins, self._before_s = reason, self.missing_s
        self.missing_s = 0.0
        self._decoder = Decoder(self._codec, self._extradata)
        self._resampler: Resampler | None = None
        self._native: list[Native] = []
        self._pcm: list[NDArray[np.int16]] = []
        self._mixed = 0

    def next(self) -> Piece | None:
        """Return the next piece; None at the link's end, or where it can't be demuxed any further."""
        while not self._ended:
            packet = self._next_packet()
            decoder = self._decoder
            given, begun = 0, decoder.rate > 0
            try:
                given = decoder.decode(packet)
            except FormatChangedError:
                if begun:
                    self._again = packet
                    if piece := self._epoch_over("format"):
                        return piece
                    continue
                # A packet that changes its format within itself would do so with every new decoder.
                decoder = self._decoder = Decoder(self._codec, self._extradata)
            except av.error.FFmpegError:
                pass
            if packet is None:
                self._ended = True
                return self._piece(last=True)
            if given:
                self._packet_s = given / decoder.rate
            elif self._without_samples(packet) and (piece := self._epoch_over("damaged")):
                return piece
            if decoder.waiting >= BLOCK_SAMPLES:
                self._mix()
            if self._mixed >= PIECE_S * max(decoder.rate, 1):
                return self._piece()
        return None

    def _without_samples(self, packet: av.Packet) -> bool:
        """Count a packet that gave no samples; return whether that is too much for its epoch.

        The first ones of a response belong to what came before it, and are not counted.
        """
        known = packet.duration and packet.time_base
        seconds = float(packet.duration * packet.time_base) if known else self._packet_s
        if self._decoder.rate:
            self.missing_s += seconds
        elif self._begins == "damaged":
            self._before_s += seconds
        return self.missing_s >= self._tolerance_s

    def _epoch_over(self, reason: str) -> Piece | None:
        """End the epoch, return what is left of it, and begin another one."""
        with contextlib.suppress(av.error.FFmpegError, FormatChangedError):
            self._decoder.decode(None)
        piece = self._piece(last=True)
        self._begin(reason)
        return piece

    def _mix(self, last: bool = False) -> None:
        """Mix and resample what the decoder has waiting."""
        native = self._decoder.take(last)
        if not native:
            return
        if self._resampler is None:
            self._resampler = Resampler(self._decoder.rate)
        self._pcm.append(self._resampler.feed(mono(native)))
        self._mixed += len(native[0])
        if self._keeps_native:
            self._native.append(native)

    def _piece(self, last: bool = False) -> Piece | None:
        """Return what was mixed; at the end of an epoch also what is left in decoder and resampler."""
        if last:
            self._mix(last)
        if self._resampler is None:
            return None
        if last:
            self._pcm.append(self._resampler.drain())
        native = tuple(np.concatenate(channel) for channel in zip(*self._native, strict=True))
        pcm, self._pcm, self._native, self._mixed = np.concatenate(self._pcm), [], [], 0
        self._source.heard()
        piece = Piece(pcm, native, self._decoder.rate, self._begins, self._before_s if self._begins else 0.0)
        self._begins = ""
        return piece

    def _next_packet(self) -> av.Packet | None:
        """Return the next packet with audio; None at the end."""
        if self._again is not None:
            packet, self._again = self._again, None
            return packet
        # PyAV stumbles over the first packet of a stream that appears late (IndexError) and goes on with the next one.
        for _ in range(MOST_LATE_STREAMS):
            try:
                for packet in self._packets:
                    if packet.size and packet.stream_index == self._stream.index:
                        return packet
                return None
            except IndexError:
                self._packets = self._container.demux(self._stream)
            except (av.error.FFmpegError, OverflowError):
                return None
        return None
