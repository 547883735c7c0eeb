from __future__ import annotations

import numpy as np
import pytest

from services.dashboard.smoothing import Judging, smoothed
from services.inference.verdict import pooled
from tests.dashboard.pretend import LABELS, result


def test_the_same_rule_as_the_inference_services_pool() -> None:
    windows = [
        result("a", i, genre, sure) for i, (genre, sure) in enumerate((("jazz", 0.6), ("blues", 0.5), ("jazz", 0.9)))
    ]
    for correlation in (0.0, 0.4, 1.0):
        verdict = smoothed(windows, Judging(window_correlation=correlation))
        matrix = np.array([[each.scores[label] for label in LABELS] for each in windows])
        expected = pooled(matrix, correlation)
        assert [verdict.scores[label] for label in LABELS] == pytest.approx(list(expected), abs=1e-5)
        assert verdict.genre == LABELS[int(expected.argmax())]


def test_silent_windows_have_no_vote_and_nothing_but_silence_is_silence() -> None:
    quiet = result("a", 0, None)
    assert smoothed([quiet, quiet], Judging()).kind == "silence"
    assert smoothed([quiet, result("a", 1, "rock", 0.9), quiet], Judging()).genre == "rock"


def test_a_weak_guess_is_unsure() -> None:
    assert smoothed([result("a", 0, "pop", 0.2)], Judging(unsure_below=0.3)).kind == "unsure"


def test_a_change_of_model_does_not_mix_two_sets_of_labels() -> None:
    old = result("a", 0, "rock", 0.99, model="old", scores={"rock": 0.99, "other": 0.01})
    assert smoothed([old, result("a", 1, "jazz", 0.6)], Judging()).genre == "jazz"
