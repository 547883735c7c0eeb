"""One media segment as packets of audio: what format it is, which stream carries the audio, when it plays.

Every segment is demuxed alone, from memory, by a named format: libav never guesses and never opens anything else.
Decoding is the decoder's (decoder.py), because that must outlive the segment. Start at `open_segment`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

import av
import av.error
import av.stream

from services.fetcher import adts, id3, mp4
from services.fetcher.timestamps import CLOCK_HZ

CODECS = ("aac", "aac_latm", "mp3", "mp2", "ac3", "eac3", "opus", "flac", "alac")
TS_PACKET = 188
MOST_LATE_STREAMS = 16
# What libav may look at before it names the streams: the PMT tells the codec. No frame is decoded for that (a decoder
# that is not on the white list is not opened), and the end of the data is not searched for the duration.
_QUICK_LOOK = {
    "probesize": "5000",
    "analyzeduration": "0",
    "codec_whitelist": "none",
    "skip_estimate_duration_from_pts": "1",
}
_DEEP_LOOK = {"probesize": "5000000"}
# A transport stream's PES packet holds one AAC frame or eight, and one call of the decoder takes as many: cut up by
# libav's parser, each is a packet and a turn of our loop, a fifth of the time.
_WHOLE_PES = {"fflags": "+nofillin+noparse"}
MOST_WHOLE_BYTES = 4 * 2**20
"""Of a segment whose packets are held all at once, to see that every one is whole."""
# PyAV 14, the newest for JetPack 4.6, has no Discard: there demux() alone passes over what is not asked for.
_DISCARD_ALL = getattr(getattr(av.stream, "Discard", None), "all", None)


class MediaError(ValueError):
    """A segment without audio that can be decoded; cause is one word for the gap it leaves."""

    def __init__(self, cause: str, detail: str) -> None:
        self.cause, self.detail = cause, detail
        super().__init__(f"{cause}: {detail}")


@dataclass(frozen=True)
class TimedTags:
    """ID3 tags within a segment, at seconds of its media time (None: so long after its start)."""

    at_s: float | None
    tags: id3.Tags
    after_s: float = 0.0


def sniff(data: bytes) -> str:
    """Name the format of a segment from its first bytes, as libav calls it.

    Raises:
        MediaError: it is none that carries audio.
    """
    if len(data) >= 8 and data[4:8] in mp4.BOXES_THAT_OPEN_A_SEGMENT:
        return "mov"
    if any(
        data[at : at + 1] == b"\x47" and data[at + TS_PACKET : at + TS_PACKET + 1] in (b"\x47", b"") for at in (0, 4)
    ):
        return "mpegts"
    start = id3.strip(data)[1]
    head = data[start : start + 8]
    if head[:2] == b"\x0b\x77" and len(head) > 5:
        return "eac3" if head[5] >> 3 > 10 else "ac3"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "mp3"
    if head[:4] == b"fLaC":
        return "flac"
    if not data:
        raise MediaError("empty", "the segment has no bytes")
    if data.lstrip()[:1] == b"<":
        raise MediaError("not-media", "the server sent a page (HTML or XML) instead of a segment")
    if data[:6] == b"WEBVTT":
        raise MediaError("no-audio", "the segment is subtitles")
    # Leading garbage before a transport stream: libav finds the sync byte by itself.
    at = data.find(b"\x47", 0, 4 * TS_PACKET)
    while at >= 0:
        if (
            data[at + TS_PACKET : at + TS_PACKET + 1] == b"\x47"
            and data[at + 2 * TS_PACKET : at + 2 * TS_PACKET + 1] == b"\x47"
        ):
            return "mpegts"
        at = data.find(b"\x47", at + 1, 4 * TS_PACKET)
    raise MediaError("not-media", "the bytes are no known media format")


class SegmentMedia:
    """An open segment; a context manager.

    Attributes:
        format: libav's name of the container: mpegts, mov, aac, mp3, ac3, eac3, flac.
        codec: libav's name of the decoder.
        extradata: what the decoder needs beside the packets, or None.
        stream_id: PID or track number of the audio.
        wraps: whether its timestamps have 33 bits.
        timed: whether its packets have timestamps of the stream's clock (packed audio has only its ID3 tag).
        tick_s: seconds of one tick of its packets' timestamps.
        priming_s: media time before which there is only encoder delay.
        tags: ID3 tags before packed audio, the timestamp among them.
        events: ID3 tags met so far, with their times.
    """

    def __init__(self, data: bytes, init: bytes | None, stream_id: int | None) -> None:
        self.tags = id3.Tags()
        self.events: list[TimedTags] = []
        self.priming_s = 0.0
        self.format = (
            "mov" if init and init[4:8] in (b"ftyp", b"moov", b"styp") else sniff(init + data if init else data)
        )
        if self.format == "mov":
            header = mp4.Init.read(init or data)
            if header.encrypted:
                raise MediaError("encrypted", "the audio track is under common encryption (DRM)")
            self.priming_s = header.priming_s
            self.events = [TimedTags(event.at_s, id3.read(event.tag), event.after_s) for event in mp4.id3_events(data)]
        if init:
            data = init + data
        if self.format == "mov" and (announced := mp4.bomb(data)):
            raise MediaError("undecodable", f"mov: {announced}")
        if self.format not in ("mov", "mpegts"):
            self.tags, start = id3.strip(data)
            self.events = [TimedTags(None, self.tags)]
            data = data[start:]
        self.timed = self.format in ("mov", "mpegts")
        self.wraps = self.format != "mov"
        self._whole: list[av.Packet] | None = None
        if self.format == "mpegts" and len(data) <= MOST_WHOLE_BYTES:
            self._open(data, stream_id, _WHOLE_PES)
            if self.codec == "aac" and self._take_whole():
                return
            self.events = []
            self._container.close()
        self._open(data, stream_id, {"ignore_editlist": "1"} if self.format == "mov" else {})

    def _take_whole(self) -> bool:
        """Demux all of the segment; say whether each PES packet holds whole AAC frames of one kind, and keep them."""
        whole = list(adts.together(self._demuxed(), self.tick_s))
        self._whole = None if None in whole else [packet for packet in whole if packet is not None]
        return self._whole is not None

    def _open(self, data: bytes, stream_id: int | None, options: dict[str, str]) -> None:
        """Open the container and find the audio; look deeper where a quick look does not find it."""
        for look in (_QUICK_LOOK, _DEEP_LOOK):
            try:
                self._container = av.open(
                    io.BytesIO(data), format=self.format, options={**options, **look}, metadata_errors="ignore"
                )
            except (av.error.FFmpegError, ValueError, OverflowError, MemoryError) as error:
                if look is _DEEP_LOOK:
                    raise MediaError("undecodable", f"{self.format}: {_reason(error)}") from error
                continue
            if self._container.streams.audio or look is _DEEP_LOOK:
                break
            self._container.close()
        try:
            self._stream = self._choose(stream_id)
        except BaseException:
            self._container.close()
            raise
        context = self._stream.codec_context
        self.codec: str = context.codec.name
        self.extradata: bytes | None = context.extradata
        self.stream_id: int = self._stream.id
        self.tick_s = float(self._stream.time_base or 1 / CLOCK_HZ)

    def _choose(self, stream_id: int | None) -> av.AudioStream:
        """Choose the audio stream: the one heard before, else the first that can be decoded; ignore all others."""
        known = [s for s in self._container.streams.audio if s.codec_context and _codec(s) in CODECS]
        if not known:
            there = ", ".join(sorted({_codec(s) for s in self._container.streams})) or "nothing"
            raise MediaError("no-audio", f"no audio that can be decoded ({there[:120]})")
        chosen = next((s for s in known if s.id == stream_id), known[0])
        self._id3 = [s for s in self._container.streams if s.type == "data" and _codec(s) == "timed_id3"]
        for stream in self._container.streams:
            if _DISCARD_ALL is not None and stream is not chosen and stream not in self._id3:
                stream.discard = _DISCARD_ALL
        return chosen

    def __enter__(self) -> SegmentMedia:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the container and let go of the bytes: a stream keeps this object until its next segment."""
        self._container.close()
        self._whole = None
        del self._container, self._stream, self._id3

    def packets(self) -> Iterator[av.Packet]:
        """Return the audio packets in order; ID3 tags met on the way are added to `events`.

        Damage inside ends the packets early, as the end of the data would.
        """
        return self._demuxed() if self._whole is None else self._kept(self._whole)

    @staticmethod
    def _kept(whole: list[av.Packet]) -> Iterator[av.Packet]:
        """Give packets away, each once."""
        whole.reverse()
        while whole:
            yield whole.pop()

    def _demuxed(self) -> Iterator[av.Packet]:
        """Demux, as `packets` says."""
        own = self._stream.index
        # PyAV does not know of a stream that appears in the middle of the segment and stumbles over its first packet
        # (IndexError); asked again, it goes on with the next one.
        for _ in range(MOST_LATE_STREAMS):
            try:
                for packet in self._container.demux([self._stream, *self._id3]):
                    if not packet.size:
                        continue
                    if not self._id3 or packet.stream_index == own:
                        yield packet
                        continue
                    at_s = float(packet.pts * packet.time_base) if packet.pts is not None and packet.time_base else None
                    self.events.append(TimedTags(at_s, id3.read(bytes(packet))))
                return
            except IndexError:
                continue
            except (av.error.FFmpegError, OverflowError):
                return

    def start_s(self, first: av.Packet) -> float | None:
        """Return when the segment begins: the timestamp of its first packet or of its ID3 tag."""
        if self.timed:
            return None if first.pts is None else first.pts * self.tick_s
        return None if self.tags.timestamp is None else self.tags.timestamp / CLOCK_HZ


def open_segment(data: bytes, init: bytes | None = None, stream_id: int | None = None) -> SegmentMedia:
    """Open a decrypted segment.

    Args:
        data: the segment's bytes.
        init: the bytes of its EXT-X-MAP, where it has one.
        stream_id: PID or track heard before, kept where it is still there.

    Raises:
        MediaError: there is no audio in it that can be decoded.
    """
    return SegmentMedia(data, init, stream_id)


def _codec(stream: av.stream.Stream) -> str:
    """Return the canonical codec name of a stream, "unknown" where libav has none."""
    try:
        return str(stream.codec_context.codec.canonical_name)
    except (AttributeError, ValueError, av.error.FFmpegError):
        return str(getattr(stream, "name", None) or "unknown")


def _reason(error: BaseException) -> str:
    """Return the short text of a libav error."""
    return str(getattr(error, "strerror", None) or error)[:120]
