"""Arithmetic of media timestamps: 33-bit wrap, jumps, gap lengths. Pure functions of seconds and samples.

Start at `jump_s`; who decides what a jump means is epochs.py.
"""

from __future__ import annotations

from itertools import pairwise

from services.contract.windows import SAMPLE_RATE

CLOCK_HZ = 90_000
WRAP_S = (1 << 33) / CLOCK_HZ


def jump_s(pts_s: float, expected_s: float, wraps: bool) -> float:
    """Return how far a timestamp is from where it was expected, in seconds; negative is backwards.

    Args:
        wraps: the clock has 33 bits at 90 kHz (MPEG-TS, ID3), so the nearest of all readings is meant.
    """
    jump = pts_s - expected_s
    if wraps:
        jump = (jump + WRAP_S / 2) % WRAP_S - WRAP_S / 2
    return jump


def samples_of(seconds: float) -> int:
    """Return a length in samples of the timeline, rounded to the nearest."""
    return round(seconds * SAMPLE_RATE)


def missing_s(jump: float | None, expected_missing_s: float) -> float:
    """Return how long a hole is whose segments lasted `expected_missing_s` by their EXTINF.

    The jump of the timestamps across it is the truth, where it is near enough to be about the same hole. Over a day
    their clock may have wrapped more than once.
    """
    if jump is not None:
        jump += WRAP_S * round((expected_missing_s - jump) / WRAP_S)
    if jump is not None and 0.0 <= jump <= 2.0 * expected_missing_s + 10.0:
        return jump
    return expected_missing_s


def shares(total: int, weights: list[float]) -> list[int]:
    """Split total into whole parts in proportion to weights; they add up to total exactly."""
    whole = sum(weights)
    bounds, heard = [0], 0.0
    for weight in weights:
        heard += weight
        bounds.append(round(total * heard / whole) if whole > 0 else 0)
    bounds[-1] = total
    return [end - start for start, end in pairwise(bounds)]
