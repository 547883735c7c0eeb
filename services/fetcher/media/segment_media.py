"""One media segment as packets of audio: what format it is, which stream carries the audio, when it plays.

Every segment is demuxed alone, from memory, by a named format: libav never guesses and never opens anything else.
Decoding is the decoder's (decoder.py), because that must outlive the segment. Start at `open_segment`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

import av
import av.error
import av.stream
from av.container import InputContainer

from services.fetcher.media import frames, id3, mp4, pes, transport_stream
from services.fetcher.media.framing import Batch, Framer
from services.fetcher.media.packed import with_lengths
from services.fetcher.media.sniff import MediaError, sniff
from services.fetcher.media.timestamps import CLOCK_HZ

CODECS = ("aac", "aac_latm", "mp3", "mp2", "ac3", "eac3", "opus", "flac", "alac")
MOST_LATE_STREAMS = 16
MOST_EVENTS = 256
"""ID3 tags of one segment that are read."""
# What libav may look at before it names the streams: the PMT tells the codec. No frame is decoded for that (a decoder
# that is not on the white list is not opened), and the end of the data is not searched for the duration.
_QUICK_LOOK = {
    "probesize": "5000",
    "analyzeduration": "0",
    "codec_whitelist": "none",
    "skip_estimate_duration_from_pts": "1",
}
_DEEP_LOOK = {"probesize": "5000000"}
# PES packets as they are: libav's parser forgets what a segment leaves unfinished, and cuts up what the decoder takes
# at once, a fifth of the time.
_WHOLE_PES = {"fflags": "+nofillin+noparse"}
MOST_WHOLE_BYTES = 16 * 2**20
"""Of a segment whose frames are held all at once; a longer one goes through libav's parser."""
# The decoders that libav prefers, so that the samples are ffmpeg's; of MPEG audio by its layer.
_DECODERS = {"aac": "aac", "ac3": "ac3", "eac3": "eac3"}
_LAYERS = {1: "mp1", 2: "mp2", 3: "mp3float"}
# PyAV 14, the newest for JetPack 4.6, has no Discard: there demux() alone passes over what is not asked for.
_DISCARD_ALL = getattr(getattr(av.stream, "Discard", None), "all", None)


@dataclass(frozen=True)
class TimedTags:
    """ID3 tags within a segment, at seconds of its media time (None: so long after its start)."""

    at_s: float | None
    tags: id3.Tags
    after_s: float = 0.0


@dataclass(frozen=True)
class Carry:
    """What a segment leaves to the next one of its epoch, as if both were one stream.

    Attributes:
        format, codec, stream_id: of the segment.
        tables: packets of a transport stream that name the audio's PID.
        packets: packets of a PES packet that is not finished.
        rest, rest_pts: bytes of a frame that is not finished, and its time at 90 kHz.
    """

    format: str
    codec: str
    stream_id: int
    tables: bytes = b""
    packets: bytes = b""
    rest: bytes = b""
    rest_pts: float | None = None


