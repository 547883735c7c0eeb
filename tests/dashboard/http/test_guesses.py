from __future__ import annotations

import pytest

from services.dashboard.http import guesses
from services.dashboard.http.guesses import FORGET_S, FREE_TRIES, LONGEST_WAIT_S, Guesses


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000.0]
    monkeypatch.setattr(guesses.time, "monotonic", lambda: now[0])
    return now


def test_one_address_waits_longer_and_longer_and_no_other_waits_at_all(clock: list[float]) -> None:
    tries = Guesses()
    waits = []
    for _ in range(20):
        clock[0] += tries.wait_s("192.0.2.7")
        tries.wrong("192.0.2.7")
        waits.append(tries.wait_s("192.0.2.7"))
    assert waits[: FREE_TRIES - 1] == [0] * (FREE_TRIES - 1)
    assert waits[FREE_TRIES - 1 : FREE_TRIES + 4] == [1, 2, 4, 8, 16] and waits[-1] == LONGEST_WAIT_S
    assert tries.wait_s("192.0.2.8") == tries.wait_s("2001:db8::1") == 0
    assert tries.wait_s("::ffff:192.0.2.7") == LONGEST_WAIT_S, "the same one, through an IPv6 socket"
    clock[0] += FORGET_S + 1
    tries.wrong("192.0.2.7")
    assert tries.wait_s("192.0.2.7") == 0


def test_all_addresses_of_one_ipv6_network_are_one_source(clock: list[float]) -> None:
    tries = Guesses()
    for last in range(FREE_TRIES):
        tries.wrong(f"2001:db8::{last:x}")
    assert tries.wait_s("2001:db8::ffff") > 0 and tries.wait_s("2001:db8:0:1::1") == 0


def test_what_is_remembered_of_strangers_is_bounded(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "MOST_SOURCES", 50)
    tries = Guesses()
    for number in range(500):
        tries.wrong(f"192.0.{number // 250}.{number % 250}")
    assert len(tries._wrong) == 50
