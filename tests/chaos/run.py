"""`make chaos`: break things on a seeded plan and compare with an undisturbed run.

Rounds of real processes on a real broker; after each, the same ids and genres, the same ledger, nothing lost, copies
identical but for timestamps, no process left over. Start at `campaign`.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import faults, live, streams
from tests.chaos.pipeline import Pipeline, Shape

SETTLE_S = 240.0


@dataclass
class Round:
    """What one round did and found."""

    name: str
    faults: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    most_at_once: int = 0
    seconds: float = 0.0
    results: int = 0
    duplicates: int = 0
    lost_samples: int = 0
    dead_letters: int = 0
    unasked_restarts: int = 0
    peak_broker_mb: float = 0.0
    problems: list[str] = field(default_factory=list)


@dataclass
class Reference:
    """The undisturbed run."""

    results: dict[str, dict[str, Any]]
    ledgers: dict[str, dict[str, Any]]


def run_round(
    shape: Shape, plan: Iterator[faults.Fault], most: int, report: Round, *, settle_s: float = SETTLE_S
) -> Pipeline:
    """Start a pipeline, apply up to `most` faults while its streams run, heal everything, and wait for the end."""
    began = time.monotonic()
    pipeline = Pipeline(shape)
    kinds: Counter[str] = Counter()
    try:
        pipeline.start()
        undoing: list[tuple[float, int, str, Callable[[], None]]] = []
        tie, held = itertools.count(), set[str]()
        upcoming = next(plan) if most else None
        due = time.monotonic() + (2.0 + upcoming.after_s if upcoming else 0.0)
        deadline: float | None = None
        while not pipeline.recorder.all_ended(len(shape.playlists)):
            now = time.monotonic()
            while undoing and undoing[0][0] <= now:
                _, _, resource, undo = heapq.heappop(undoing)
                undo()
                held.discard(resource)
            if upcoming is not None and now >= due:
                resource = faults.resource_of(upcoming)
                undo_it = None if resource in held else faults.apply(upcoming, pipeline)
                if undo_it is not None:
                    held.add(resource)
                    heapq.heappush(undoing, (now + upcoming.lasts_s, next(tie), resource, undo_it))
                    kinds[upcoming.kind] += 1
                    report.most_at_once = max(report.most_at_once, len(undoing))
                upcoming = next(plan) if kinds.total() < most else None
                due = now + (upcoming.after_s if upcoming else 0.0)
            pipeline.supervise()
            if upcoming is None and not undoing:
                deadline = deadline or now + settle_s
                if now > deadline:
                    report.problems.append(f"not over {settle_s:g} s after the last fault: {_state(pipeline)}")
                    break
            time.sleep(0.02)
        while undoing:
            heapq.heappop(undoing)[3]()
        expected = sum(ledger.windows for ledger in pipeline.recorder.ledgers.values())
        wait_until = time.monotonic() + 10
        while len(pipeline.recorder.results) < expected and time.monotonic() < wait_until:
            time.sleep(0.05)
    finally:
        left = pipeline.end()
    report.problems += [f"a process is left over: {line}" for line in left]
    report.faults, report.kinds = kinds.total(), dict(sorted(kinds.items()))
    report.seconds = round(time.monotonic() - began, 1)
    recorder = pipeline.recorder
    report.results, report.duplicates = len(recorder.results), recorder.duplicates
    report.lost_samples = sum(ledger.lost for ledger in recorder.ledgers.values())
    report.dead_letters, report.unasked_restarts = len(recorder.dead), pipeline.unasked
    report.peak_broker_mb = round(pipeline.peak_broker_bytes / 1e6, 1)
    return pipeline


def _state(pipeline: Pipeline) -> str:
    ledgers = pipeline.recorder.ledgers.values()
    return "; ".join(f"{x.stream} {x.timeline}+{x.in_flight} ended={x.ended}" for x in ledgers)


def compare(pipeline: Pipeline, reference: Reference, report: Round) -> None:
    """Note every way in which a round's outcome differs from the undisturbed run."""
    recorder = pipeline.recorder
    ids, expected = set(recorder.results), set(reference.results)
    if ids != expected:
        report.problems.append(
            f"{len(expected - ids)} ids are missing {sorted(expected - ids)[:3]}, "
            f"{len(ids - expected)} are new {sorted(ids - expected)[:3]}"
        )
    differing = [id for id in ids & expected if recorder.results[id] != reference.results[id]]
    if differing:
        one = min(differing)
        changed = {k: (v, recorder.results[one][k]) for k, v in reference.results[one].items()}
        changed = {k: pair for k, pair in changed.items() if pair[0] != pair[1]}
        report.problems.append(f"{len(differing)} results differ, e.g. {one}: {changed}")
    if recorder.differing:
        report.problems.append(f"{len(recorder.differing)} copies differ, e.g. {recorder.differing[0]}")
    for name, ledger in reference.ledgers.items():
        found = recorder.ledgers[name].model_dump(exclude={"timeline_id"}) if name in recorder.ledgers else None
        if found != ledger:
            report.problems.append(f"ledger of {name}: {found} instead of {ledger}")
    if recorder.dead:
        report.problems.append(f"{len(recorder.dead)} dead letters, e.g. {recorder.dead[0].reason}")
    if recorder.strange:
        report.problems.append(f"{len(recorder.strange)} strange messages, e.g. {recorder.strange[0]}")
    if report.peak_broker_mb > 400:
        report.problems.append(f"the broker grew to {report.peak_broker_mb} MB")


