from __future__ import annotations

import itertools
import time

from services.contract import utc
from services.dashboard.runs import LONGEST_S, Run, extended, moment
from services.dashboard.smoothing import Verdict
from services.dashboard.timeline import drawn
from tests.dashboard.pretend import result


def verdict(genre: str | None, sure: float = 0.8) -> Verdict:
    return Verdict(genre, sure, "music" if genre else "silence", {})


def feed(windows: list[tuple[float, str | None]]) -> list[Run]:
    """Return the runs that windows at these times turn into."""
    run, out = None, []
    for at, genre in windows:
        closed, run = extended(run, result("a", at, genre), verdict(genre), at)
        out += [closed] if closed else []
    return [*out, *([run] if run else [])]


def test_equal_windows_become_one_run_and_a_new_genre_a_new_one() -> None:
    runs = feed([(0, "jazz"), (1.5, "jazz"), (3, "rock"), (4.5, "rock")])
    assert [(run.genre, run.start) for run in runs] == [("jazz", 0), ("rock", 3)]
    assert runs[0].end == 3


def test_a_gap_ends_a_run_where_the_audio_ended() -> None:
    runs = feed([(0, "jazz"), (1.5, "jazz"), (60, "jazz")])
    assert [(run.start, round(run.end, 1)) for run in runs] == [(0, 4.5), (60, 63.0)]


def test_no_run_is_longer_than_a_minute_and_none_is_lost() -> None:
    runs = feed([(i * 1.5, "jazz") for i in range(200)])
    assert all(run.end - run.start <= LONGEST_S + 3 for run in runs)
    assert all(a.end == b.start for a, b in itertools.pairwise(runs))


def test_a_late_window_changes_nothing() -> None:
    assert [run.genre for run in feed([(10, "jazz"), (5, "rock"), (11.5, "jazz")])] == ["jazz"]


def test_the_streams_own_clock_is_believed_only_near_now() -> None:
    now = time.time()
    assert abs(moment(result("a", observed_at=utc(now - 600)), now) - (now - 600)) < 0.01
    for wrong in (utc(now - 86_400 * 4000), utc(now + 86_400), "yesterday", "2026-01-01T00:00:00"):
        assert moment(result("a", observed_at=wrong), now) == now


def test_the_drawing_never_has_more_pieces_than_steps_and_keeps_the_longest_genre() -> None:
    runs = [Run("a", i, i + 1, "jazz" if i % 3 else "rock", 0.5, "", "") for i in range(9000)]
    pieces = drawn(runs, 0, 9000, 300)["a"]
    assert len(pieces) <= 300
    assert {piece[2] for piece in pieces} == {"jazz"}
    assert drawn([Run("a", 10, 20, None, 0, "", "")], 0, 100, 10) == {"a": [[10.0, 20.0, None, 0.0]]}
