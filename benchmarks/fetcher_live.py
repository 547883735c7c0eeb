"""Many live AAC streams in one process: CPU, memory, and whether any falls behind.

The origin runs in a process of its own (its CPU is not counted) and serves every stream a sliding window whose newest
segment appears on the clock. A stream is behind where audio comes later than its segment's publication by more than
two target durations. Run `python -m benchmarks.fetcher_live --streams 200 --seconds 60`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import resource
import socketserver
import statistics
import subprocess
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.run_process import as_a_service
from services.contract.windows import SAMPLE_RATE
from services.fetcher.events import Audio, Report
from services.fetcher.hls.reader import PlaylistReader
from services.fetcher.http.client import Origin
from services.settings.schema import Hls, Stream

SEGMENT_S, WINDOW, SOUND_SEGMENTS = 4, 6, 64


def sound(folder: Path) -> list[bytes]:
    """Make SOUND_SEGMENTS segments of AAC 128 kbit/s in TS."""
    seconds = SEGMENT_S * SOUND_SEGMENTS
    source = f"aevalsrc=0.4*sin(2*PI*(200+2*t)*t)+0.1*(random(0)-0.5)|0.3*sin(2*PI*3000*t):s=44100:d={seconds}"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-c:a", "aac", "-b:a", "128k"]
    command += ["-f", "hls", "-hls_time", str(SEGMENT_S), "-hls_list_size", "0", str(folder / "list.m3u8")]
    subprocess.run(command, check=True)
    names = [line for line in (folder / "list.m3u8").read_text().splitlines() if line and line[0] != "#"]
    return [(folder / name).read_bytes() for name in names][:SOUND_SEGMENTS]


def origin(pipe: Connection) -> None:
    """Serve the streams until the pipe is closed; sends its port and the time at which segment 0 appeared."""
    with tempfile.TemporaryDirectory() as name:
        segments = sound(Path(name))
    began = time.time() - WINDOW * SEGMENT_S

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                self._answer()

        def _answer(self) -> None:
            while line := self.rfile.readline():
                while self.rfile.readline() not in (b"\r\n", b""):
                    pass
                path = line.split()[1].decode()
                if path.endswith(".m3u8"):
                    # Each stream's clock is shifted, as radios are not in step.
                    shift = hash(path) % 1000 / 1000 * SEGMENT_S
                    newest = int((time.time() - began - shift) // SEGMENT_S)
                    first = max(newest - WINDOW, 0)
                    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:{SEGMENT_S}\n#EXT-X-MEDIA-SEQUENCE:{first}\n"
                    for number in range(first, newest):
                        text += f"#EXT-X-PROGRAM-DATE-TIME:{_date(began + shift + number * SEGMENT_S)}\n"
                        text += f"#EXTINF:{SEGMENT_S},\n{number}.ts\n"
                    body = text.encode()
                else:
                    body = segments[int(path.rpartition("/")[2][:-3]) % len(segments)]
                self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 1024

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pipe.send(server.server_address[1])
        pipe.poll(None)


def _date(moment: float) -> str:
    """Return Unix time as ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1000):03d}Z"


class Ear(threading.Thread):
    """One stream in one thread."""

    def __init__(self, url: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.reader = PlaylistReader(Origin(Stream(name="s", url=url), Hls(), stop))
        self.samples, self.lateness, self.reports = 0, [0.0], 0

    def run(self) -> None:
        """Listen until the stop."""
        for item in self.reader.listen():
            if isinstance(item, Audio):
                self.samples += len(item.pcm)
                if item.observed_at is not None:
                    self.lateness.append(time.time() - item.observed_at - SEGMENT_S)
            elif isinstance(item, Report) and item.kind in ("skipped", "segment-failed", "stalled"):
                self.reports += 1
            del item  # the fetcher's memory is measured, not this one's


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=origin, args=(there,), daemon=True)
    process.start()
    port = here.recv()
    stop = threading.Event()
    ears = [Ear(f"http://127.0.0.1:{port}/{number}/list.m3u8", stop) for number in range(options.streams)]
    for ear in ears:
        ear.start()
    # The first three segments of every stream come at once and take several seconds; the steady state is measured.
    time.sleep(8 * SEGMENT_S)
    for ear in ears:
        ear.samples, ear.lateness = 0, [0.0]
    cpu, began = time.process_time(), time.monotonic()
    time.sleep(options.seconds)
    cpu, took = time.process_time() - cpu, time.monotonic() - began
    stop.set()
    for ear in ears:
        ear.join(5)
    late = [max(ear.lateness) for ear in ears]
    # Audio of the last SEGMENT_S may still be under way; a stream that gave less than that is behind.
    behind = sum(ear.samples / SAMPLE_RATE < took - 2 * SEGMENT_S or max(ear.lateness) > 4 * SEGMENT_S for ear in ears)
    figures = {
        "streams": options.streams,
        "seconds": round(took, 1),
        "cores": round(cpu / took, 3),
        "audio_s_per_cpu_s": round(sum(ear.samples for ear in ears) / SAMPLE_RATE / cpu),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "behind": behind,
        "latest_s": round(max(late), 2),
        "median_latest_s": round(statistics.median(late), 2),
        "reports": sum(ear.reports for ear in ears),
        "connections": sum(ear.reader.origin.connections for ear in ears),
    }
    print(json.dumps(figures))
    here.send("done")
    process.join(5)


if __name__ == "__main__":
    as_a_service("benchmarks.fetcher_live")
    main()