class SegmentMedia:
    """An open segment; a context manager.

    Attributes:
        format: libav's name of the container: mpegts, mov, aac, mp3, ac3, eac3, flac.
        codec: libav's name of the decoder.
        extradata: what the decoder needs beside the packets, or None.
        stream_id: PID or track number of the audio.
        wraps: whether its timestamps have 33 bits.
        timed: whether its packets have timestamps of the stream's clock (packed audio: where an ID3 tag tells it).
        tick_s: seconds of one tick of its packets' timestamps.
        priming_s: media time before which there is only encoder delay.
        delay: samples at the begin that are only encoder delay.
        tags: ID3 tags before packed audio, the timestamp among them.
        events: ID3 tags met so far, with their times.
        carry: what it leaves to the next segment.
        continued: whether it goes on with what the one before left.
        moved_away: whether the audio goes on under another PID, which is not heard.
    """

    def __init__(
        self,
        data: bytes,
        init: bytes | None,
        stream_id: int | None,
        carry: Carry | None,
        duration_s: float = 0.0,
        final: bool = False,
    ) -> None:
        self.codec, self.stream_id, self.tick_s = "", 0, 1 / CLOCK_HZ
        self.tags = id3.Tags()
        self.events: list[TimedTags] = []
        self.priming_s, self.delay = 0.0, 0
        self.moved_away = False
        self.extradata: bytes | None = None
        self.carry: Carry | None = None
        self._container: InputContainer | None = None
        self._batches: list[Batch] | None = None
        opens_mp4 = init and init[4:8] in (b"ftyp", b"moov", b"styp")
        before = carry or Carry("", "", 0)
        self.format = "mov" if opens_mp4 else sniff(init + data if init else data, before.rest, before.format)
        self.wraps = self.format != "mov"
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
        self.timed = self.format in ("mov", "mpegts")
        carry = carry if carry is not None and carry.format == self.format else None
        self.continued = carry is not None
        if self.format == "mpegts":
            self._open_transport_stream(transport_stream.aligned(data), stream_id, carry, final)
        elif self.format in frames.PARSERS:
            self._take_packed(data, carry, duration_s)
        elif self.format == "mov":
            self._open(data, stream_id, {"ignore_editlist": "1"})
        else:
            self.tags, start = id3.strip(data)
            self.events = [TimedTags(None, self.tags)]
            self._open(data[start:], stream_id, {})

    def _take_packed(self, data: bytes, carry: Carry | None, duration_s: float) -> None:
        """Cut packed audio into its frames; libav is not asked."""
        self.tags, start = id3.strip(data)
        self.events = [TimedTags(None, self.tags)]
        self.timed = self.tags.timestamp is not None

        def on_tag(tag: bytes, after_s: float) -> None:
            if len(self.events) < MOST_EVENTS:
                self.events.append(TimedTags(None, id3.read(tag), after_s))

        framer = Framer(
            frames.PARSERS[self.format], carry.rest if carry else b"", carry.rest_pts if carry else None, on_tag
        )
        batches = list(framer.batches([(data[start:], float(self.tags.timestamp or 0))]))
        if self.format == "mp3" and (first := next((b for b in batches if b.packet and b.frames), None)):
            table = bytes(first.packet or b"")
            if frames.is_xing(table):
                self.delay = frames.encoder_delay(table)
                batches.remove(first)
        heard = next((b for b in batches if b.packet), None)
        if heard is None:
            raise MediaError("undecodable", f"no whole frame of {self.format}")
        self.codec = _decoder_of(self.format, heard)
        self._batches = with_lengths(batches, duration_s)
        self.carry = Carry(self.format, self.codec, 0, rest=framer.rest, rest_pts=framer.rest_pts)

    def _open_transport_stream(self, data: bytes, stream_id: int | None, carry: Carry | None, final: bool) -> None:
        """Open a transport stream without what is unfinished at its end, and with what the one before left."""
        pid = carry.stream_id if carry else stream_id
        whole, waiting, tables = data, b"", b""
        if pid is not None and not final:
            whole, waiting, tables = transport_stream.divided(data, pid)
        before = transport_stream.joined(carry.tables, carry.packets, whole, carry.stream_id) if carry else whole
        plain = pes.payloads(before, carry.stream_id, carry.tables) if carry and not final else None
        if carry and plain is not None:
            self.canonical, self.codec, self.stream_id = _parser_of(carry.codec), carry.codec, carry.stream_id
        else:
            self._open(before, pid, _WHOLE_PES, told=carry.codec if carry else "")
        if not final and (self.stream_id != pid or (carry is not None and self._other_codec(carry))):
            pid, carry, self.continued = self.stream_id, None, False
            whole, waiting, tables = transport_stream.divided(data, pid)
            if waiting or before is not data:
                self.close()
                before = whole
                self._open(before, pid, _WHOLE_PES)
        rest, rest_pts = (carry.rest, carry.rest_pts) if carry else (b"", None)
        if self.canonical in frames.PARSERS and len(data) <= MOST_WHOLE_BYTES:
            framer = Framer(frames.PARSERS[self.canonical], rest, rest_pts)
            demuxed = plain if plain is not None else ((bytes(packet), packet.pts) for packet in self._demuxed())
            batches = list(framer.batches(demuxed))
            rest, rest_pts = framer.rest, framer.rest_pts
            heard = next((batch for batch in batches if batch.packet), None)
            # Less than half of it frames: libav took it for what it is not.
            found = sum(batch.packet.size for batch in batches if batch.packet)
            if heard is not None and found > sum(batch.skipped for batch in batches):
                self._batches = batches
                self.codec = _decoder_of(self.canonical, heard)
        if self._batches is None:  # frames that only libav's parser knows, or none at all
            rest, rest_pts, self.events = b"", None, []
            self.close()
            self._open(before, pid, {}, (_DEEP_LOOK,))
        self.moved_away = not waiting and transport_stream.moved_away(data, self.stream_id)
        tables = tables or (carry.tables if carry else b"")
        self.carry = Carry("mpegts", self.codec, self.stream_id, tables, waiting, rest, rest_pts)

    def _other_codec(self, carry: Carry) -> bool:
        """Say whether a transport stream's audio is not what the segment before had."""
        return self.codec != carry.codec and not (self.canonical in ("mp2", "mp3") and carry.codec in _LAYERS.values())

    def _open(
        self,
        data: bytes,
        stream_id: int | None,
        options: dict[str, str],
        looks: Sequence[dict[str, str]] = (_QUICK_LOOK, _DEEP_LOOK),
        told: str = "",
    ) -> None:
        """Open the container and find the audio; look deeper where a quick look does not find it.

        Of a private stream type libav names the codec only after many frames: what the segment before `told` is the
        codec of a segment of a few.
        """
        for look in looks:
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
        assert self._container is not None
        try:
            self._stream = self._choose(stream_id, told)
        except BaseException:
            self._container.close()
            raise
        self.canonical = _codec(self._stream)
        if self.canonical in CODECS:
            self.codec, self.extradata = self._stream.codec_context.codec.name, self._stream.codec_context.extradata
        else:
            self.canonical, self.codec, self.extradata = _parser_of(told), told, None
        self.stream_id = self._stream.id
        self.tick_s = float(self._stream.time_base or 1 / CLOCK_HZ)

    def _choose(self, stream_id: int | None, told: str) -> av.stream.Stream:
        """Choose the audio stream: the one heard before, else the first that can be decoded; ignore all others."""
        assert self._container is not None
        streams: Sequence[av.stream.Stream] = self._container.streams.audio
        known = [s for s in streams if s.codec_context and _codec(s) in CODECS]
        if not known and _parser_of(told) in frames.PARSERS:
            known = [s for s in self._container.streams if s.id == stream_id]
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
        self.close()
        self._batches = None

    def close(self) -> None:
        """Close the container."""
        if self._container is not None:
            self._container.close()
            self._container = None
            del self._stream, self._id3

    def batches(self) -> Iterator[Batch]:
        """Return the audio in order, each batch once; ID3 tags met on the way are added to `events`.

        Damage inside ends the packets early, as the end of the data would.
        """
        if self._batches is None:
            for packet in self._demuxed():
                yield Batch(packet, 1, (packet.duration or 0) * self.tick_s)
            return
        self._batches.reverse()
        while self._batches:
            yield self._batches.pop()

    def _demuxed(self) -> Iterator[av.Packet]:
        """Demux, as `packets` says."""
        assert self._container is not None
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
                    if len(self.events) < MOST_EVENTS:
                        self.events.append(TimedTags(at_s, id3.read(bytes(packet))))
                return
            except IndexError:
                continue
            except (av.error.FFmpegError, OverflowError):
                return

    def start_s(self, first: av.Packet | None) -> float | None:
        """Return when the segment begins: the timestamp of its ID3 tag or of its first packet."""
        if self.format in ("mov", "mpegts"):
            return None if first is None or first.pts is None else first.pts * self.tick_s
        return None if self.tags.timestamp is None else self.tags.timestamp / CLOCK_HZ


