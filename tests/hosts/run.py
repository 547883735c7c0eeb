"""`make test-hosts`: several hosts, one of them cut off, all of them upgraded under load; results as undisturbed.

Each run must end with a ledger that adds up, with everything classified, and with the ids, genres and scores of the
undisturbed run. What is drawn is drawn from a seed. Start at `main`; test_hosts.py runs a short form.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.rigs.network import why_not
from services.settings import schema
from tests.chaos import streams
from tests.hosts.site import HUB, Shape, Site

SETTLE_S = 400.0
CUT_LASTS_S, UPGRADE_LASTS_S = 60.0, 120.0
"""How long the load lasts under which hosts are cut off, and services replaced."""
LEAST_S = 5.0
"""Of results, for a rate to mean anything."""
MODELS = Path(__file__).resolve().parents[2] / "models"


@dataclass
class Outcome:
    """What one run gave.

    Attributes:
        windows_per_s: from the 5th percentile of results to the 95th, so that neither start nor end counts.
        limited: each host had its CPU and no more; else the rate says nothing of how hosts scale.
        during: seconds that each disturbance took, and whether the load lasted over all of them.
    """

    name: str
    inference_hosts: int
    results: int = 0
    duplicates: int = 0
    windows_per_s: float = 0.0
    limited: bool = True
    during: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass
class Undisturbed:
    """The run that others are compared with."""

    results: dict[str, dict[str, Any]]
    ledgers: dict[str, dict[str, Any]]


def under_load(
    name: str, shape: Shape, reference: Undisturbed, disturb: Callable[[Site], dict[str, Any]], lasts_s: float
) -> Outcome:
    """Run a site disturbed, at a pace at which its load lasts longer than the disturbance.

    How fast a machine and its models are is not known beforehand, and a disturbance after the end would prove nothing.
    So the fetcher gets as few credits as make so many chunks last so long: each is free once its ack is confirmed.
    """
    fetcher = schema.Fetcher()
    chunks = len(reference.results) / fetcher.windows_per_chunk
    shape.fetcher = {"credits": max(1, int(chunks * fetcher.confirm_s / lasts_s))}
    return run(name, shape, reference, disturb)[0]


def run(
    name: str,
    shape: Shape,
    reference: Undisturbed | None,
    disturb: Callable[[Site], dict[str, Any]] | None = None,
    least_s: float = 0.0,
) -> tuple[Outcome, Undisturbed]:
    """Run a site until its streams are over, disturbed or not, and compare.

    Args:
        least_s: results must come for so long, or the run says nothing of how fast they come.
    """
    outcome = Outcome(name, shape.inferences)
    with Site(shape) as site:
        if disturb is not None:
            outcome.during = disturb(site)
            outcome.during["load lasted"] = not site.ended
            if site.ended:
                outcome.problems.append("the load ended before the disturbance did: nothing was proved")
        site.wait_ended(SETTLE_S)
        outcome.limited = site.limited
        recorder = site.recorder
        outcome.results, outcome.duplicates = len(recorder.results), recorder.duplicates
        at = sorted(site.results_at)
        first, last = int(0.05 * len(at)), int(0.95 * len(at)) - 1
        lasted_s = at[last] - at[first] if len(at) > 1 else 0.0
        outcome.windows_per_s = round((last - first) / max(1e-9, lasted_s), 1)
        if lasted_s < least_s:
            outcome.problems.append(f"results came for {lasted_s:.1f} s only: too short for a rate")
        ledgers = {stream: ledger.model_dump(exclude={"timeline_id"}) for stream, ledger in recorder.ledgers.items()}
        found = Undisturbed(dict(recorder.results), ledgers)
        if recorder.dead or recorder.strange or recorder.differing:
            outcome.problems.append(f"{recorder.dead[:1]} {recorder.strange[:1]} {recorder.differing[:1]}")
    if set(found.ledgers) != set(shape.playlists):
        outcome.problems.append(f"ledgers of {sorted(found.ledgers)} only")
    for stream, ledger in found.ledgers.items():
        if not ledger["timeline"] == ledger["classified"] > 0 or ledger["lost"] or ledger["gap"]:
            outcome.problems.append(f"not everything of {stream} is classified: {ledger}")
        windows = sum(each["stream"] == stream for each in found.results.values())
        if windows != ledger["windows"]:
            outcome.problems.append(f"{stream}: {ledger['windows']} windows in the ledger, {windows} results")
    if reference is not None:
        if found.ledgers != reference.ledgers:
            outcome.problems.append("the ledgers are not those of the undisturbed run")
        if found.results != reference.results:
            other = set(found.results) ^ set(reference.results)
            differing = [
                i for i in set(found.results) & set(reference.results) if found.results[i] != reference.results[i]
            ]
            outcome.problems.append(f"results: {len(other)} other ids, {len(differing)} that differ")
    return outcome, found


def running(site: Site) -> None:
    """Wait until results come from the whole site."""
    deadline = time.monotonic() + 60
    while len(site.recorder.results) < 20:
        assert time.monotonic() < deadline, "no results"
        time.sleep(0.05)


def cut_off(seed: int, seconds: float) -> Callable[[Site], dict[str, Any]]:
    """Return a disturbance: one inference host's cable is pulled for a while, then a featurizer host's."""

    def disturb(site: Site) -> dict[str, Any]:
        draw = random.Random(seed)
        running(site)
        during: dict[str, Any] = {}
        for kind in ("inference", "featurizer"):
            host = draw.choice([name for name in site.shape.hosts() if name.startswith(kind)])
            before = len(site.recorder.results)
            site.network.pull(host)
            time.sleep(seconds)  # how long it is away is what is tested
            site.network.plug(host)
            during[f"{host} cut off for {seconds:g} s"] = f"{len(site.recorder.results) - before} results meanwhile"
        return during

    return disturb


def rolling_upgrade(site: Site) -> dict[str, Any]:
    """Replace every service of every host, one at a time."""
    running(site)
    return {name: f"{site.upgrade(name):.1f} s" for name in [*site.shape.hosts(), "fetcher-1"]}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loops", type=int, default=12, help="how often each of 6 pieces of 30 s is repeated")
    parser.add_argument("--cores", type=float, default=0.25, help="CPU of each inference host, in cores")
    parser.add_argument("--most", type=int, default=4, help="most inference hosts")
    parser.add_argument("--repeats", type=int, default=1, help="of each throughput")
    parser.add_argument("--only", default="", help="only runs whose name holds this, and the undisturbed one")
    parser.add_argument("--report", type=Path, default=Path("hosts-report.json"))
    given = parser.parse_args()
    if reason := why_not():
        print(f"test-hosts: {reason}")
        return 1
    folder = Path(tempfile.mkdtemp(prefix="genre-hosts-"))
    music = streams.default_music(folder, 6)

    def shape(
        name: str, loops: int, inferences: int = given.most, featurizers: int = 2, cores: float = given.cores
    ) -> Shape:
        hls = folder / f"hls-{loops}"
        playlists = streams.package(music, hls, loops, 6)
        return Shape(
            folder / name, hls, playlists, MODELS, schema.Inference().model, featurizers, inferences,
            {"inference": cores, "featurizer": 0.5, HUB: 0.5},
        )  # fmt: skip

    outcomes: list[Outcome] = []

    def say(outcome: Outcome) -> None:
        outcomes.append(outcome)
        _say(outcome)

    undisturbed, reference = run("undisturbed", shape("undisturbed", given.loops, 2, 1, 0.6), None)
    say(undisturbed)
    for repeat in range(given.repeats):
        for count in range(1, given.most + 1):
            name = f"throughput, {count} inference hosts, run {repeat + 1}"
            if given.only in name:
                each = shape(f"t{count}-{repeat}", given.loops, count, 1)
                outcome, _ = run(name, each, reference, least_s=LEAST_S)
                if not outcome.limited:
                    outcome.problems.append("no control groups here: the hosts' CPU was not limited")
                say(outcome)
    for name, disturb, lasts_s in (
        ("hosts cut off and back", cut_off(given.seed, 12.0), CUT_LASTS_S),
        ("rolling upgrade under load", rolling_upgrade, UPGRADE_LASTS_S),
    ):
        if given.only in name:
            say(under_load(name, shape(name.split()[0], given.loops), reference, disturb, lasts_s))
    if len(outcomes) == 1:
        undisturbed.problems.append(f"--only {given.only!r} names no run")
    given.report.write_text(json.dumps({"seed": given.seed, "runs": [asdict(each) for each in outcomes]}, indent=1))
    failed = [each.name for each in outcomes if each.problems]
    print(f"{len(outcomes)} runs, {len(failed)} failed; report: {given.report}")
    if failed:
        print(f"what they left is in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _say(outcome: Outcome) -> None:
    print(
        f"{outcome.name:44} {outcome.results:5} results {outcome.duplicates:4} copies {outcome.windows_per_s:7.1f} "
        f"windows/s  {'ok' if not outcome.problems else 'FAILED'}",
        flush=True,
    )
    for what, how in outcome.during.items():
        print(f"    {what}: {how}", flush=True)
    for problem in outcome.problems:
        print(f"    {problem[:600]}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
