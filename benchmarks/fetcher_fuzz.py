"""Fuzzes the fetcher: playlists, ID3, keys and segments; by mutation or, with --coverage, guided (atheris).

Stops at the first broken promise: another exception than the stated ones, a broken ledger, an input that takes longer
than 10 s, or memory beyond 1 GiB. `make fuzz` runs it; tests/fetcher/test_fuzz.py runs a little of it each time.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from services.fetcher import epochs, id3, live, mp4, playlist, segment_media
from services.fetcher.encryption import DecryptionError, decrypt
from services.fetcher.epochs import Epochs
from services.fetcher.heard import Audio, EpochEnded, EpochStarted, Gap
from services.fetcher.live import Follower
from services.fetcher.playlist import MediaPlaylist, PlaylistError, Segment, parse

MEMORY_BYTES = 1 << 30
LONGEST_S = 10.0
SEEDS = [
    """#EXTM3U
#EXT-X-VERSION:7
#EXT-X-TARGETDURATION:4
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-DISCONTINUITY-SEQUENCE:2
#EXT-X-MAP:URI="init.mp4",BYTERANGE="720@0"
#EXT-X-KEY:METHOD=AES-128,URI="key",IV=0x00000000000000000000000000000001
#EXT-X-PROGRAM-DATE-TIME:2024-01-01T00:00:00.000Z
#EXTINF:4.0,Artist - Title
#EXT-X-BYTERANGE:100@720
a.mp4
#EXT-X-DISCONTINUITY
#EXT-X-GAP
#EXTINF:4.0,
b.mp4
#EXT-X-ENDLIST
""",
    """#EXTM3U
#EXT-X-DEFINE:NAME="a",VALUE="b"
#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="g",NAME="English",LANGUAGE="en",DEFAULT=YES,URI="{$a}.m3u8"
#EXT-X-STREAM-INF:BANDWIDTH=128000,CODECS="mp4a.40.2",AUDIO="g",RESOLUTION=320x180
v.m3u8
""",
]


def parse_hostile(text: str) -> None:
    """Read a hostile playlist and follow it, as a live stream does."""
    try:
        read = parse(text, "http://h.example/a/list.m3u8")
    except PlaylistError:
        return
    if isinstance(read, MediaPlaylist):
        follower = Follower(3.0, 60.0)
        for now in (0.0, 5.0):
            for segment in follower.update(read, now, patient=now > 0).segments[:3]:
                follower.take(segment)


def hear_hostile(parts: list[bytes], init: bytes | None = None) -> None:
    """Hear hostile segments and check that the positions add up."""
    ear = Epochs()
    items = []
    for number, data in enumerate(parts):
        segment = Segment(number, 0, f"{number}.ts", 2.0, "Artist - Title")
        items += list(ear.hear(segment, data, init, 0.0))
    items += list(ear.end())
    position = 0
    for item in items:
        if isinstance(item, (Audio, Gap, EpochStarted)):
            assert item.first_sample == position, item
        if isinstance(item, Audio):
            position += len(item.pcm)
        elif isinstance(item, Gap):
            position += item.samples
        elif isinstance(item, EpochEnded):
            assert item.end_sample == position, item
    assert position == ear.position


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return data with a few random bytes changed, a stretch lost, repeated or moved, or the end cut off."""
    body = bytearray(data)
    for _ in range(chance.choice((0, 1, 1, 3, 30, 300))):
        if not body:
            break
        at = chance.randrange(len(body))
        kind = chance.randrange(6)
        if kind < 3:
            body[at] = chance.choice((0, 0xFF, 0x47, chance.randrange(256)))
        elif kind == 3:
            del body[at : at + chance.choice((1, 7, 188, 4_000))]
        elif kind == 4:
            body[at:at] = body[at : at + chance.choice((1, 188, 2_000))]
        else:
            body[at : at + 4] = chance.getrandbits(32).to_bytes(4, "big")
    if chance.random() < 0.1:
        del body[chance.randrange(len(body) + 1) :]
    return bytes(body)


