from __future__ import annotations

import itertools
import time

from services.contract.smoothing import Verdict
from services.dashboard.http.timeline_query import drawn
from services.dashboard.state.genre_segments import LONGEST_S, GenreSegment, extended, moment, moved
from services.text import utc
from tests.dashboard.pretend import result


def verdict(genre: str | None, sure: float = 0.8) -> Verdict:
    return Verdict(genre, sure, "music" if genre else "silence", {})


def feed(windows: list[tuple[float, str | None]]) -> list[GenreSegment]:
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
    _, run = extended(None, result("a", 10), verdict("jazz"), 10)
    assert extended(run, result("a", 5, "rock"), verdict("rock"), 5, late=True) == (None, run)


def test_a_clock_that_is_set_back_begins_a_new_segment_at_once() -> None:
    ahead = [(7200 + i * 1.5, "jazz") for i in range(4)]
    runs = feed([*ahead, *((i * 1.5, "rock" if i < 20 else "jazz") for i in range(40))])
    assert [(run.genre, run.start) for run in runs] == [("jazz", 7200), ("rock", 0), ("jazz", 30)]


def test_only_what_the_clock_dated_wrongly_moves_with_it() -> None:
    ahead = GenreSegment("a", 90, 100, "jazz", 1, "", "", clock=0.0)
    right = GenreSegment("a", 7280, 7290, "jazz", 1, "", "")
    soon = GenreSegment("a", 7295, 7298, "jazz", 1, "", "", clock=7200.0)
    assert moved(ahead, 7200).start == 7290, "dated by the clock as it was"
    assert moved(right, 7200) == right, "dated by its source"
    assert moved(soon, 7200) == soon, "dated by the clock as it is, before anybody noticed"
    assert moved(moved(ahead, -3600), 0.0) == ahead, "there and back, however old"


def test_the_streams_own_clock_is_believed_only_near_now() -> None:
    now = time.time()
    assert moment(result("a", observed_at=utc(now - 600)), now)[0] - (now - 600) < 0.01
    assert not moment(result("a", observed_at=utc(now - 600)), now)[1], "its source dated it"
    assert moment(result("a", observed_at=utc(now - 20)), now)[1], "what came with the last segment"
    for wrong in (utc(now - 86_400 * 4000), utc(now + 86_400), "yesterday", "2026-01-01T00:00:00"):
        assert moment(result("a", observed_at=wrong), now) == (now, True)


def test_the_drawing_never_has_more_pieces_than_steps_and_keeps_the_longest_genre() -> None:
    runs = [GenreSegment("a", i, i + 1, "jazz" if i % 3 else "rock", 0.5, "", "") for i in range(9000)]
    pieces = drawn(runs, 0, 9000, 300)["a"]
    assert len(pieces) <= 300
    assert {piece[2] for piece in pieces} == {"jazz"}
    assert drawn([GenreSegment("a", 10, 20, None, 0, "", "", "silence")], 0, 100, 10) == {
        "a": [[10.0, 20.0, None, 0.0, "silence"]]
    }
