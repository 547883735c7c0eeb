from __future__ import annotations

from services.dashboard.state.live_state import LiveState
from tests.dashboard.pretend import event


def test_events_that_a_wrong_clock_dated_are_shown_and_kept_under_the_right_date() -> None:
    live_state = LiveState(30)
    live_state.recall([(1.7e9, event("a", "started"))])
    live_state.event(event("a", "gap"), 50_000.0)
    seen = live_state.since(0)["version"]
    live_state.event(event("a", "resumed"), 1.8e9 + 5)  # after it was set, before that was noticed
    live_state.clock_stepped(1.8e9 - 50_000, now=1.8e9 + 6, clock=0.0)
    dates = [1.8e9, 1.8e9 + 5]
    assert [each["at"] for each in live_state.since(seen)["events"]] == [1.7e9, *dates]
    assert [at for at, _ in live_state.take_history()[1]] == dates
