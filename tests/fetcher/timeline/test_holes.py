"""The ledger does not lie: what was announced and gave no samples is a gap, and what was cut in two is heard whole."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from services.fetcher.events import EpochStarted, Gap, Report, Track
from services.fetcher.media.decoder import to_int16
from services.fetcher.segment import Segment
from services.fetcher.timeline import epochs as epochs_module
from services.fetcher.timeline.epochs import Epochs
from tests.fetcher.builders import Listened, ffmpeg, frames_of, id3, id3_timestamp, needs_ffmpeg
from tests.fetcher.media.test_framing import transport_stream
from tests.shared_data import shared

pytestmark = needs_ffmpeg
SOUND = ["-f", "lavfi", "-i", "aevalsrc=0.4*sin(2*PI*(200+50*t)*t)|0.3*sin(2*PI*(900+20*t)*t):s=44100:d=12"]
AAC = ["-c:a", "aac", "-b:a", "128k", "-aac_pns", "0"]
MP3 = ["-c:a", "libmp3lame", "-b:a", "128k", "-write_xing", "0", "-id3v2_version", "0"]
FRAME = 512
"""Samples of 22,050 Hz in a frame of AAC at 44,100 Hz."""


@dataclass
class Heard(Listened):
    """What was heard, and the native samples of each epoch, int16, shape (samples, channels)."""

    native: dict[int, NDArray[np.int16]] | None = None


def hear(parts: list[bytes], seconds: list[float], init: bytes | None = None, before: int = 0) -> Heard:
    """Hear segments to the end and check that positions join."""
    native: dict[int, list[Any]] = {}
    ear = Epochs(native=lambda epoch, rate, samples: native.setdefault(epoch, []).append(np.stack(samples)))
    heard = Heard()
    for number, (data, length) in enumerate(zip(parts, seconds, strict=True)):
        heard.items += ear.decode(Segment(number, 0, f"{number}.ts", length), data, init, 0.0)
    heard.items += ear.end()
    heard.check_ledger()
    heard.native = {n: to_int16(np.concatenate(samples, axis=1).T) for n, samples in native.items()}
    return heard


def timeline(heard: Heard) -> int:
    return len(heard.pcm()) + sum(gap.samples for gap in heard.gaps)


def oracle(data: bytes, form: str, channels: int = 2) -> NDArray[np.int16]:
    """Return ffmpeg's decode of a file."""
    raw = ffmpeg("-f", form, "-i", "-", "-map", "0:a:0", "-f", "s16le", "-", stdin=data)
    return np.frombuffer(raw, "<i2").reshape(-1, channels)


def assert_same(ours: NDArray[np.int16], theirs: NDArray[np.int16]) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max(initial=0) <= 1


def ruined(frame: bytes, seed: int) -> bytes:
    """Keep an ADTS header and put noise behind it."""
    return frame[:7] + random.Random(seed).randbytes(len(frame) - 7)


def aac_frames() -> list[bytes]:
    return frames_of(ffmpeg(*SOUND, *AAC, "-f", "adts", "-"), "adts")[0]


def packed(groups: list[list[bytes]]) -> list[bytes]:
    """Make packed segments with their ID3 timestamps."""
    at, segments = 0, []
    for group in groups:
        segments.append(id3_timestamp(round(at * 1024 / 44_100 * 90_000)) + b"".join(group))
        at += len(group)
    return segments


def in_ts(groups: list[list[bytes]]) -> list[bytes]:
    """Make transport streams whose clock runs on."""
    at, segments = 0, []
    for group in groups:
        segments.append(transport_stream(group, at))
        at += len(group)
    return segments


@pytest.mark.parametrize("wrap", [packed, in_ts], ids=["packed", "ts"])
def test_segments_whose_frames_do_not_decode_are_a_gap_as_long_as_they_are(wrap: Callable[..., list[bytes]]) -> None:
    parts = aac_frames()[:480]
    groups = [parts[at : at + 80] for at in range(0, 480, 80)]
    for k in (2, 3):
        groups[k] = [ruined(frame, 80 * k + n) for n, frame in enumerate(groups[k])]
    heard = hear(wrap(groups), [80 * 1024 / 44_100] * 6)
    assert heard.reasons == ["start", "gap"]
    (gap,) = heard.gaps
    assert (gap.first_sample, gap.samples, gap.cause) == (160 * FRAME, 160 * FRAME, "undecodable")
    assert timeline(heard) == 480 * FRAME
    assert_same(heard.native[0], oracle(b"".join(parts[:160]), "aac"))
    assert_same(heard.native[1], oracle(b"".join(parts[320:]), "aac"))
    assert sum(r.numbers["seconds"] for r in heard.of(Report)) == pytest.approx(160 * 1024 / 44_100, abs=0.01)


