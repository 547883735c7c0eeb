"""`make soak`: many live streams for a long time; memory, file descriptors and threads must not grow.

Every process is sampled; after a warm-up the last third is compared with the first. Start at `soak`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import psutil

from services.origin.packager import Packaging, package_folder
from tests.chaos import streams
from tests.chaos.pipeline import Pipeline, Shape

SAMPLE_S = 5.0
START_S, LEAST_HEARD, LEAST_SAMPLES = 30.0, 0.8, 6
"""A stream counts as heard with this share of the time after the start; fewer samples than these tell nothing."""
MOST_GROWTH = 1.05
NOISE_MB = 4.0
"""A page or two more after an hour is no leak: of small processes 5 % is less than the allocator's own noise."""


@dataclass
class Process:
    """What was sampled of one process."""

    rss_mb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)


@dataclass
class Report:
    """What a soak found."""

    minutes: float
    streams: int
    times_real_time: float = 0.0
    results: int = 0
    lost: int = 0
    gap: int = 0
    processes: dict[str, dict[str, float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def soak(folder: Path, music: Path, minutes: float, count: int, warm_up: float = 0.2) -> Report:
    """Listen to `count` live streams for so long."""
    models = folder / "models"
    model = streams.tiny_model(models)
    names = sorted(package_folder(music, folder / "hls", Packaging(coder="fast", segment_s=4.0)).names.values())
    playlists = {
        f"live{number}": f"live/{names[number % len(names)]}.m3u8?shift={7 * (number // len(names))}"
        for number in range(count)
    }
    pipeline = Pipeline(Shape(folder / "pipeline", playlists, models, model, folder / "hls"))
    report, samples = Report(minutes, count), dict[str, Process]()
    began = time.monotonic()
    try:
        pipeline.start()
        while time.monotonic() - began < 60 * minutes:
            time.sleep(SAMPLE_S)
            pipeline.supervise()
            for name in pipeline.children:
                process = pipeline.process(name)
                if process is None:
                    continue
                seen = samples.setdefault(name, Process())
                try:
                    seen.rss_mb.append(process.memory_info().rss / 1e6)
                    seen.descriptors.append(process.num_fds())
                    seen.threads.append(process.num_threads())
                except psutil.Error:
                    continue
        names = sorted(pipeline.children)
        heard_s = sum(ledger.timeline for ledger in pipeline.recorder.ledgers.values()) / 22_050
        report.times_real_time = round(heard_s / (time.monotonic() - began), 2)
        report.results = len(pipeline.recorder.results)
        report.lost = sum(ledger.lost for ledger in pipeline.recorder.ledgers.values())
        report.gap = sum(ledger.gap for ledger in pipeline.recorder.ledgers.values())
    finally:
        left = pipeline.end()
    report.problems += [f"a process is left over: {line}" for line in left]
    if pipeline.unasked:
        report.problems.append(f"{pipeline.unasked} processes ended by themselves")
    least_s = LEAST_HEARD * (60 * minutes - START_S)
    silent = [name for name, ledger in pipeline.recorder.ledgers.items() if ledger.timeline / 22_050 < least_s]
    if silent or report.results == 0:
        report.problems.append(f"{sorted(silent)} gave less than {least_s:.0f} s: what did no work can't leak")
    missed = sorted(name for name in names if len(samples.get(name, Process()).rss_mb) < LEAST_SAMPLES)
    if missed:
        report.problems.append(f"{missed} were sampled fewer than {LEAST_SAMPLES} times: growth can't be told")
    if len(pipeline.recorder.ledgers) != count or report.lost or report.gap or pipeline.recorder.strange:
        report.problems.append(f"lost {report.lost}, gap {report.gap} samples, {pipeline.recorder.strange[:3]}")
    for name, seen in samples.items():
        if name in missed:
            continue
        report.processes[name] = _judged(name, seen, warm_up, report.problems)
    return report


def _judged(name: str, seen: Process, warm_up: float, problems: list[str]) -> dict[str, float]:
    skip = int(len(seen.rss_mb) * warm_up)
    third = max(1, (len(seen.rss_mb) - skip) // 3)
    first, last = median(seen.rss_mb[skip : skip + third]), median(seen.rss_mb[-third:])
    figures = {"rss_mb_first": round(first, 1), "rss_mb_last": round(last, 1)}
    if last > MOST_GROWTH * first and last - first > NOISE_MB:
        problems.append(f"{name} grew from {first:.1f} to {last:.1f} MB")
    for what, values in (("descriptors", seen.descriptors), ("threads", seen.threads)):
        early, late = median(values[skip : skip + third]), median(values[-third:])
        figures |= {f"{what}_first": early, f"{what}_last": late}
        if late > early + 2:
            problems.append(f"{name} has {late} {what} after {early}")
    return figures


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--music", type=Path, help="folder of music; default: shared clips or the demo's pieces")
    parser.add_argument("--report", type=Path, default=Path("soak-report.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="genre-soak-") as name:
        folder = Path(name)
        report = soak(folder, given.music or streams.default_music(folder, 4), given.minutes, given.streams)
    given.report.write_text(json.dumps(asdict(report), indent=1))
    print(json.dumps(asdict(report), indent=1))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
