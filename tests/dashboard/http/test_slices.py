from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from services.dashboard.http.slices import borders, zone_of

BERLIN = ZoneInfo("Europe/Berlin")


def at(*local: int) -> float:
    return datetime(*local, tzinfo=BERLIN).timestamp()  # type: ignore[arg-type]


@pytest.mark.parametrize(("today", "hours"), [((2026, 3, 29), 23), ((2026, 10, 25), 25)])
def test_a_day_on_which_the_clocks_change_has_its_own_length(today: tuple[int, int, int], hours: int) -> None:
    later = datetime(*today[:2], today[2] + 2, 12, tzinfo=BERLIN).timestamp()
    edges = borders("day", 14, later, BERLIN)
    assert len(edges) == 15 and edges[-1] > later
    assert [datetime.fromtimestamp(edge, BERLIN).hour for edge in edges] == [0] * 15
    lengths = [(b - a) / 3600 for a, b in pairwise(edges)]
    assert lengths[-3] == hours and sum(lengths) == 13 * 24 + hours


@pytest.mark.parametrize("now", [at(2026, 3, 29, 4, 30), at(2026, 10, 25, 2, 30), at(2026, 10, 25, 2, 30) + 3600])
def test_hours_go_on_as_they_pass_when_the_clocks_change(now: float) -> None:
    edges = borders("hour", 24, now, BERLIN)
    assert edges[-2] <= now < edges[-1]
    assert {b - a for a, b in pairwise(edges)} == {3600.0}


def test_hours_begin_where_those_of_the_zone_do() -> None:
    edges = borders("hour", 2, 1.8e9, zone_of("Asia/Kathmandu", None))
    assert datetime.fromtimestamp(edges[0], ZoneInfo("Asia/Kathmandu")).minute == 0
    assert edges[0] % 3600 == 900


@pytest.mark.parametrize("name", ["Nowhere/Land", "../../etc/passwd", "/etc/localtime", "a" * 500, "\x00"])
def test_a_zone_that_is_not_known_falls_back_to_its_offset_or_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="time zone"):
        zone_of(name, None)
    zone = zone_of(name, 7200.0)
    assert zone is not None and zone.utcoffset(None) is not None
