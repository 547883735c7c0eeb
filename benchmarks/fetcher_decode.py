"""Decode and resample: audio-seconds per CPU-second of this fetcher, against one ffmpeg process over the same stream.

Both in the same run, in turns, so that a busy machine slows both. No network: the segments are in memory, and ffmpeg
reads the same bytes from a file. Run `python -m benchmarks.fetcher_decode`.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from services.fetcher.epochs import Epochs
from services.fetcher.heard import SAMPLE_RATE, Audio
from services.fetcher.playlist import Segment


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
        for item in epochs.hear(Segment(number, 0, f"{number}.ts", 4.0), data, None, 0.0):
            samples += len(item.pcm) if isinstance(item, Audio) else 0
    for item in epochs.end():
        samples += len(item.pcm) if isinstance(item, Audio) else 0
    return samples / SAMPLE_RATE / (time.process_time() - began)


def ffmpeg(whole: Path, seconds: float) -> float:
    """Let one ffmpeg process do the same; return audio-seconds per CPU-second, its start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["ffmpeg", "-v", "error", "-threads", "1", "-i", str(whole), "-ac", "1", "-ar", str(SAMPLE_RATE)]
    subprocess.run([*command, "-f", "s16le", "-y", "/dev/null"], check=True)
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
        turns = [(ours(segments), ffmpeg(whole, options.seconds)) for _ in range(options.turns)]
    fetcher, process = (statistics.median(column) for column in zip(*turns, strict=True))
    ratio = statistics.median(a / b for a, b in turns)
    print(json.dumps({"fetcher": round(fetcher), "ffmpeg": round(process), "ratio": round(ratio, 2)}))


if __name__ == "__main__":
    main()
