"""Builders that the HLS tests read like sentences with: playlists, media made by ffmpeg, and one way to listen.

Nothing here checks anything but the ledger (`heard_of`), which every test gets for free.
"""

from __future__ import annotations

import functools
import io
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from services.fetcher.events import (
    Audio,
    Ended,
    EpochEnded,
    EpochStarted,
    Gap,
    Report,
    ResumePoint,
    Start,
    StreamEvent,
    Track,
)
from services.fetcher.source import StreamSource
from services.fetcher.timeline.assembler import NativeSink
from services.settings.schema import Hls, Retry, Stream

FAST = Retry(attempts=3, first_wait_s=0.01, longest_wait_s=0.05)
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg, the oracle, which is not here")


def hls(**changes: Any) -> Hls:
    """Return settings with waits short enough for tests."""
    quick = {"playlist_retry": FAST, "segment_retry": FAST, "key_retry": FAST, "read_timeout_s": 2.0}
    return Hls(**{**quick, **changes})


def media_playlist(
    names: Sequence[str],
    duration: float = 2.0,
    first: int = 0,
    end: bool = True,
    target: float = 2,
    before: dict[int, str] | None = None,
    head: str = "",
) -> str:
    """Return a media playlist; `before` puts tag lines before the segment of that index."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:7", f"#EXT-X-TARGETDURATION:{target:g}", f"#EXT-X-MEDIA-SEQUENCE:{first}"]
    lines += [head] if head else []
    for index, name in enumerate(names):
        lines += [before[index]] if before and index in before else []
        lines += [f"#EXTINF:{duration:g},", name]
    return "\n".join(lines + (["#EXT-X-ENDLIST"] if end else [])) + "\n"


@dataclass
class Listened:
    """What was heard of a stream, sorted by kind."""

    items: list[StreamEvent] = field(default_factory=list)

    def of(self, kind: type[Any]) -> list[Any]:
        return [item for item in self.items if isinstance(item, kind)]

    @property
    def audio(self) -> list[Audio]:
        return self.of(Audio)

    @property
    def gaps(self) -> list[Gap]:
        return self.of(Gap)

    @property
    def tracks(self) -> list[Track]:
        return self.of(Track)

    @property
    def reports(self) -> list[str]:
        return [report.kind for report in self.of(Report)]

    @property
    def reasons(self) -> list[str]:
        return [started.reason for started in self.of(EpochStarted)]

    @property
    def ended(self) -> Ended | None:
        return next(iter(self.of(Ended)), None)

    def pcm(self, epoch: int | None = None) -> NDArray[np.int16]:
        parts = [item.pcm for item in self.audio if epoch is None or item.epoch == epoch]
        return np.concatenate(parts) if parts else np.zeros(0, np.int16)

    def check_ledger(self, start: int = 0) -> None:
        """Walk through the items: positions join without overlap, epochs begin and end where they say."""
        position, running = start, None
        for item in self.items:
            if isinstance(item, EpochStarted):
                assert running is None
                running = item
                if item.reason != "resumed":
                    assert item.first_sample == position
            elif isinstance(item, Audio):
                assert running is not None and item.epoch == running.epoch
                assert item.first_sample == position and len(item.pcm) and item.pcm.dtype == np.int16
                assert item.resume_point.epoch == item.epoch and item.resume_point.first_sample == item.first_sample
                assert item.resume_point.epoch_first_sample == running.first_sample
                position += len(item.pcm)
            elif isinstance(item, EpochEnded):
                assert running is not None and (item.epoch, item.end_sample) == (running.epoch, position)
                running = None
            elif isinstance(item, Gap):
                assert running is None and item.first_sample == position and item.samples > 0
                position += item.samples
            elif isinstance(item, Ended):
                assert running is None and item.end_sample == position


def listener(
    url: str,
    stop: threading.Event | None = None,
    resume: ResumePoint | None = None,
    native: NativeSink | None = None,
    **changes: Any,
) -> StreamSource:
    """Make a StreamSource with quick settings."""
    stream = Stream(name="test", url=url, **{k: changes.pop(k) for k in ("prefer", "headers_file") if k in changes})
    return StreamSource(stream, hls(**changes), stop or threading.Event(), Start(resume), native)


def listen(url: str, most: int | None = None, resume: ResumePoint | None = None, **changes: Any) -> Listened:
    """Listen to the end (or to so many items), and check the ledger."""
    heard = Listened()
    one = listener(url, None, resume, **changes)
    try:
        for item in one.listen():
            heard.items.append(item)
            if most is not None and len(heard.items) >= most:
                break
    finally:
        one.close()
    heard.check_ledger(resume.first_sample if resume else 0)
    return heard


LEFT, RIGHT = "0.4*sin(2*PI*(200+150*t)*t)+0.05*(random(0)-0.5)", "0.3*sin(2*PI*(3000-100*t)*t)"
SOUND = "aevalsrc=" + LEFT + "|" + RIGHT + ":s={rate}:d={seconds}:c=stereo"


def ffmpeg(*arguments: str, stdin: bytes | None = None) -> bytes:
    """Run ffmpeg and return its output.

    Raises:
        AssertionError: it failed, with what it said.
    """
    command = ["ffmpeg", "-nostdin" if stdin is None else "-hide_banner", "-v", "error", "-threads", "1", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()[-500:]
    return done.stdout


def decoded(path: str | Path, *options: str) -> NDArray[np.int16]:
    """Return ffmpeg's decode of a file or URL at its native rate, int16, shape (samples, channels)."""
    kind = ffmpeg_probe(path)
    raw = ffmpeg(*options, "-i", str(path), "-map", "0:a:0", "-f", "s16le", "-")
    return np.frombuffer(raw, "<i2").reshape(-1, kind)