def test_samples_of_fragmented_mp4_that_do_not_decode_are_a_gap(made: Any) -> None:
    folder: Path = made("fmp4-aac-plain")
    parts = [(folder / f"list{n}.m4s").read_bytes() for n in range(4)]
    init = (folder / "init.mp4").read_bytes()
    body = parts[1].index(b"mdat") + 4
    whole = timeline(hear(parts, [2.0] * 4, init))
    noise = parts[1][:body] + random.Random(0).randbytes(len(parts[1]) - body)
    heard = hear([parts[0], noise, *parts[2:]], [2.0] * 4, init)
    assert timeline(heard) == whole
    assert sum(gap.samples for gap in heard.gaps) > 1.7 * 22_050 and {g.cause for g in heard.gaps} == {"undecodable"}


@pytest.mark.parametrize("wrap", [packed, in_ts], ids=["packed", "ts"])
def test_one_damaged_frame_costs_itself_and_shifts_nothing(wrap: Callable[..., list[bytes]]) -> None:
    parts = aac_frames()[:160]
    whole = list(parts)
    parts[100] = parts[100][:7] + b"\xff" * (len(parts[100]) - 7)
    heard = hear(wrap([parts[:80], parts[80:]]), [80 * 1024 / 44_100] * 2)
    (gap,) = heard.gaps
    assert (gap.first_sample, gap.samples, gap.cause) == (100 * FRAME, FRAME, "undecodable")
    assert timeline(heard) == 160 * FRAME
    assert_same(heard.native[1][1024:], oracle(b"".join(whole[101:]), "aac")[1024:])


def test_a_segment_broken_all_over_ends_as_one_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs_module, "MOST_PIECES", 5)
    parts = aac_frames()[:160]
    parts[:80] = [ruined(f, n)[:7] + b"\xff" * (len(f) - 7) if n % 4 == 3 else f for n, f in enumerate(parts[:80])]
    heard = hear(in_ts([parts[:80], parts[80:]]), [80 * 1024 / 44_100] * 2)
    assert timeline(heard) == 160 * FRAME and len(heard.of(EpochStarted)) == 7
    assert heard.gaps[-1].first_sample + heard.gaps[-1].samples == 80 * FRAME


@pytest.mark.parametrize("tagged", [True, False], ids=["timestamps", "no-timestamps"])
def test_an_unreadable_start_is_a_gap_as_long_as_the_segment_leaves(tagged: bool) -> None:
    parts = aac_frames()[:240]
    segments = packed([parts[:80], parts[80:160], parts[160:]])
    if not tagged:
        segments = [b"".join(parts[n : n + 80]) for n in (0, 80, 160)]
    start = len(segments[1]) - len(b"".join(parts[80:160]))
    lost = len(b"".join(parts[80:120]))
    segments[1] = segments[1][:start] + bytes(lost) + segments[1][start + lost :]
    heard = hear(segments, [80 * 1024 / 44_100] * 3)
    (gap,) = heard.gaps
    assert (gap.first_sample, gap.cause) == (80 * FRAME, "undecodable")
    assert abs(gap.samples - 40 * FRAME) <= 1 and abs(timeline(heard) - 240 * FRAME) <= 1


@pytest.mark.parametrize("codec", ["aac", "mp3", "ac3"])
def test_packed_audio_cut_at_any_byte_is_heard_whole(codec: str) -> None:
    options = {"aac": AAC, "mp3": MP3, "ac3": ["-c:a", "ac3", "-ar", "48000"]}[codec]
    data = ffmpeg(*SOUND, *options, "-f", {"aac": "adts"}.get(codec, codec), "-")
    size = len(data) // 6 + 1
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    heard = hear(parts, [2.0] * 6)
    assert heard.reasons == ["start"] and not heard.gaps
    assert_same(heard.native[0], whole_of(codec, data))


def whole_of(codec: str, data: bytes) -> NDArray[np.int16]:
    options = ["-cons_noisegen", "1"] if codec == "ac3" else []
    raw = ffmpeg(*options, "-f", codec, "-i", "-", "-f", "s16le", "-", stdin=data)
    return np.frombuffer(raw, "<i2").reshape(-1, 2)


