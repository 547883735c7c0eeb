"""Hostile inputs for the fetcher's fuzzing: good playlists and segments, and ways to break them.

An input is made from its number and a seed alone, so that a failure can be had again: `playlist_input`,
`segment_input`. What must hold for each of them is fetcher_fuzz.py.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
from pathlib import Path

Good = list[tuple[list[bytes], bytes | None]]

PLAYLISTS = [
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
    """#EXTM3U
#EXT-X-TARGETDURATION:2.5
#EXT-X-SERVER-CONTROL:CAN-SKIP-UNTIL=12,HOLD-BACK=6
#EXT-X-SKIP:SKIPPED-SEGMENTS=3
#EXT-X-START:TIME-OFFSET=-4.5
#EXT-X-KEY:METHOD=NONE
#EXTINF:2.5,title="a",artist="b"
#EXT-X-BYTERANGE:100
all.ts
#EXT-X-PART:DURATION=0.5,URI="p.ts"
""",
]

# Every codec that is read, in every container that carries it here, at low rates: small inputs are quick ones.
_IN_CONTAINERS = {
    "mpegts": ["aac", "libmp3lame", "mp2", "ac3", "eac3", "libopus"],
    "fmp4": ["aac", "libmp3lame", "ac3", "libopus", "flac", "alac"],
}
_PACKED = [("aac", "adts"), ("libmp3lame", "mp3"), ("ac3", "ac3"), ("eac3", "eac3")]


def good_segments() -> Good:
    """Make short good streams with ffmpeg to begin from: (parts, initialization section) of each."""
    source = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "aevalsrc=0.5*sin(2764*t)|0.01*random(0):s=48000:d=0.5"]
    encoder = ["-b:a", "64k", "-strict", "-2", "-c:a"]
    made: Good = []
    for container, codecs in _IN_CONTAINERS.items():
        for codec in codecs:
            with tempfile.TemporaryDirectory() as name:
                cut = ["-f", "hls", "-hls_time", "0.2", "-hls_list_size", "0", "-hls_segment_type", container]
                subprocess.run([*source, *encoder, codec, *cut, f"{name}/list.m3u8"], check=True)
                init = Path(name, "init.mp4")
                lines = Path(name, "list.m3u8").read_text().splitlines()
                parts = [Path(name, line).read_bytes() for line in lines if line and line[0] != "#"]
                made.append((parts[:2], init.read_bytes() if init.exists() else None))
    for codec, form in [*_PACKED, ("aac", "latm")]:
        command = [*source, *encoder, codec]
        command += ["-f", "mpegts", "-mpegts_flags", "latm"] if form == "latm" else ["-f", form]
        whole = subprocess.run([*command, "-"], check=True, capture_output=True).stdout
        made.append(([whole[: len(whole) // 2], whole[len(whole) // 2 :]] if form != "latm" else [whole], None))
    return made


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return data with a few random bytes changed, a stretch lost, repeated or moved, or the end cut off."""
    body = bytearray(data)
    for _ in range(chance.choice((0, 1, 1, 3, 10, 100))):
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


def playlist_input(number: int, seed: int) -> str:
    """Return the broken playlist of this number."""
    chance = random.Random(f"{seed}:{number}")
    return mutated(chance.choice(PLAYLISTS).encode(), chance).decode("utf-8", "replace")


def segment_input(number: int, seed: int, good: Good) -> tuple[list[bytes], bytes | None]:
    """Return the broken segments of this number, and their initialization section; now and then of mixed formats."""
    chance = random.Random(f"{seed}:{number}")
    parts, init = chance.choice(good)
    if chance.random() < 0.1:
        parts = [*parts, *chance.choice(good)[0]]
    if init is not None and chance.random() < 0.3:
        init = mutated(init, chance)
    return [mutated(part, chance) for part in parts], init