def one_input(data: bytes) -> None:
    """Try one input of the coverage-guided fuzzer: its first byte says on what."""
    kind, body = data[:1], data[1:]
    if kind < b"\x80":
        parse_hostile(body.decode("utf-8", "replace"))
    elif kind < b"\xa0":
        id3.strip(b"ID3" + body)
        id3.read(b"ID3" + body)
    elif kind < b"\xb0":
        mp4.Init.read(body)
        list(mp4.id3_events(body))
    elif kind < b"\xc0":
        with contextlib.suppress(DecryptionError):
            decrypt(body[16:], body[:16], bytes(16))
    else:
        hear_hostile([body])


def segments() -> list[tuple[list[bytes], bytes | None]]:
    """Make small good streams with ffmpeg to begin from: parts and initialization section."""
    made: list[tuple[list[bytes], bytes | None]] = []
    kinds = {"ts": ["aac", "libmp3lame", "ac3", "eac3", "libopus"], "fmp4": ["aac", "flac"]}
    for container, codecs in kinds.items():
        for codec in codecs:
            with tempfile.TemporaryDirectory() as name:
                command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=440:d=3:r=48000", "-c:a", codec]
                command += ["-b:a", "64k", "-strict", "-2", "-f", "hls", "-hls_time", "1", "-hls_list_size", "0"]
                command += ["-hls_segment_type", "fmp4" if container == "fmp4" else "mpegts", f"{name}/list.m3u8"]
                subprocess.run(command, check=True)
                init = Path(name, "init.mp4")
                lines = Path(name, "list.m3u8").read_text().splitlines()
                parts = [Path(name, line).read_bytes() for line in lines if line and line[0] != "#"]
                made.append((parts[:2], init.read_bytes() if init.exists() else None))
    for codec, form in (("aac", "adts"), ("libmp3lame", "mp3"), ("ac3", "ac3")):
        command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=440:d=2:r=48000", "-c:a", codec, "-f", form, "-"]
        made.append(([subprocess.run(command, check=True, capture_output=True).stdout], None))
    return made


def limits() -> None:
    """Hold memory to the stated bound: beyond it an allocation fails, and with it the run."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert used < MEMORY_BYTES, f"{used:,} bytes of memory"


def main() -> None:
    """Run the mutation fuzzer for so many inputs, or the coverage-guided one for so long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--playlists", type=int, default=1_000_000)
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--coverage", type=int, metavar="RUNS", help="use atheris for so many runs instead")
    options = parser.parse_args()
    if options.coverage:
        _guided(options.coverage)
        return
    chance = random.Random(options.seed)
    began, slowest = time.monotonic(), 0.0
    texts = [seed.encode() for seed in SEEDS]
    for number in range(options.playlists):
        parse_hostile(mutated(chance.choice(texts), chance).decode("utf-8", "replace"))
        if number % 10_000 == 0:
            limits()
    middle = time.monotonic()
    good = segments() if options.segments else []
    for number in range(options.segments):
        parts, init = chance.choice(good)
        start = time.monotonic()
        hear_hostile([mutated(part, chance) for part in parts], mutated(init, chance) if init else None)
        slowest = max(slowest, time.monotonic() - start)
        assert slowest < LONGEST_S, f"input {number} took {slowest:.1f} s"
        if number % 1_000 == 0:
            limits()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    figures = {"playlists": options.playlists, "playlists_s": round(middle - began), "segments": options.segments}
    figures |= {"segments_s": round(time.monotonic() - middle), "slowest_s": round(slowest, 2), "peak_mib": peak}
    print(json.dumps(figures))


def _guided(runs: int) -> None:
    """Let atheris look for inputs that reach new code."""
    import atheris  # in the extra "fuzz"; Linux only

    with tempfile.TemporaryDirectory() as corpus:
        for number, text in enumerate(SEEDS):
            Path(corpus, f"p{number}").write_bytes(b"\0" + text.encode())
        for number, (parts, _) in enumerate(segments()):
            Path(corpus, f"s{number}").write_bytes(b"\xff" + parts[0][:20_000])
        for module in (playlist, live, id3, mp4, epochs, segment_media):
            classes = [vars(thing) for thing in vars(module).values() if inspect.isclass(thing)]
            for names in (vars(module), *classes):
                for thing in names.values():
                    if inspect.isfunction(thing) and thing.__module__ == module.__name__:
                        atheris.instrument_func(thing)
        atheris.Setup(
            [sys.argv[0], f"-runs={runs}", "-max_len=20000", "-timeout=10", "-rss_limit_mb=1024", corpus], one_input
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
