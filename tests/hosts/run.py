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

from tests.chaos import streams
from tests.hosts.network import why_not
from tests.hosts.site import HUB, Shape, Site

SETTLE_S = 400.0
MUSICNN = Path(__file__).resolve().parents[2] / "models"


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


def run(
    name: str, shape: Shape, reference: Undisturbed | None, disturb: Callable[[Site], dict[str, Any]] | None = None
) -> tuple[Outcome, Undisturbed]:
    """Run a site until its streams are over, disturbed or not, and compare."""
    outcome = Outcome(name, shape.inferences)
    with Site(shape) as site:
        if disturb is not None:
            outcome.during = disturb(site)
            outcome.during["load lasted"] = not site.ended
        site.wait_ended(SETTLE_S)
        outcome.limited = site.limited
        recorder = site.recorder
        outcome.results, outcome.duplicates = len(recorder.results), recorder.duplicates
        at = sorted(site.results_at)
        first, last = int(0.05 * len(at)), int(0.95 * len(at)) - 1
        outcome.windows_per_s = round((last - first) / max(1e-9, at[last] - at[first]), 1)
        ledgers = {stream: ledger.model_dump() for stream, ledger in recorder.ledgers.items()}
        found = Undisturbed(dict(recorder.results), ledgers)
        if recorder.dead or recorder.strange or recorder.differing:
            outcome.problems.append(f"{recorder.dead[:1]} {recorder.strange[:1]} {recorder.differing[:1]}")
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
    playlists = streams.package(streams.default_music(folder, 6), folder / "hls", given.loops, 6)

    def shape(name: str, inferences: int, featurizers: int = 1, cores: float = given.cores) -> Shape:
        return Shape(
            folder / name, folder / "hls", playlists, MUSICNN, "musicnn", featurizers, inferences,
            {"inference": cores, "featurizer": 0.5, HUB: 0.5},
        )  # fmt: skip

    undisturbed, reference = run("undisturbed", shape("undisturbed", 2, cores=0.6), None)
    outcomes = [undisturbed]
    _say(undisturbed)
    plan: list[tuple[str, Shape, Callable[[Site], dict[str, Any]] | None]] = [
        (f"throughput, {count} inference hosts, run {repeat + 1}", shape(f"t{count}-{repeat}", count), None)
        for repeat in range(given.repeats)
        for count in range(1, given.most + 1)
    ]
    plan.append(("hosts cut off and back", shape("cut", given.most, 2), cut_off(given.seed, 12.0)))
    plan.append(("rolling upgrade under load", shape("upgrade", given.most, 2), rolling_upgrade))
    for name, each, disturb in (one for one in plan if given.only in one[0]):
        outcome, _ = run(name, each, reference, disturb)
        if disturb is None and not outcome.limited:
            outcome.problems.append("no control groups here: the hosts' CPU was not limited")
        outcomes.append(outcome)
        _say(outcome)
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
