"""Hostile byte streams for the fetcher's fuzzing: good stations broken, as one endless response would carry them.

An input is made from its number and a seed alone. Start at `station_input` and `hear_hostile_station`.
"""

from __future__ import annotations

import random
import subprocess
import threading

from benchmarks.fetcher_fuzz_inputs import mutated
from services.errors import GenreError
from services.fetcher.continuous.detection import what_is
from services.fetcher.continuous.icy import HEADER
from services.fetcher.continuous.reader import ContinuousReader
from services.fetcher.continuous.station import Audio, Station
from services.fetcher.events import Audio as HeardAudio
from services.fetcher.events import EpochEnded, EpochStarted, Gap
from services.fetcher.http.client import Origin
from services.fetcher.http.watch import StoppedError
from services.settings.schema import Hls, Stream

_ENCODERS = [
    ["-c:a", "libmp3lame", "-write_xing", "0", "-id3v2_version", "0", "-f", "mp3"],
    ["-c:a", "libmp3lame", "-metadata", "title=One", "-f", "mp3"],
    ["-c:a", "aac", "-f", "adts"],
    ["-c:a", "libvorbis", "-metadata", "title=Two", "-f", "ogg"],
    ["-c:a", "libopus", "-metadata", "artist=Three", "-f", "ogg"],
    ["-c:a", "flac", "-f", "ogg"],
    ["-c:a", "flac", "-f", "flac"],
]


def good_stations() -> list[bytes]:
    """Make short good streams with ffmpeg to begin from."""
    source = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "aevalsrc=0.5*sin(2764*t)|0.01*random(0):s=48000:d=0.7"]
    commands = [[*source, "-b:a", "64k", *encoder, "-"] for encoder in _ENCODERS]
    return [subprocess.run(command, check=True, capture_output=True).stdout for command in commands]


def station_input(number: int, seed: int, good: list[bytes]) -> tuple[bytes, int, int]:
    """Return the broken stream of this number, its interval of ICY metadata, and how many bytes come at once."""
    chance = random.Random(f"{seed}:{number}")
    parts = [mutated(chance.choice(good), chance) for _ in range(chance.choice((1, 1, 2, 3)))]
    return b"".join(parts), chance.choice((0, 0, 1, 417, 4_096)), chance.choice((1_448, 7, 65_536))


class _Response:
    """The body of a response, in pieces."""

    url = "http://h.example/live"

    def __init__(self, body: bytes, interval: int, step: int) -> None:
        self._body, self._step, self._at = body, step, 0
        self.headers = {HEADER: str(interval)}

    def read(self) -> bytes:
        piece = self._body[self._at : self._at + self._step]
        self._at += len(piece)
        return piece

    def close(self) -> None:
        pass


class _Once(Station):
    """A station that is never there again."""

    def reopen(self) -> Audio:
        raise StoppedError


def hear_hostile_station(body: bytes, interval: int, step: int) -> None:
    """Hear a hostile stream to its end and check that the positions add up."""
    found = what_is(body[:16_384], complete=True)
    if found is None or found.kind != "audio":
        return
    settings = Hls(playlist_retry={"attempts": 1, "first_wait_s": 1e-6, "longest_wait_s": 1e-6})
    origin = Origin(Stream(name="s", url=_Response.url), settings, threading.Event())
    reader = ContinuousReader(origin, _Once(origin, _Response.url))
    audio = Audio(_Response.url, found, _Response(body, interval, step), b"")  # type: ignore[arg-type]
    position, running = 0, None
    try:
        for item in reader.listen(audio):
            if isinstance(item, (HeardAudio, Gap, EpochStarted)):
                assert item.first_sample == position, item
            if isinstance(item, HeardAudio):
                assert running == item.epoch and len(item.pcm)
                position += len(item.pcm)
            elif isinstance(item, Gap):
                position += item.samples
            elif isinstance(item, EpochStarted):
                running = item.epoch
            elif isinstance(item, EpochEnded):
                assert item.end_sample == position, item
                running = None
    except (StoppedError, GenreError):
        pass
    finally:
        origin.close()