def ffmpeg_probe(path: str | Path) -> int:
    """Return the number of channels."""
    out = subprocess.run(
        [
            "ffprobe",
            "-v",
            "error",
            "-select_streams",
            "a:0",
            "-show_entries",
            "stream=channels",
            "-of",
            "csv=p=0",
            str(path),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return int(out.stdout.split()[0].strip(","))


# Every format of the promise: encoder options, and how ffmpeg cuts it into segments.
FORMATS: dict[str, tuple[list[str], str]] = {
    "ts-aac": (["-c:a", "aac", "-b:a", "128k"], "ts"),
    "ts-aac-plain": (["-c:a", "aac", "-b:a", "128k", "-aac_pns", "0"], "ts"),
    "ts-aac-48k": (["-c:a", "aac", "-b:a", "96k", "-ar", "48000"], "ts"),
    "ts-mp3": (["-c:a", "libmp3lame", "-b:a", "128k"], "ts"),
    "ts-ac3": (["-c:a", "ac3", "-b:a", "192k", "-ar", "48000"], "ts"),
    "ts-eac3": (["-c:a", "eac3", "-b:a", "192k", "-ar", "48000"], "ts"),
    "ts-opus": (["-c:a", "libopus", "-b:a", "96k", "-ar", "48000"], "ts"),
    "ts-mp2": (["-c:a", "mp2", "-b:a", "192k"], "ts"),
    "ts-latm": (["-c:a", "aac", "-b:a", "128k", "-mpegts_flags", "latm"], "whole-ts"),
    "fmp4-aac": (["-c:a", "aac", "-b:a", "128k"], "fmp4"),
    "fmp4-aac-plain": (["-c:a", "aac", "-b:a", "128k", "-aac_pns", "0"], "fmp4"),
    "fmp4-mp3": (["-c:a", "libmp3lame", "-b:a", "128k"], "fmp4"),
    "fmp4-ac3": (["-c:a", "ac3", "-ar", "48000"], "fmp4"),
    "fmp4-eac3": (["-c:a", "eac3", "-ar", "48000"], "fmp4"),
    "fmp4-opus": (["-c:a", "libopus", "-ar", "48000"], "fmp4"),
    "ts-aac-7.1": (["-ac", "8", "-c:a", "aac", "-b:a", "384k", "-ar", "48000"], "ts"),
    "fmp4-flac": (["-c:a", "flac", "-sample_fmt", "s16", "-strict", "-2"], "fmp4"),
    "fmp4-alac": (["-c:a", "alac", "-sample_fmt", "s16p"], "fmp4"),
    "packed-aac": (["-c:a", "aac", "-b:a", "128k", "-aac_pns", "0"], "adts"),
    "packed-mp3": (["-c:a", "libmp3lame", "-b:a", "128k"], "mp3"),
    "packed-ac3": (["-c:a", "ac3", "-ar", "48000"], "ac3"),
    "packed-eac3": (["-c:a", "eac3", "-ar", "48000"], "eac3"),
}


@functools.lru_cache(maxsize=64)
def _made(root: Path, name: str, seconds: float, rate: int) -> Path:
    """Make a stream of a format once: a folder with list.m3u8 and its segments of 2 s."""
    folder = root / f"{name}-{seconds:g}-{rate}"
    folder.mkdir()
    options, kind = FORMATS[name]
    source = ["-f", "lavfi", "-i", SOUND.format(rate=rate, seconds=seconds)]
    if kind in ("ts", "fmp4"):
        cut = ["-f", "hls", "-hls_time", "2", "-hls_list_size", "0", "-hls_playlist_type", "vod"]
        cut += ["-hls_segment_type", "mpegts" if kind == "ts" else "fmp4"]
        ffmpeg(*source, *options, *cut, str(folder / "list.m3u8"))
    elif kind == "whole-ts":
        _cut_ts(folder, ffmpeg(*source, *options, "-f", "mpegts", "-"), parts=4, seconds=seconds)
    else:
        mux = ["-write_xing", "0", "-id3v2_version", "0"] if kind == "mp3" else []
        whole = ffmpeg(*source, *options, "-f", kind, *mux, "-")
        _pack(folder, whole, kind, seconds)
    return folder


def _cut_ts(folder: Path, whole: bytes, parts: int, seconds: float) -> None:
    """Cut a transport stream where the audio's PES packets begin, PAT and PMT before each part (ffmpeg loses LATM)."""
    packets = [whole[at : at + 188] for at in range(0, len(whole), 188)]
    tables = packets[:3]
    starts = [n for n, p in enumerate(packets) if p[1] & 0x40 and ((p[1] & 0x1F) << 8 | p[2]) == 0x100]
    cuts = [starts[len(starts) * part // parts] for part in range(parts)] + [len(packets)]
    for part, (begin, end) in enumerate(pairwise(cuts)):
        (folder / f"{part}.ts").write_bytes(b"".join(tables + packets[begin:end]))
    (folder / "list.m3u8").write_text(media_playlist([f"{part}.ts" for part in range(parts)], seconds / parts))


def _pack(folder: Path, whole: bytes, kind: str, seconds: float) -> None:
    """Cut a raw audio file at frame borders into segments with an ID3 timestamp, as RFC 8216 section 3.4 asks."""
    frames, frame_s = frames_of(whole, kind)
    each = round(2.0 / frame_s)
    names, at = [], 0.0
    for index, begin in enumerate(range(0, len(frames), each)):
        part = b"".join(frames[begin : begin + each])
        name = f"{index}.{'aac' if kind == 'adts' else kind}"
        (folder / name).write_bytes(id3_timestamp(round(at * 90_000)) + part)
        names.append((name, len(frames[begin : begin + each]) * frame_s))
        at += names[-1][1]
    text = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n" + "".join(f"#EXTINF:{length:.5f},\n{name}\n" for name, length in names)
    (folder / "list.m3u8").write_text(text + "#EXT-X-ENDLIST\n")


def frames_of(whole: bytes, kind: str) -> tuple[list[bytes], float]:
    """Cut raw audio into frames with libav's parser; return them and the seconds of one."""
    with av.open(io.BytesIO(whole), format={"adts": "aac"}.get(kind, kind)) as container:
        stream = container.streams.audio[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        seconds = float(packets[1].duration * packets[1].time_base)
        return [bytes(packet) for packet in packets], seconds


def synchsafe(value: int) -> bytes:
    return bytes((value >> shift) & 0x7F for shift in (21, 14, 7, 0))


def id3(*frames: tuple[str, bytes]) -> bytes:
    """Return an ID3v2.4 tag."""
    body = b"".join(name.encode() + synchsafe(len(value)) + b"\0\0" + value for name, value in frames)
    return b"ID3\x04\0\0" + synchsafe(len(body)) + body


def id3_timestamp(pts: int) -> bytes:
    """Return the ID3 tag that gives a packed audio segment its timestamp."""
    return id3(("PRIV", b"com.apple.streaming.transportStreamTimestamp\0" + (pts & ((1 << 33) - 1)).to_bytes(8, "big")))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function: name of a format -> folder with list.m3u8 and its segments; made once a session."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg, which is not here")
    root = tmp_path_factory.mktemp("media")
    return lambda name, seconds=8.0, rate=44_100: _made(root, name, seconds, rate)
