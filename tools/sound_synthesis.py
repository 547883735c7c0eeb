"""Sounds that are neither music nor speech, made here: noises, tones, hum, sweeps, clicks, applause, beeps, traffic.

Each function takes a random generator and returns one window in -1..1 at 22,050 Hz. Start at `SOUNDS`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from services.contract.windows import SAMPLE_RATE, WINDOW

Signal = NDArray[np.float32]
Random = np.random.Generator
_TIME = np.arange(WINDOW) / SAMPLE_RATE
_NYQUIST = SAMPLE_RATE / 2


def _peak(signal: NDArray[np.float64], peak: float) -> Signal:
    return np.asarray(peak * signal / np.abs(signal).max(), np.float32)


def noise(exponent: float) -> Callable[[Random], Signal]:
    """Return what makes noise whose amplitude falls as frequency ** -exponent: 0 white, 0.5 pink, 1 brown."""

    def make(random: Random) -> Signal:
        spectrum = np.fft.rfft(random.standard_normal(WINDOW))
        return _peak(np.fft.irfft(spectrum / np.arange(1.0, len(spectrum) + 1) ** exponent, WINDOW), 0.2)

    return make


def tone(random: Random) -> Signal:
    """Return a sine of 60 to 8,000 Hz."""
    return _peak(np.sin(2 * np.pi * _TIME * np.exp(random.uniform(np.log(60), np.log(8_000)))), 0.2)


def hum(random: Random) -> Signal:
    """Return a tone with four overtones."""
    base = random.uniform(50, 1_500)
    return _peak(np.sum([np.sin(2 * np.pi * base * n * _TIME) / n for n in range(1, 6)], axis=0), 0.2)


def sweep(random: Random) -> Signal:
    """Return a rising tone."""
    return _peak(np.sin(2 * np.pi * (200 * _TIME + random.uniform(100, 2_000) * _TIME**2)), 0.2)


def clicks(random: Random) -> Signal:
    """Return 5 to 3,000 clicks, as of rain on a roof."""
    signal = np.zeros(WINDOW)
    signal[random.integers(0, WINDOW, int(random.uniform(5, 3_000)))] = 1
    return _peak(sosfilt(butter(2, random.uniform(500, 9_000) / _NYQUIST, output="sos"), signal), 0.5)


def applause(random: Random) -> Signal:
    """Return many hands."""
    signal = np.zeros(WINDOW + 600)
    for start in random.integers(0, WINDOW, int(random.uniform(80, 900))):
        decay = np.exp(-np.arange(600) / random.uniform(60, 160))
        signal[start : start + 600] += random.standard_normal(600) * decay * random.uniform(0.2, 1)
    band = butter(1, [500 / _NYQUIST, 4_000 / _NYQUIST], "band", output="sos")
    return _peak(sosfilt(band, signal[:WINDOW]), 0.4)


def beeps(random: Random) -> Signal:
    """Return a tone that comes and goes."""
    on = np.floor(_TIME / random.uniform(0.1, 0.7)) % 2
    return _peak(on * np.sin(2 * np.pi * random.uniform(400, 3_000) * _TIME), 0.3)


def traffic(random: Random) -> Signal:
    """Return three swelling bands of rumble."""
    parts = []
    for _ in range(3):
        edges = [random.uniform(30, 200) / _NYQUIST, random.uniform(300, 3_000) / _NYQUIST]
        rumble = sosfilt(butter(2, edges, "band", output="sos"), random.standard_normal(WINDOW))
        parts.append(rumble * (0.6 + 0.4 * np.sin(2 * np.pi * random.uniform(0.1, 0.5) * _TIME)))
    return _peak(np.sum(parts, axis=0), 0.2)


SOUNDS: dict[str, Callable[[Random], Signal]] = {
    "white noise": noise(0),
    "pink noise": noise(0.5),
    "brown noise": noise(1),
    "tone": tone,
    "hum": hum,
    "sweep": sweep,
    "clicks": clicks,
    "applause": applause,
    "beeps": beeps,
    "traffic": traffic,
}