def open_segment(
    data: bytes,
    init: bytes | None = None,
    stream_id: int | None = None,
    carry: Carry | None = None,
    duration_s: float = 0.0,
) -> SegmentMedia:
    """Open a decrypted segment.

    Args:
        data: the segment's bytes.
        init: the bytes of its EXT-X-MAP, where it has one.
        stream_id: PID or track heard before, kept where it is still there.
        carry: what the segment before left, where this one continues it.
        duration_s: by its EXTINF; tells how long unreadable stretches of packed audio are.

    Raises:
        MediaError: there is no audio in it that can be decoded.
    """
    return SegmentMedia(data, init, stream_id, carry, duration_s)


def rest_of(carry: Carry) -> list[Batch]:
    """Return what a segment left and no other one continued: frames, and at the end how long the cut one is."""
    batches: list[Batch] = []
    rest = carry.rest
    if carry.packets and carry.tables:
        try:
            with SegmentMedia(carry.tables + carry.packets, None, carry.stream_id, carry, final=True) as media:
                batches = list(media.batches())
                rest = media.carry.rest if media.carry else b""
        except MediaError:
            pass
    kind = _parser_of(carry.codec)
    header = frames.PARSERS[kind](rest, 0) if kind in frames.PARSERS and rest else None
    if header is not None:
        batches.append(Batch(None, 0, header.samples / header.rate, len(rest), True))
    return batches


def _parser_of(codec: str) -> str:
    """Return which parser of frames.py knows the frames of a decoder."""
    return "mp3" if codec in _LAYERS.values() else codec


def _decoder_of(kind: str, heard: Batch) -> str:
    """Return libav's name of the decoder for frames of this kind."""
    if kind in _DECODERS:
        return _DECODERS[kind]
    header = frames.mpeg(bytes(heard.packet or b""), 0)
    return _LAYERS[header.form >> 4 & 3 if header else 3]


def _codec(stream: av.stream.Stream) -> str:
    """Return the canonical codec name of a stream, "unknown" where libav has none."""
    try:
        return str(stream.codec_context.codec.canonical_name)
    except (AttributeError, ValueError, av.error.FFmpegError):
        return str(getattr(stream, "name", None) or "unknown")


def _reason(error: BaseException) -> str:
    """Return the short text of a libav error."""
    return str(getattr(error, "strerror", None) or error)[:120]
