"""Faults on live streams: what was missed may be missing, but never without a cause.

There is no undisturbed run to compare with, for time goes on; what must hold is that each ledger adds up, that every
loss and gap has a cause of the closed list, that results cover what is called classified, and that copies are alike.
Start at `run_live`.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.contract.windows import WINDOW
from services.origin.packager import Packaging, package_folder
from tests.chaos import faults, streams
from tests.chaos.pipeline import Pipeline, Shape

CAUSES = {"stale", "behind", "no-answer", "left", "restart", "expired", "missed"}
MOST_ROUNDING = 0.02
QUIET_S = 20.0
"""After the last fault: long enough for every replica to be back and for a stuck share to be dealt anew."""


def run_live(folder: Path, music: Path, *, seed: int, seconds: float, count: int = 4) -> list[str]:
    """Disturb live streams for so long, let them recover, and return what is wrong."""
    models = folder / "models"
    model = streams.tiny_model(models)
    names = sorted(package_folder(music, folder / "hls", Packaging(coder="fast", segment_s=2.0)).names.values())
    playlists = {f"live{i}": f"live/{names[i % len(names)]}.m3u8?shift={5 * i}" for i in range(count)}
    shape = Shape(folder / "pipeline", playlists, models, model, folder / "hls")
    shape.settings = {"fetcher": {"max_age_s": 15.0}}
    pipeline = Pipeline(shape)
    plan = faults.plan(seed, shape.services(), triton=False, pace_s=1.0)
    undoing: list[tuple[float, int, str, Callable[[], None]]] = []
    tie, held, happened = itertools.count(), set[str](), 0
    try:
        pipeline.start()
        now = began = time.monotonic()
        upcoming = next(plan)
        due = now + 5
        while now < began + seconds + QUIET_S:
            while undoing and undoing[0][0] <= now:
                _, _, resource, undo = heapq.heappop(undoing)
                undo()
                held.discard(resource)
            if now < began + seconds and now >= due:
                resource = faults.resource_of(upcoming)
                undo_it = None if resource in held else faults.apply(upcoming, pipeline)
                if undo_it is not None:
                    happened += 1
                    held.add(resource)
                    heapq.heappush(undoing, (now + upcoming.lasts_s, next(tie), resource, undo_it))
                upcoming = next(plan)
                due = now + upcoming.after_s
            pipeline.supervise()
            time.sleep(0.02)
            now = time.monotonic()
        before = {name: ledger.timeline for name, ledger in pipeline.recorder.ledgers.items()}
        flows_until = time.monotonic() + 30
        while time.monotonic() < flows_until and not _all_moved(pipeline, before, count):
            pipeline.supervise()
            time.sleep(0.1)
        problems = judged(pipeline, count)
        if happened == 0:
            problems.append("no fault happened: nothing was proved")
        if not _all_moved(pipeline, before, count):
            problems.append(f"a stream stands still after the faults: {before}, {pipeline.recorder.ledgers}")
    finally:
        while undoing:
            heapq.heappop(undoing)[3]()
        left = pipeline.end()
    return problems + [f"a process is left over: {line}" for line in left]


def _all_moved(pipeline: Pipeline, before: dict[str, int], count: int) -> bool:
    ledgers = pipeline.recorder.ledgers
    return len(before) == count and all(ledgers[name].timeline > before[name] for name in before)


def judged(pipeline: Pipeline, count: int) -> list[str]:
    """Return what is wrong with what a disturbed live pipeline gave."""
    recorder, problems = pipeline.recorder, []
    if len(recorder.ledgers) != count:
        problems.append(f"ledgers of {sorted(recorder.ledgers)} only")
    for name, ledger in sorted(recorder.ledgers.items()):
        print(ledger, flush=True)
        if not ledger.classified or not any(id.startswith(f"{name}/") for id in recorder.results):
            problems.append(f"{name} gave nothing: {ledger}")
        if not ledger.adds_up:
            problems.append(f"{name} does not add up: {ledger}")
        strange = {cause for cause in ledger.causes if cause not in CAUSES and not cause.startswith("http")}
        if strange:
            problems.append(f"{name} has causes {strange}: {ledger.causes}")
        firsts = sorted(int(id.split("/")[2]) for id in recorder.results if id.startswith(f"{name}/"))
        covered, end = 0, 0
        for first in firsts:
            covered += max(0, min(first + WINDOW, ledger.timeline) - max(first, end))
            end = max(end, min(first + WINDOW, ledger.timeline))
        if covered < ledger.classified - ledger.short:
            problems.append(f"{name}: results cover {covered} samples, the ledger calls {ledger.classified} classified")
    differing = [each for each in recorder.differing if not _rounding(each[1])]
    if differing:
        problems.append(f"{len(differing)} copies differ, e.g. {differing[0]}")
    if recorder.strange:
        problems.append(f"strange messages, e.g. {recorder.strange[0]}")
    return problems


def _rounding(changed: dict[str, tuple[Any, Any]]) -> bool:
    """Whether copies differ by no more than a decoder that had a run-up instead of the epoch's start.

    A fetcher that is killed hears a live epoch again from the oldest segment that is still listed: docs/streams.md.
    """
    if not set(changed) <= {"confidence", "scores", "genre", "kind", "level_dbfs"}:
        return False
    before, after = changed.get("scores", ({}, {}))
    return all(abs(score - after[label]) <= MOST_ROUNDING for label, score in before.items())


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="genre-live-") as name:
        folder = Path(name)
        problems = run_live(folder, streams.default_music(folder, 2), seed=given.seed, seconds=given.seconds)
        for problem in problems:
            print("PROBLEM", problem)
        if problems:
            print((folder / "pipeline" / "logs" / "fetcher-1.log").read_text()[-6000:])
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
