"""The resampler that rests between segments: its samples are those of one that never does."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from services.fetcher.media.decoder import Resampler


def sound(rate: int, seconds: float) -> NDArray[np.float32]:
    """Make noise up to full scale, repeatable."""
    noise = np.random.default_rng(rate).standard_normal(round(rate * seconds)) * 0.3
    return np.clip(noise, -1.0, 1.0).astype(np.float32)


def resampled(rate: int, samples: NDArray[np.float32], segment_s: float, feed: int) -> NDArray[np.int16]:
    """Resample in pieces; rest after each segment."""
    resampler, parts = Resampler(rate), []
    segment = round(rate * segment_s)
    for first in range(0, len(samples), segment):
        own = samples[first : first + segment]
        parts += [resampler.feed(own[at : at + feed]) for at in range(0, len(own), feed)]
        resampler.rest()
    return np.concatenate([*parts, resampler.drain()])


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 24_000, 32_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("segment_s", [1.9, 4.004, 6.0])
def test_a_rest_after_each_segment_changes_no_sample(rate: int, segment_s: float) -> None:
    samples = sound(rate, 14.3)
    rested, awake = resampled(rate, samples, segment_s, 32_768), resampled(rate, samples, 1_000.0, 32_768)
    assert len(rested) == len(awake)
    assert np.count_nonzero(rested != awake) <= 1  # a tie may round otherwise


@pytest.mark.parametrize("feed", [1_000, 5_000])
def test_small_pieces_wake_it_up_as_well(feed: int) -> None:
    samples = sound(44_100, 9.0)
    assert np.array_equal(resampled(44_100, samples, 4.0, feed), resampled(44_100, samples, 1_000.0, feed))


def test_while_it_rests_nothing_of_soxr_is_kept_and_the_end_comes_all_the_same() -> None:
    samples = sound(48_000, 8.0)
    resampler = Resampler(48_000)
    parts = [resampler.feed(samples)]
    resampler.rest()
    assert resampler._stream is None
    assert resampler._recent.nbytes < 30_000
    awake = Resampler(48_000)
    assert np.array_equal(
        np.concatenate([*parts, resampler.drain()]), np.concatenate([awake.feed(samples), awake.drain()])
    )
