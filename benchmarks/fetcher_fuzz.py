"""Fuzzes the fetcher: playlists, ID3, keys, segments and stations; by mutation or, with --coverage, guided (atheris).

Broken promises are: another exception than the stated ones, a crash in C, a ledger that does not add up, an input that
takes longer than LONGEST_S, memory beyond MEMORY_BYTES. A process of its own tries the inputs; this one watches it,
names the input that ended it and goes on with the next. `make fuzz` runs it; tests/fetcher/media/test_fuzz.py a little
of it.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import mmap
import pickle
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.fetcher_fuzz_inputs import PLAYLISTS, good_segments, playlist_input, segment_input
from benchmarks.fetcher_fuzz_stations import good_stations, hear_hostile_station, station_input
from services.fetcher.events import Audio, EpochEnded, EpochStarted, Gap
from services.fetcher.hls import playlist, playlist_lines, reload
from services.fetcher.hls.encryption import DecryptionError, decrypt
from services.fetcher.hls.playlist import MediaPlaylist, PlaylistError, parse
from services.fetcher.hls.reload import PlaylistFollower
from services.fetcher.media import frames, framing, id3, mp4, packed, segment_media, sniff, transport_stream
from services.fetcher.segment import Segment
from services.fetcher.timeline import epochs
from services.fetcher.timeline.epochs import Epochs

MEMORY_BYTES = 1 << 30
LONGEST_S = 10.0
"""Of CPU time, so that a busy machine is no failure; an input that does nothing at all is given WAITING_S."""
WAITING_S = 300.0
MOST_FAILURES = 20
# What the two processes share: number of the input, CPU seconds when it began (before the first one: infinite), the
# slowest one's CPU seconds and number, peak MiB.
_STATE = struct.Struct("<qddqq")
_NOT_YET = float("inf")
_GOOD: dict[str, Callable[[], object]] = {"segments": good_segments, "stations": good_stations}


def parse_hostile(text: str) -> None:
    """Read a hostile playlist and follow it, as a live stream does."""
    try:
        read = parse(text, "http://h.example/a/list.m3u8")
    except PlaylistError:
        return
    if isinstance(read, MediaPlaylist):
        follower = PlaylistFollower(3.0, 60.0)
        for now in (0.0, 5.0):
            for segment in follower.update(read, now, patient=now > 0).segments[:3]:
                follower.take(segment)


def hear_hostile(parts: list[bytes], init: bytes | None = None) -> None:
    """Hear hostile segments and check that the positions add up."""
    ear = Epochs()
    position = 0
    for number, data in enumerate([*parts, None]):
        segment = Segment(number, 0, f"{number}.ts", 2.0, "Artist - Title")
        for item in ear.end() if data is None else ear.decode(segment, data, init, 0.0):
            if isinstance(item, (Audio, Gap, EpochStarted)):
                assert item.first_sample == position, item
            if isinstance(item, Audio):
                position += len(item.pcm)
            elif isinstance(item, Gap):
                position += item.samples
            elif isinstance(item, EpochEnded):
                assert item.end_sample == position, item
    assert position == ear.position


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


def _peak_mib() -> int:
    """Return the most memory that this process ever had."""
    # Not ru_maxrss: that keeps the peak of the process that started this one.
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) >> 10


def _try(kind: str, first: int, last: int, seed: int, folder: Path) -> None:
    """Try the inputs from first to before last, in the watched process; the first broken promise ends it."""
    good = pickle.loads((folder / "good").read_bytes()) if kind in _GOOD else []
    with (folder / "state").open("r+b") as file, mmap.mmap(file.fileno(), _STATE.size) as state:
        _, _, slowest, slowest_number, before = _STATE.unpack(state[:])
        for number in range(first, last):
            began = time.process_time()
            # Not pack_into: that clears what it writes over, and who watches would read an input begun at time 0.
            state[:] = _STATE.pack(number, began, slowest, slowest_number, max(_peak_mib(), before))
            if kind == "segments":
                hear_hostile(*segment_input(number, seed, good))
            elif kind == "stations":
                hear_hostile_station(*station_input(number, seed, good))
            else:
                parse_hostile(playlist_input(number, seed))
            took = time.process_time() - began
            if took > slowest:
                slowest, slowest_number = took, number
            peak = _peak_mib()
            assert peak < MEMORY_BYTES >> 20, f"{peak} MiB of memory"
        state[:] = _STATE.pack(last, _NOT_YET, slowest, slowest_number, max(_peak_mib(), before))


@dataclass
class Outcome:
    """What a run of inputs of one kind came to."""

    kind: str
    inputs: int = 0
    seconds: int = 0
    slowest_s: float = 0.0
    slowest: int = 0
    peak_mib: int = 0
    failures: list[str] = field(default_factory=list)


def watched(kind: str, first: int, count: int, seed: int) -> Outcome:
    """Try so many inputs of a kind in a process of its own, and a new one after each failure."""
    outcome, began, start, last = Outcome(kind), time.monotonic(), first, first + count
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if kind in _GOOD:
            (folder / "good").write_bytes(pickle.dumps(_GOOD[kind]()))
        slowest, which, peak = 0.0, 0, 0
        while first < last and len(outcome.failures) < MOST_FAILURES:
            (folder / "state").write_bytes(_STATE.pack(first, _NOT_YET, slowest, which, peak))
            command = [sys.executable, "-X", "faulthandler", "-m", "benchmarks.fetcher_fuzz", "--inside", kind]
            command += [str(number) for number in (first, last, seed)] + [name]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            cause = wait_for_end(process, folder / "state")
            number, _, slowest, which, peak = _STATE.unpack((folder / "state").read_bytes())
            outcome.slowest_s, outcome.slowest, outcome.peak_mib = round(slowest, 2), which, peak
            first = number + 1 if cause else last
            if cause:
                outcome.failures.append(f"{kind} input {number}: {cause}")
                print(f"{kind} input {number}, seed {seed}: {cause}", file=sys.stderr)
            outcome.inputs = first - start
    outcome.seconds = round(time.monotonic() - began)
    return outcome


def wait_for_end(process: subprocess.Popen[bytes], state: Path) -> str:
    """Wait for the watched process; return why it ended early, '' where it did not."""
    since, last = time.monotonic(), (-1, 0.0)
    watched = psutil.Process(process.pid)
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(1.0)
            return "" if code == 0 else f"signal {-code}, a crash in C" if code < 0 else "an exception, see above"
        number, began, *_ = _STATE.unpack(state.read_bytes())
        with contextlib.suppress(psutil.Error):
            times = watched.cpu_times()
            used = times.user + times.system
            if (number, used) != last:
                since, last = time.monotonic(), (number, used)
            waits = time.monotonic() - since > WAITING_S
            if used - began > LONGEST_S or waits:
                process.kill()
                process.wait()
                return f"does nothing for {WAITING_S:g} s" if waits else f"takes longer than {LONGEST_S:g} s"


def main() -> None:
    """Run the mutation fuzzer for so many inputs, or the coverage-guided one for so long; print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--playlists", type=int, default=1_000_000)
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--stations", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--coverage", type=int, metavar="RUNS", help="use atheris for so many runs instead")
    parser.add_argument("--inside", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        kind, first, last, seed, folder = options.inside
        _try(kind, int(first), int(last), int(seed), Path(folder))
        return
    if options.coverage:
        _guided(options.coverage)
        return
    failed = False
    for kind in ("playlists", "segments", "stations"):
        count = getattr(options, kind)
        if count:
            outcome = watched(kind, options.first, count, options.seed)
            failed |= bool(outcome.failures)
            print(json.dumps(vars(outcome)), flush=True)
    sys.exit(failed)


def _guided(runs: int) -> None:
    """Let atheris look for inputs that reach new code."""
    import atheris  # in the extra "fuzz"; Linux only

    with tempfile.TemporaryDirectory() as corpus:
        for number, text in enumerate(PLAYLISTS):
            Path(corpus, f"p{number}").write_bytes(b"\0" + text.encode())
        for number, (parts, init) in enumerate(good_segments()):
            Path(corpus, f"s{number}").write_bytes(b"\xff" + ((init or b"") + parts[0])[:20_000])
        Path(corpus, "i").write_bytes(b"\x80\x04\0\0\0\0\0\x0fTIT2\0\0\0\x05\0\0\x03Blue")
        media = (frames, framing, id3, mp4, packed, segment_media, sniff, transport_stream)
        for module in (playlist, playlist_lines, reload, epochs, *media):
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