@pytest.mark.parametrize(
    ("name", "options"),
    [("aac", AAC), ("mp3", MP3[:4]), ("ac3", ["-c:a", "ac3", "-ar", "48000"]), ("opus", ["-c:a", "libopus"])],
)
@pytest.mark.parametrize("tables", ["everywhere", "first"])
def test_a_transport_stream_cut_at_any_packet_is_heard_whole(name: str, options: list[str], tables: str) -> None:
    """Cut inside PES packets; PAT and PMT every half second, or in the first segment alone."""
    data = ffmpeg(*SOUND, *options, "-f", "mpegts", "-pat_period", "0.5", "-")
    rows = [data[at : at + 188] for at in range(0, len(data), 188)]
    size = len(rows) // 7 + 1
    parts = [rows[at : at + size] for at in range(0, len(rows), size)]
    if tables == "first":
        parts[1:] = [[row for row in part if (row[1] & 0x1F) << 8 | row[2] == 0x100] for part in parts[1:]]
    heard = hear([b"".join(part) for part in parts], [12 / 7] * 7)
    assert heard.reasons == ["start"] and not heard.gaps and not heard.of(Report)
    extra = ["-cons_noisegen", "1"] if name == "ac3" else []
    raw = ffmpeg(*extra, "-f", "mpegts", "-i", "-", "-f", "s16le", "-", stdin=data)
    assert_same(heard.native[0], np.frombuffer(raw, "<i2").reshape(-1, 2))


def test_what_a_discontinuity_leaves_unfinished_is_heard_as_far_as_it_goes_and_the_rest_is_a_gap() -> None:
    data = b"".join(aac_frames()[:80])
    heard = hear([data[:-100]], [80 * 1024 / 44_100])
    (gap,) = heard.gaps
    assert (gap.first_sample, gap.samples, gap.cause) == (79 * FRAME, FRAME, "undecodable")


def test_frames_lost_one_by_one_add_up_to_a_gap() -> None:
    """Each jump of the timestamps is below the tolerance; together they are not."""
    parts = aac_frames()[:480]
    segments = in_ts([parts[at : at + 80] for at in range(0, 480, 80)])
    fewer = in_ts([parts[at : at + 78] + [b""] * 2 for at in range(0, 480, 80)])
    heard = hear([*fewer[:5], segments[5]], [80 * 1024 / 44_100] * 6)
    assert sum(gap.samples for gap in heard.gaps) > 4 * FRAME
    assert abs(timeline(heard) - 480 * FRAME) <= 0.1 * 22_050


def test_mp3_files_with_a_table_of_contents_each_lose_nothing_between_them(tmp_path: Path) -> None:
    cut = ["-f", "segment", "-segment_time", "2", "-segment_format", "mp3"]
    ffmpeg(*SOUND, "-c:a", "libmp3lame", "-b:a", "128k", *cut, str(tmp_path / "%d.mp3"))
    files = [
        data
        for n in range(9)
        if (tmp_path / f"{n}.mp3").exists() and len(data := (tmp_path / f"{n}.mp3").read_bytes()) > 5_000
    ]
    assert len(files) > 4 and all(b"Info" in data[:300] or b"Xing" in data[:300] for data in files)
    heard = hear(files, [2.0] * len(files))
    plain = b"".join(frame for data in files for frame in frames_of(data, "mp3")[0])
    assert heard.reasons == ["start"] and not heard.gaps
    theirs = oracle(plain, "mp3")
    assert_same(heard.native[0], theirs[len(theirs) - len(heard.native[0]) :])
    assert len(theirs) - len(heard.native[0]) in (0, 1_105)  # the encoder's delay, once


def test_aac_and_he_aac_in_one_packet_are_both_heard() -> None:
    """Both have the same ADTS header: only the decoder finds out."""
    he = frames_of(
        ffmpeg("-i", str(shared("data", "hls-streams", "id3-metadata.ts")), "-c", "copy", "-f", "adts", "-"), "adts"
    )[0][:64]
    rate = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050)[he[0][2] >> 2 & 15]
    channels = (he[0][2] & 1) << 2 | he[0][3] >> 6
    low = ffmpeg(*SOUND, "-ar", str(rate), "-ac", str(channels), *AAC, "-f", "adts", "-")
    lc = frames_of(low, "adts")[0][:60]
    heard = hear([b"".join(lc + he)], [124 * 1024 / rate])
    assert heard.reasons[:2] == ["start", "format"] and not heard.gaps
    assert heard.native[0].shape == (60 * 1024, channels)
    assert sum(len(heard.native[n]) for n in range(1, len(heard.native))) == 64 * 2048


def test_a_title_within_packed_audio_is_a_track_at_its_place() -> None:
    parts = aac_frames()[:160]
    tag = id3(("TIT2", b"\x03Teardrop"), ("TPE1", b"\x00Bj\xf6rk"))
    middle = b"".join(parts[80:120]) + tag + b"".join(parts[120:])
    heard = hear([b"".join(parts[:80]), middle], [80 * 1024 / 44_100] * 2)
    assert heard.of(Track) == [Track(120 * FRAME, "Teardrop", "Björk")]
    assert heard.reasons == ["start"] and len(heard.pcm()) == 160 * FRAME and not heard.of(Gap)