def reference_run(shape: Shape) -> tuple[Reference, Round]:
    """Run without any fault."""
    report = Round("undisturbed")
    pipeline = run_round(shape, iter(()), 0, report)
    recorder = pipeline.recorder
    if set(recorder.ledgers) != set(shape.playlists) or not recorder.results:
        report.problems.append(f"the undisturbed run has {len(recorder.results)} results of {sorted(recorder.ledgers)}")
    if not all(ledger.adds_up and ledger.classified == ledger.timeline > 0 for ledger in recorder.ledgers.values()):
        report.problems.append("the undisturbed run does not account for everything as classified")
    if recorder.dead or recorder.strange or recorder.differing:
        report.problems.append("the undisturbed run has dead letters, strange messages or differing copies")
    ledgers = {name: ledger.model_dump(exclude={"timeline_id"}) for name, ledger in recorder.ledgers.items()}
    return Reference(recorder.results, ledgers), report


def campaign(
    folder: Path,
    music: Path,
    *,
    seed: int,
    total: int,
    per_round: int,
    loops: int,
    pieces: int,
    triton_every: int,
    most_rounds: int = 1000,
    pace_s: float = 0.5,
) -> dict[str, Any]:
    """Run rounds until `total` faults were done; return the report."""
    models = folder / "models"
    model = streams.tiny_model(models)
    playlists = streams.package(music, folder / "hls", loops, pieces)

    def shape(name: str, **options: Any) -> Shape:
        return Shape(folder / name, playlists, models, model, folder / "hls", **options)

    reference, first = reference_run(shape("undisturbed"))
    rounds = [first]
    _say(first)
    while sum(each.faults for each in rounds) < total and not first.problems and len(rounds) <= most_rounds:
        number = len(rounds)
        triton = triton_every > 0 and number % triton_every == 0
        persistence = number % 2 == 0
        name = f"round-{number}"
        this = shape(name, persistence=persistence, triton=triton)
        report = Round(f"{name}{' triton' if triton else ''}{' persistence' if persistence else ''}")
        done = sum(each.faults for each in rounds)
        plan = faults.plan(seed * 1000 + number, this.services(), triton=triton, pace_s=pace_s)
        pipeline = run_round(this, plan, min(per_round, total - done), report)
        compare(pipeline, reference, report)
        rounds.append(report)
        _say(report)
        if not report.problems:
            shutil.rmtree(folder / name)
    kinds: Counter[str] = Counter()
    for each in rounds:
        kinds.update(each.kinds)
        if each is not first and not each.faults:
            each.problems.append("no fault happened while its streams ran: nothing was proved; raise --loops")
    return {
        "seed": seed,
        "faults": sum(each.faults for each in rounds),
        "kinds": dict(sorted(kinds.items())),
        "most_at_once": max(each.most_at_once for each in rounds),
        "windows_of_reference": len(reference.results),
        "audio_seconds": sum(ledger["timeline"] for ledger in reference.ledgers.values()) / 22_050,
        "failed_rounds": [each.name for each in rounds if each.problems],
        "rounds": [asdict(each) for each in rounds],
    }


def _say(report: Round) -> None:
    print(
        f"{report.name:32} {report.seconds:7.1f} s {report.faults:5} faults (up to {report.most_at_once} at once) "
        f"{report.results:6} results {report.duplicates:5} copies {report.lost_samples:3} lost "
        f"{report.peak_broker_mb:6.1f} MB broker  {'ok' if not report.problems else 'FAILED'}",
        flush=True,
    )
    for problem in report.problems:
        print(f"    {problem[:600]}", flush=True)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=1000, help="how many faults in all")
    parser.add_argument("--per-round", type=int, default=125)
    parser.add_argument("--loops", type=int, default=12, help="how often each piece is repeated")
    parser.add_argument("--pieces", type=int, default=6)
    parser.add_argument("--triton-every", type=int, default=4, help="each n-th round uses Triton; 0 none")
    parser.add_argument("--live-seconds", type=float, default=60, help="then disturb live streams for so long; 0 not")
    parser.add_argument("--music", type=Path, help="folder of music; default: shared clips or the demo's pieces")
    parser.add_argument("--report", type=Path, default=Path("chaos-report.json"))
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="genre-chaos-"))
    music = given.music or streams.default_music(folder, given.pieces)
    report = campaign(
        folder,
        music,
        seed=given.seed,
        total=given.faults,
        per_round=given.per_round,
        loops=given.loops,
        pieces=given.pieces,
        triton_every=given.triton_every,
    )
    if given.live_seconds:
        (folder / "live").mkdir()
        report["live"] = live.run_live(folder / "live", music, seed=given.seed, seconds=given.live_seconds)
        print(f"live: {report['live'] or 'ok'}", flush=True)
    given.report.write_text(json.dumps(report, indent=1))
    print(f"{report['faults']} faults, {len(report['failed_rounds'])} failed rounds; report: {given.report}")
    if report["faults"] < given.faults and not report["failed_rounds"]:
        print(f"only {report['faults']} of {given.faults} faults happened: raise --loops or --per-round")
        return 1
    if report.get("live") or any(each["problems"] for each in report["rounds"]):
        print(f"what the failed rounds left is in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
