from __future__ import annotations

from services.dashboard.state.clock_steps import ClockSteps


def test_a_clock_that_is_set_is_noticed_once_and_one_that_only_drifts_never() -> None:
    wall, steady = [1_000.0], [50.0]
    clock = ClockSteps(lambda: wall[0] - steady[0])

    def after(seconds: float, wall_seconds: float) -> float:
        wall[0] += wall_seconds
        steady[0] += seconds
        return clock.step()

    assert after(10, 10) == 0
    assert after(1, 1.8e9) == 1.8e9 - 1, "NTP came"
    assert after(1, 1) == 0
    assert after(1, -7199) == -7200, "it was ahead"
    assert after(28_800, 28_800) == 0, "the machine slept: both clocks went on"
    assert all(after(1, 1.5) == 0 for _ in range(1_000)), "drift"
