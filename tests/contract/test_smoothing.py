"""What 30 s of windows say together, by the one rule that page, terminal, `now` and `genre classify` follow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contract.messages import Result
from services.contract.smoothing import Judging, Verdict, lately, pooled, smoothed
from tests.dashboard.pretend import LABELS, result


def heard(start_s: float, kind: str, share: float = 0.9, genre: str = "jazz", sure: float = 0.7) -> Result:
    """Return a window of a model that tells kinds: this share for its kind, the rest even."""
    kinds = dict.fromkeys(("music", "speech", "other"), (1 - share) / 2) | {kind: share}
    of = genre if kind == "music" else None
    made = result("a", start_s, genre, sure, kind=kind, kinds=kinds)
    return made.model_copy(update={"genre": of})


def test_a_genre_is_pooled_from_all_windows() -> None:
    windows = [
        result("a", i, genre, sure) for i, (genre, sure) in enumerate((("jazz", 0.6), ("blues", 0.5), ("jazz", 0.9)))
    ]
    for correlation in (0.0, 0.4, 1.0):
        verdict = smoothed(windows, Judging(window_correlation=correlation))
        mean = np.mean([[each.scores[label] for label in LABELS] for each in windows], axis=0)
        expected = mean ** (3 / (1 + 2 * correlation))
        assert [verdict.scores[label] for label in LABELS] == pytest.approx(list(expected / expected.sum()), abs=1e-5)
        assert verdict.genre == "jazz" and verdict.windows == 3


def test_silent_windows_have_no_vote_and_nothing_but_silence_is_silence() -> None:
    quiet = result("a", 0, None)
    assert smoothed([quiet, quiet], Judging()).kind == "silence"
    assert smoothed([], Judging()).kind == "silence"
    assert smoothed([quiet, result("a", 1, "rock", 0.9), quiet], Judging()).genre == "rock"


def test_a_weak_guess_is_unsure() -> None:
    assert smoothed([result("a", 0, "pop", 0.2)], Judging(unsure_below=0.3)).kind == "unsure"


def test_a_change_of_model_does_not_mix_two_sets_of_labels() -> None:
    old = result("a", 0, "rock", 0.99, model="old", scores={"rock": 0.99, "other": 0.01})
    assert smoothed([old, result("a", 1, "jazz", 0.6)], Judging()).genre == "jazz"


def test_what_dominates_decides_between_music_and_talk() -> None:
    talk = smoothed([heard(0, "music"), heard(1, "speech"), heard(2, "speech")], Judging())
    assert (talk.kind, talk.genre) == ("speech", None)
    assert talk.confidence == pytest.approx((0.05 + 0.9 + 0.9) / 3)
    assert smoothed([heard(0, "music"), heard(1, "speech"), heard(2, "music")], Judging()).genre == "jazz"
    assert smoothed([heard(0, "other"), heard(1, "other"), heard(2, "music")], Judging()).kind == "other"


def test_only_music_votes_for_the_genre() -> None:
    talk_that_looks_like_rap = heard(0, "speech", genre="hiphop", sure=0.99)
    verdict = smoothed([talk_that_looks_like_rap, heard(1, "music", sure=0.5), heard(2, "music", sure=0.5)], Judging())
    assert verdict.genre == "jazz" and verdict.confidence == pytest.approx(0.5, abs=1e-3)


def test_windows_that_are_each_doubtful_are_music_where_music_leads() -> None:
    """None of them was called music, yet together they are."""
    kinds = [{"music": 0.45, "speech": 0.5, "other": 0.05}, {"music": 0.45, "speech": 0.05, "other": 0.5}]
    windows = [
        result("a", i, "jazz", 0.7, kind=kind, kinds=each)
        for i, (kind, each) in enumerate(zip(("speech", "other"), kinds, strict=True))
    ]
    assert smoothed(windows, Judging()).genre == "jazz"


def test_a_model_without_kinds_has_none() -> None:
    assert smoothed([result("a", 0, "jazz")], Judging()).kinds is None


def test_now_is_the_last_30_s_without_a_break_and_of_one_model() -> None:
    windows = [
        *(result("a", i * 1.5, "jazz") for i in range(30)),
        result("a", 45.0, "rock", model="other"),
        result("a", 46.5, "rock"),
    ]
    assert [each.start_s for each in lately(windows)] == [*(i * 1.5 for i in range(12, 30) if i * 1.5 > 16.5), 46.5]
    assert lately([result("a", 0.0), result("a", 1.5, epoch=1)])[0].epoch == 1
    assert lately([]) == []


def test_music_is_not_shown_on_while_it_is_silent_and_a_short_pause_changes_nothing() -> None:
    music = [result("a", i * 1.5, "jazz") for i in range(20)]

    def then(silent_s: float, *more: Result) -> Verdict:
        quiet = [result("a", 30.0 + i * 1.5, None) for i in range(round(silent_s / 1.5))]
        return smoothed(lately([*music, *quiet, *more]), Judging())

    assert [then(seconds).kind for seconds in (3.0, 7.5, 12.0, 25.5)] == ["music", "music", "silence", "silence"]
    assert then(7.5, result("a", 37.5, "rock", 0.5)).genre == "jazz"
    assert then(12.0, result("a", 42.0, "rock", 0.5)).genre == "rock"


def test_the_judging_that_a_status_tells_is_read_and_nonsense_is_not() -> None:
    assert Judging.of({"window_correlation": "0.4", "unsure_below": "0.35"}) == Judging(0.4, 0.35)
    assert Judging.of({"window_correlation": "x", "unsure_below": "7"}) == Judging()


@given(st.integers(1, 20), st.floats(0, 1), st.integers(0, 10_000))
def test_a_pooled_verdict_is_a_probability_and_does_not_depend_on_order(
    count: int, correlation: float, seed: int
) -> None:
    rows = np.random.default_rng(seed).dirichlet(np.full(10, 0.3), count).astype(np.float32)
    made = pooled(rows, correlation)
    assert made.sum() == pytest.approx(1, abs=1e-5) and made.min() >= 0
    assert np.allclose(made, pooled(rows[::-1], correlation), atol=1e-6)


def test_agreeing_windows_make_a_surer_verdict_but_less_than_independent_ones_would() -> None:
    rows = np.tile(np.array([0.6, *([0.4 / 9] * 9)]), (19, 1))
    many, independent = pooled(rows, 0.4)[0], pooled(rows, 0.0)[0]
    assert 0.6 < many < independent
    assert pooled(rows, 1.0)[0] == pytest.approx(0.6, abs=1e-5)
