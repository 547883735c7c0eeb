"""Decode and resample: audio-seconds per CPU-second of this fetcher, against one ffmpeg process over the same stream.

All in the same run, in turns, so that a busy machine slows each. No network: the segments are in memory, and ffmpeg
reads the same bytes from a file; once with its own resampler, once with the fetcher's (soxr, 28 bits), where it was
built with that. Run `python -m benchmarks.fetcher_decode`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # as every unit has it: else OpenBLAS keeps a second thread spinning

from services.contract.windows import SAMPLE_RATE
from services.fetcher.events import Audio
from services.fetcher.segment import Segment
from services.fetcher.timeline.epochs import Epochs


def make(folder: Path, seconds: int) -> list[bytes]:
    """Make a stream of noise and tones with ffmpeg, AAC 128 kbit/s in TS, 4-s segments; return the segments."""
    sound = f"aevalsrc=0.4*sin(2*PI*(200+5*t)*t)+0.1*(random(0)-0.5)|0.3*sin(2*PI*3000*t):s=44100:d={seconds}"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", sound, "-c:a", "aac", "-b:a", "128k"]
    command += ["-f", "hls", "-hls_time", "4", "-hls_list_size", "0", str(folder / "list.m3u8")]
    subprocess.run(command, check=True)
    names = [line for line in (folder / "list.m3u8").read_text().splitlines() if line and line[0] != "#"]
    return [(folder / name).read_bytes() for name in names]


def ours(segments: list[bytes]) -> float:
    """Decode and resample all segments; return audio-seconds per CPU-second."""
    began = time.process_time()
    epochs, samples = Epochs(), 0
    for number, data in enumerate(segments):
        for item in epochs.decode(Segment(number, 0, f"{number}.ts", 4.0), data, None, 0.0):
            samples += len(item.pcm) if isinstance(item, Audio) else 0
    for item in epochs.end():
        samples += len(item.pcm) if isinstance(item, Audio) else 0
    return samples / SAMPLE_RATE / (time.process_time() - began)


def ffmpeg(whole: Path, seconds: float, *resampler: str) -> float:
    """Let one ffmpeg process do the same; return audio-seconds per CPU-second, its start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["ffmpeg", "-v", "error", "-threads", "1", "-i", str(whole), *resampler, "-ac", "1"]
    subprocess.run([*command, "-ar", str(SAMPLE_RATE), "-f", "s16le", "-y", "/dev/null"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds / (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    """Measure in turns and print the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        segments = make(folder, options.seconds)
        whole = folder / "whole.ts"
        whole.write_bytes(b"".join(segments))
        ours(segments[:4])
        with_soxr = ("-af", "aresample=resampler=soxr:precision=28") if _knows_soxr() else ()
        turns = [
            (ours(segments), ffmpeg(whole, options.seconds), ffmpeg(whole, options.seconds, *with_soxr))
            for _ in range(options.turns)
        ]
    names = ("fetcher", "ffmpeg", "ffmpeg_soxr" if with_soxr else "ffmpeg_again")
    figures: dict[str, float] = {
        name: round(statistics.median(column)) for name, column in zip(names, zip(*turns, strict=True), strict=True)
    }
    for place, name in enumerate(names[1:], 1):
        figures[f"ratio_to_{name}"] = round(statistics.median(turn[0] / turn[place] for turn in turns), 2)
    print(json.dumps(figures))


def _knows_soxr() -> bool:
    """Say whether ffmpeg was built with soxr."""
    done = subprocess.run(["ffmpeg", "-v", "error", "-buildconf"], capture_output=True, text=True, check=True)
    return "--enable-libsoxr" in done.stdout + done.stderr


if __name__ == "__main__":
    main()
