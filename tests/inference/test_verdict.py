"""Verdicts: silence is not guessed at, weak guesses say so, and many windows are surer than one but not too sure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.card import load_card
from services.inference.verdict import judge, pool, pooled

CARD = load_card(Path(__file__).resolve().parents[2] / "models", "musicnn")
LOUD = -20.0


def scores(first: float, place: int = 3) -> np.ndarray:
    row = np.full(10, (1 - first) / 9, np.float32)
    row[place] = first
    return row


def test_silence_has_no_genre_whatever_the_model_says() -> None:
    verdict = judge(scores(0.99), -80.0, CARD)
    assert (verdict.kind, verdict.genre, verdict.confidence) == ("silence", None, 0.0)
    assert judge(scores(0.99), float("-inf"), CARD).kind == "silence"


def test_a_weak_guess_is_unsure_and_a_strong_one_is_music() -> None:
    weak, strong = judge(scores(CARD.unsure_below - 0.01), LOUD, CARD), judge(scores(0.9), LOUD, CARD)
    assert (weak.kind, strong.kind) == ("unsure", "music")
    assert strong.genre == CARD.labels[3] and strong.confidence == pytest.approx(0.9)


def test_one_window_is_pooled_to_what_it_is_alone() -> None:
    alone, one = judge(scores(0.7), LOUD, CARD), pool(scores(0.7)[None], np.array([LOUD]), CARD)
    assert one.confidence == pytest.approx(alone.confidence, abs=1e-6) and one.genre == alone.genre


def test_silent_windows_have_no_vote() -> None:
    rows, levels = np.stack([scores(0.6, 2), scores(0.99, 5), scores(0.99, 5)]), np.array([LOUD, -90.0, -90.0])
    verdict = pool(rows, levels, CARD)
    assert verdict.genre == CARD.labels[2] and verdict.windows == 1
    assert pool(rows, np.full(3, -90.0), CARD).kind == "silence"
    assert pool(np.empty((0, 10), np.float32), np.empty(0), CARD).kind == "silence"


def test_agreeing_windows_make_a_surer_verdict_but_less_than_independent_ones_would() -> None:
    rows = np.tile(scores(0.6), (19, 1))
    many, independent = pooled(rows, CARD.window_correlation)[3], pooled(rows, 0.0)[3]
    assert 0.6 < many < independent
    assert pooled(rows, 1.0)[3] == pytest.approx(0.6, abs=1e-5)


@given(st.integers(1, 20), st.floats(0, 1), st.integers(0, 10_000))
def test_a_pooled_verdict_is_a_probability_and_does_not_depend_on_order(
    count: int, correlation: float, seed: int
) -> None:
    rows = np.random.default_rng(seed).dirichlet(np.full(10, 0.3), count).astype(np.float32)
    made = pooled(rows, correlation)
    assert made.sum() == pytest.approx(1, abs=1e-5) and made.min() >= 0
    assert np.allclose(made, pooled(rows[::-1], correlation), atol=1e-6)
