"""The short run of `make chaos` and `make fuzz-messages` that belongs to every `make test`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.broker.mosquitto import PROGRAM
from tests.chaos import faults, fuzz, run
from tests.chaos.streams import write_music

pytestmark = [pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed"), pytest.mark.timeout(300)]


def test_faults_change_no_result_and_no_ledger(tmp_path: Path) -> None:
    music = write_music(tmp_path / "music", {"a": 21.0, "b": 13.0, "c": 17.0})
    report = run.campaign(
        tmp_path, music, seed=7, total=25, per_round=25, loops=40, pieces=3, triton_every=0, most_rounds=1, pace_s=0.2
    )
    problems = [problem for each in report["rounds"] for problem in each["problems"]]
    assert problems == []
    assert report["faults"] >= 8, "too few faults happened for the run to mean anything"


def test_hostile_messages_are_each_answered_for(tmp_path: Path) -> None:
    report = fuzz.campaign(tmp_path, 200, seed=3)
    assert report.problems == []
    assert report.pcm.dead > 80 and report.mel.dead > 80 and report.pcm.worked > 10


def test_the_plan_of_a_seed_is_always_the_same() -> None:
    services = ["inference-1", "featurizer-1", "fetcher-1"]
    plans = [faults.plan(5, services, triton=True) for _ in range(2)]
    first, second = ([next(plan) for _ in range(200)] for plan in plans)
    assert first == second
    assert len({fault.kind for fault in first}) >= 12
