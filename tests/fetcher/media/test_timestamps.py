"""Arithmetic of media timestamps: how long a gap is."""

from __future__ import annotations

import pytest

from services.fetcher.media.timestamps import WRAP_S, missing_s


@pytest.mark.parametrize(
    ("jump", "expected", "missing"),
    [
        (6.2, 6.0, 6.2),
        (None, 6.0, 6.0),
        (-30.0, 6.0, 6.0),
        (500.0, 6.0, 6.0),
        (30 * 3_600.0 + 1.5 - WRAP_S, 30 * 3_600.0, 30 * 3_600.0 + 1.5),
        (7 * 86_400.0 - 2.0 - 6 * WRAP_S, 7 * 86_400.0, 7 * 86_400.0 - 2.0),
    ],
    ids=["near", "unknown", "backwards", "too far", "thirty hours", "a week"],
)
def test_the_timestamps_tell_a_gaps_length_where_they_can_even_over_days(
    jump: float | None, expected: float, missing: float
) -> None:
    assert missing_s(jump, expected) == pytest.approx(missing)
