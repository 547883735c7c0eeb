"""Five minutes of `make month`, with every `make test`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.broker.mosquitto import PROGRAM
from tests.chaos.wall_clock import LIBRARY
from tests.month.run import days_of, month

pytestmark = [
    pytest.mark.skipif(PROGRAM is None or LIBRARY is None, reason="mosquitto or libfaketime is not installed"),
    pytest.mark.timeout(600),
]


def test_a_month_of_radio_loses_nothing_and_forgets_nothing(tmp_path: Path) -> None:
    report = month(tmp_path, seed=1, days=6, scene_s=9.0)
    assert report.problems == [], "\n".join(report.problems)
    assert report.outages >= 3 and report.hours_heard > 40, "too little happened for the run to mean anything"


def test_a_month_has_both_days_on_which_the_clocks_change() -> None:
    assert {"2026-03-29", "2026-10-25"} <= set(days_of(6)) and len(days_of(28)) == 28
