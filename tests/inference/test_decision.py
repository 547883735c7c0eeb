"""Verdicts: silence and talk get no genre, weak guesses say so, and sounds are the few strongest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.inference.answer import Answer
from services.inference.card import load_card
from services.inference.decision import decide_clip, decide_window, decide_windows, loudest_sounds

CARD = load_card(Path(__file__).resolve().parents[2] / "models", "vgg16")
HEARING = CARD.model_copy(update={"kinds": ("music", "speech", "other"), "sounds": tuple("abcdefgh")})
LOUD = -20.0


def scores(first: float, place: int = 3) -> np.ndarray:
    row = np.full(10, (1 - first) / 9, np.float32)
    row[place] = first
    return row


def kinds(music: float, speech: float, other: float) -> np.ndarray:
    return np.array([music, speech, other], np.float32)


def test_silence_has_no_genre_whatever_the_model_says() -> None:
    verdict = decide_window(scores(0.99), -80.0, HEARING, kinds(0, 1, 0))
    assert (verdict.kind, verdict.genre, verdict.confidence) == ("silence", None, 0.0)
    assert decide_window(scores(0.99), float("-inf"), CARD).kind == "silence"


def test_a_weak_guess_is_unsure_and_a_strong_one_is_music() -> None:
    weak, strong = decide_window(scores(CARD.unsure_below - 0.01), LOUD, CARD), decide_window(scores(0.9), LOUD, CARD)
    assert (weak.kind, strong.kind) == ("unsure", "music")
    assert strong.genre == CARD.labels[3] and strong.confidence == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("of", "kind", "confidence"), [((0.1, 0.8, 0.1), "speech", 0.8), ((0.3, 0.3, 0.4), "other", 0.4)]
)
def test_what_is_no_music_has_no_genre_and_is_as_sure_as_its_kind(
    of: tuple[float, float, float], kind: str, confidence: float
) -> None:
    verdict = decide_window(scores(0.99), LOUD, HEARING, kinds(*of))
    assert (verdict.kind, verdict.genre) == (kind, None)
    assert verdict.confidence == pytest.approx(confidence)


def test_music_keeps_the_confidence_of_its_genre() -> None:
    verdict = decide_window(scores(0.9), LOUD, HEARING, kinds(0.5, 0.3, 0.2))
    assert (verdict.kind, verdict.genre) == ("music", CARD.labels[3]) and verdict.confidence == pytest.approx(0.9)


def test_a_clip_is_judged_by_its_windows_and_silent_ones_have_no_vote() -> None:
    answer = Answer(np.stack([scores(0.6, 2), scores(0.99, 5), scores(0.99, 5)]))
    verdict = decide_clip(decide_windows(answer, [LOUD, -90.0, -90.0], CARD), CARD)
    assert verdict.genre == CARD.labels[2] and verdict.windows == 1
    assert decide_clip(decide_windows(answer, [-90.0] * 3, CARD), CARD).kind == "silence"
    assert decide_clip([], CARD).kind == "silence"


def test_one_window_is_pooled_to_what_it_is_alone() -> None:
    (alone,) = decide_windows(Answer(scores(0.7)[None], kinds(0.6, 0.2, 0.2)[None]), [LOUD], HEARING)
    one = decide_clip([alone], HEARING)
    assert (one.genre, one.kind) == (alone.genre, alone.kind)
    assert one.confidence == pytest.approx(alone.confidence, abs=1e-6)


def test_sounds_are_at_most_five_from_a_tenth_on_strongest_first() -> None:
    found = loudest_sounds(HEARING, np.array([0.05, 0.3, 0.9, 0.2, 0.11, 0.5, 0.12, 0.0999], np.float32))
    assert found == {"c": 0.9, "f": 0.5, "b": 0.3, "d": 0.2, "g": 0.12}
    assert list(found) == ["c", "f", "b", "d", "g"]
    assert loudest_sounds(HEARING, np.zeros(8, np.float32)) == {}
    assert loudest_sounds(CARD, None) is None
