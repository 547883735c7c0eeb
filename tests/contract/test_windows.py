"""Windows cover a stretch of audio to its last sample, and their levels are what they are."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contract.windows import cut, fill, starts
from services.featurizer.levels import levels


def test_a_clip_of_30_seconds_has_the_papers_19_windows_and_one_for_its_end() -> None:
    assert len([first for first in starts(661_500) if first % 33_000 == 0]) == 19
    assert starts(660_000)[-1] == 660_000 - 66_000 and len(starts(660_000)) == 19
    assert len(starts(661_500)) == 20


@given(st.integers(66_000, 2_000_000), st.integers(1_000, 66_000))
def test_windows_cover_every_sample_and_end_with_the_audio(samples: int, hop: int) -> None:
    firsts = starts(samples, hop=hop)
    assert firsts[0] == 0 and firsts[-1] + 66_000 == samples
    assert len(firsts) == 1 + -(-(samples - 66_000) // hop)
    assert all(0 < later - earlier <= hop for earlier, later in pairwise(firsts))


@pytest.mark.parametrize(
    ("samples", "count"), [(0, 0), (22_049, 0), (22_050, 1), (65_999, 1), (66_000, 1), (66_001, 2)]
)
def test_audio_shorter_than_a_window_is_one_window_or_none(samples: int, count: int) -> None:
    assert len(starts(samples)) == count
    assert cut(np.ones(samples, np.int16)).shape == (count, 66_000)


def test_a_short_piece_is_repeated_not_padded_with_silence() -> None:
    pcm = np.arange(1, 30_001, dtype=np.int16)
    filled = fill(pcm)
    assert np.array_equal(filled[:30_000], pcm) and np.array_equal(filled[30_000:60_000], pcm)


def test_levels_of_known_signals() -> None:
    t = np.arange(66_000)
    sine = np.round(32_767 * np.sin(2 * np.pi * t / 100))
    hard = np.clip(4 * sine, -32_768, 32_767)
    rows = [np.zeros(66_000), sine, sine / 1000, hard, np.full(66_000, 12_000), np.where(t == 5, 32_767, 0)]
    measured = levels(np.stack(rows).astype(np.int16))
    assert measured.rms_dbfs[0] == -np.inf and measured.rms_dbfs[1] == pytest.approx(-3.01, abs=0.01)
    assert measured.peak_dbfs[1] == pytest.approx(0, abs=0.01)
    assert measured.silent.tolist() == [True, False, True, False, True, False]
    assert measured.clipped[3] > 0.5 and measured.clipped[1] < 0.05 and measured.clipped[5] == 0


def test_the_most_negative_sample_does_not_overflow() -> None:
    measured = levels(np.tile(np.array([-32_768, 32_767], np.int16), (1, 33_000)))
    assert measured.peak_dbfs[0] == 0 and measured.rms_dbfs[0] == pytest.approx(0, abs=0.01)
