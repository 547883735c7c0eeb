"""One stream as the dashboard sees it: what a new timeline and a retained failure change."""

from __future__ import annotations

import time

from services.contract.messages import Ledger
from services.contract.smoothing import Judging
from services.dashboard.state.stream_state import StreamState
from tests.dashboard.pretend import event, result


def test_a_new_timeline_is_not_taken_for_windows_that_come_late() -> None:
    view = StreamState("radio", time.monotonic())
    for number in range(20):
        view.process(
            result("radio", 90_000 + number * 1.5, "jazz", id=f"radio/aaa/0/{number}/m"), time.time(), Judging(), 0.0
        )
    for number in range(3):
        view.process(result("radio", number * 1.5, "rock", id=f"radio/bbb/0/{number}/m"), time.time(), Judging(), 0.0)
    assert view.verdict.genre == "rock" and len(view.recent) == 3


def test_a_failure_is_known_from_the_ledger_alone_and_taken_back_when_it_is_heard() -> None:
    """Events are not retained: a dashboard that was restarted meanwhile has missed them."""
    view = StreamState("radio", time.monotonic())
    view.account(Ledger(stream="radio", failed="nothing new came for 3600 s"))
    assert view.state(30.0) == "failed"
    view.happen(event("radio", "resumed"))
    assert view.state(30.0) == "waiting"
