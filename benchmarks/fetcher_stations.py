"""Many stations in one process: listeners of a real Icecast that ffmpeg feeds with MP3, AAC, Ogg Opus and FLAC.

Measures the fetcher's side alone: CPU, memory, and whether every station keeps up with real time. Needs icecast2.
`python -m benchmarks.fetcher_stations`.
"""

from __future__ import annotations

import argparse
import json
import resource
import threading
import time

from benchmarks.icecast import Icecast
from benchmarks.run_process import as_a_service
from services.contract.windows import SAMPLE_RATE
from services.fetcher.events import Audio, Gap, Report
from services.fetcher.source import StreamSource
from services.settings.schema import Hls, Stream

CODECS = ("mp3", "aac", "opus", "flac")
WARM_UP_S = 10.0
"""A station begins with a burst; the steady state is measured."""
SLACK_S = 4.0
"""Audio that may be under way at either end of the measurement."""


class Ear(threading.Thread):
    """One station in one thread."""

    def __init__(self, url: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.source = StreamSource(Stream(name="s", url=url), Hls(), stop)
        self.samples = self.gaps = self.breaks = 0

    def run(self) -> None:
        """Listen until the stop."""
        for item in self.source.listen():
            if isinstance(item, Audio):
                self.samples += len(item.pcm)
            elif isinstance(item, Gap):
                self.gaps += 1
            elif isinstance(item, Report) and item.kind == "disconnected":
                self.breaks += 1
        self.source.close()


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    stop = threading.Event()
    with Icecast() as icecast:
        for codec in CODECS:
            icecast.feed(f"/{codec}", codec)
        ears = [Ear(icecast.url(f"/{CODECS[number % len(CODECS)]}"), stop) for number in range(options.streams)]
        for ear in ears:
            ear.start()
        time.sleep(WARM_UP_S)
        for ear in ears:
            ear.samples = 0
        cpu, began = time.process_time(), time.monotonic()
        time.sleep(options.seconds)
        cpu, took = time.process_time() - cpu, time.monotonic() - began
        stop.set()
        for ear in ears:
            ear.join(5)
    heard = [ear.samples / SAMPLE_RATE for ear in ears]
    figures = {
        "streams": options.streams,
        "seconds": round(took, 1),
        "cores": round(cpu / took, 3),
        "audio_s_per_cpu_s": round(sum(heard) / cpu),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "behind": sum(seconds < took - SLACK_S for seconds in heard),
        "gaps": sum(ear.gaps for ear in ears),
        "breaks": sum(ear.breaks for ear in ears),
        "connections": sum(ear.source.origin.connections for ear in ears),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    as_a_service("benchmarks.fetcher_stations")
    main()
