"""Instruments made of numpy: each function returns one note or one stroke as mono float32 at 44,100 Hz.

They serve the demo music only; nothing here is measured or learned. Equal arguments give equal samples, always.
Start at `pluck` (strings), `tone` (anything made of harmonics) and `noise` (drums).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 44_100
Sound = NDArray[np.float32]
Curve = NDArray[np.floating[Any]]


def hertz(note: float) -> float:
    """Return the frequency of a MIDI note number (69 = A4 = 440 Hz)."""
    return float(440.0 * 2.0 ** ((note - 69.0) / 12.0))


def envelope(samples: int, attack_s: float, release_s: float) -> Sound:
    """Return a trapezium that rises within attack_s and falls to 0 within the last release_s."""
    shape = np.ones(samples, np.float32)
    rise, fall = min(samples, max(1, int(attack_s * RATE))), min(samples, max(1, int(release_s * RATE)))
    shape[:rise] *= np.linspace(0, 1, rise, dtype=np.float32)
    shape[-fall:] *= np.linspace(1, 0, fall, dtype=np.float32)
    return shape


def _seconds(seconds: float) -> Sound:
    return np.asarray(np.arange(int(seconds * RATE)) / RATE, np.float32)


def _noise(samples: int, seed: int) -> Sound:
    return np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32)


def equalise(sound: Sound, gain: Callable[[Curve], Curve]) -> Sound:
    """Filter sound, shape (samples,), by a gain that is a function of frequency in Hz; no phase shift."""
    size = 1 << int(np.ceil(np.log2(len(sound) + RATE // 20)))
    spectrum = np.fft.rfft(sound, size)
    spectrum *= gain(np.fft.rfftfreq(size, 1 / RATE))
    return np.fft.irfft(spectrum, size)[: len(sound)].astype(np.float32)


def lowpass(sound: Sound, hz: float) -> Sound:
    """Filter with a second-order slope above hz."""
    return equalise(sound, lambda f: 1 / (1 + (f / hz) ** 2))


def highpass(sound: Sound, hz: float) -> Sound:
    """Filter with a second-order slope below hz."""
    return equalise(sound, lambda f: (f / hz) ** 2 / (1 + (f / hz) ** 2))


@lru_cache(maxsize=512)
def pluck(note: float, seconds: float, bright: float = 0.6, sustain: float = 0.996) -> Sound:
    """A plucked string: Karplus and Strong (1983), one period at a time, then stretched to the exact pitch.

    Args:
        note: MIDI note number.
        seconds: length of the note.
        bright: 0 is a soft finger, 1 a hard plectrum.
        sustain: what is left of a period's amplitude in the next, below 1.
    """
    exact = RATE / hertz(note)
    period = max(2, int(exact))
    samples = int(seconds * RATE * period / exact) + 2 * period
    burst: Curve = _noise(period, int(note * 8) + 1)
    for _ in range(round((1 - bright) * 6)):
        burst = (burst + np.roll(burst, 1)) / 2
    burst -= burst.mean()
    burst /= np.abs(burst).max() + 1e-9
    rows = np.empty((samples // period + 1, period), np.float32)
    rows[0] = burst
    for i in range(1, len(rows)):
        last = rows[i - 1]
        rows[i, 1:] = (last[1:] + last[:-1]) * (0.5 * sustain)
        rows[i, 0] = (last[0] + (rows[i - 2, -1] if i > 1 else 0.0)) * (0.5 * sustain)
    string = rows.reshape(-1)
    length = int(seconds * RATE)
    sound = np.interp(np.arange(length) * (period / exact), np.arange(len(string)), string).astype(np.float32)
    return np.asarray(sound * envelope(length, 0.001, min(0.06, seconds / 3)), np.float32)


@lru_cache(maxsize=512)
def tone(
    note: float,
    seconds: float,
    harmonics: tuple[float, ...],
    attack_s: float = 0.01,
    release_s: float = 0.05,
    decay: float = 0.0,
    vibrato: float = 0.0,
    detune: tuple[float, ...] = (0.0,),
    bend: float = 0.0,
) -> Sound:
    """A tone made of harmonics.

    Args:
        note: MIDI note number.
        seconds: length.
        harmonics: amplitude of the 1st, 2nd, ... harmonic.
        attack_s: rise, in seconds.
        release_s: fall, in seconds.
        decay: 1/s; higher harmonics die faster, as on a struck string.
        vibrato: depth in semitones, at 5.3 Hz, growing in.
        detune: one voice for each entry, that many semitones off.
        bend: semitones below the note at which it starts.
    """
    t = _seconds(seconds)
    sound = np.zeros(len(t), np.float32)
    for voice, off in enumerate(detune):
        swing = vibrato * np.minimum(1, t * 3) * np.sin(2 * np.pi * (5.3 + 0.23 * voice) * t + voice)
        pitch = hertz(note + off) * 2 ** ((swing - bend * np.exp(-t * 14)) / 12)
        phase = (2 * np.pi / RATE) * np.cumsum(pitch, dtype=np.float64) + voice * 1.7
        base = np.exp(1j * phase).astype(np.complex64)
        power = base.copy()
        for k, amplitude in enumerate(harmonics, 1):
            if k * hertz(note) > RATE * 0.42:
                break
            if amplitude:
                part = power.imag * np.float32(amplitude)
                sound += part * np.exp(-decay * (0.6 + 0.4 * k) * t) if decay else part
            power *= base
    return sound / (len(detune) * max(1.0, sum(harmonics))) * envelope(len(t), attack_s, release_s)


SAW = tuple(1 / k for k in range(1, 25))
SQUARE = tuple((1 / k if k % 2 else 0.0) for k in range(1, 22))
SOFT = tuple(1 / k**1.6 for k in range(1, 15))


def piano(note: float, seconds: float, hard: float = 0.5) -> Sound:
    """A piano note: two strings, falling harmonics, a short thump of the hammer."""
    harmonics = tuple(float(np.exp(-k * (0.55 - 0.3 * hard))) for k in range(14))
    length = min(0.12, seconds / 2)
    sound: Sound = tone(note, seconds, harmonics, 0.003, length, 1.1 + note / 60, 0.0, (-0.012, 0.012)).copy()
    thump = min(len(sound), 900)
    sound[:thump] += lowpass(_noise(thump, 7), 900) * np.linspace(0.1, 0, thump, dtype=np.float32)
    return sound


def electric_piano(note: float, seconds: float) -> Sound:
    """A tine piano by frequency modulation: the modulator dies before the carrier."""
    t = _seconds(seconds)
    w = 2 * np.pi * hertz(note) * t
    bell = 0.25 * np.sin(14 * w) * np.exp(-t * 18)
    sound = np.sin(w + 1.1 * np.exp(-t * 3) * np.sin(w)) * np.exp(-t * 1.3) * (1 + 0.15 * np.sin(2 * np.pi * 4.6 * t))
    return np.asarray((sound + bell) * envelope(len(t), 0.003, 0.08), np.float32)


def organ(note: float, seconds: float) -> Sound:
    """A drawbar organ with a turning speaker."""
    return tone(note, seconds, (0.8, 1.0, 0.5, 0.6, 0.0, 0.3, 0.0, 0.3), 0.006, 0.03, 0.0, 0.08)


def strings(note: float, seconds: float) -> Sound:
    """A string section: four detuned bowed voices."""
    return tone(
        note, seconds, SOFT, min(0.18, seconds / 3), min(0.3, seconds / 3), 0.0, 0.12, (-0.09, -0.03, 0.04, 0.1)
    )


def fiddle(note: float, seconds: float) -> Sound:
    """One bowed string with vibrato, sliding up into the note."""
    return tone(note, seconds, SAW[:18], 0.04, min(0.08, seconds / 3), 0.0, 0.22, (0.0,), 0.5)


def harmonica(note: float, seconds: float) -> Sound:
    """A blues harp: two reeds, bent into the note."""
    reeds = (0.6, 1.0, 0.8, 0.7, 0.4, 0.5, 0.3, 0.2, 0.15)
    return tone(note, seconds, reeds, 0.03, min(0.1, seconds / 3), 0.0, 0.3, (-0.04, 0.04), 1.0)


def voice(note: float, seconds: float, vowel: str = "a") -> Sound:
    """A wordless voice: harmonics shaped by two formants of a vowel (a, o, e)."""
    first, second = {"a": (750, 1200), "o": (480, 880), "e": (480, 1900)}[vowel]
    f = hertz(note)
    gain = tuple(
        float(
            (np.exp(-(((f * k - first) / 170) ** 2)) + 0.6 * np.exp(-(((f * k - second) / 220) ** 2)) + 0.06) / k**0.5
        )
        for k in range(1, 17)
    )
    return tone(note, seconds, gain, 0.06, min(0.12, seconds / 3), 0.0, 0.3, (-0.05, 0.0, 0.06), 0.4) * 2


def bass(note: float, seconds: float, bright: float = 0.3) -> Sound:
    """A finger bass; bright adds upper harmonics."""
    harmonics = (1.0, 0.6 * bright + 0.2, 0.6 * bright, 0.4 * bright, 0.3 * bright, 0.2 * bright)
    return tone(note, seconds, harmonics, 0.006, min(0.04, seconds / 3), 1.2)


@lru_cache(maxsize=64)
def power_chord(note: float, seconds: float, drive: float = 18.0, muted: bool = False) -> Sound:
    """Root, fifth and octave through an overdriven amplifier and its loudspeaker; muted by the palm if asked."""
    sustain = 0.93 if muted else 0.9995
    raw = sum(
        (pluck(note + step, seconds, 0.9, sustain) for step in (0, 7, 12)), np.zeros(int(seconds * RATE), np.float32)
    )
    driven = np.tanh(drive * raw) + 0.2 * np.tanh(drive * raw + 0.8)
    box = equalise(driven, lambda f: (f / 90) ** 2 / (1 + (f / 90) ** 2) / (1 + (f / 4200) ** 4) * (1 + (f > 1500)))
    return np.asarray(box * envelope(len(box), 0.002, 0.03) * 0.4, np.float32)


@lru_cache(maxsize=16)
def kick(low: float = 48.0, seconds: float = 0.3, click: float = 0.3) -> Sound:
    """A bass drum: a sine falling to low Hz, with a click of the beater."""
    t = _seconds(seconds)
    sweep = np.sin(2 * np.pi * np.cumsum(low + 130 * np.exp(-t * 38)) / RATE) * np.exp(-t * 9)
    return np.asarray(
        (sweep + click * _noise(len(t), 3) * np.exp(-t * 220)) * envelope(len(t), 0.001, 0.05), np.float32
    )


@lru_cache(maxsize=16)
def snare(tuning: float = 185.0, rattle: float = 0.8, seconds: float = 0.22) -> Sound:
    """A snare drum: two modes of the skin and the wires' noise."""
    t = _seconds(seconds)
    skin = (np.sin(2 * np.pi * tuning * t) + 0.6 * np.sin(2 * np.pi * 1.59 * tuning * t)) * np.exp(-t * 26)
    wires = highpass(_noise(len(t), 11), 1500) * np.exp(-t * 17)
    return np.asarray((0.6 * skin + rattle * wires) * envelope(len(t), 0.001, 0.03), np.float32)


@lru_cache(maxsize=32)
def noise(seconds: float, above_hz: float, decay: float, seed: int = 5) -> Sound:
    """A burst of high noise: hats, shakers, brushes and tambourines differ only in these three numbers."""
    t = _seconds(seconds)
    burst = highpass(_noise(len(t), seed), above_hz) * np.exp(-t * decay)
    return np.asarray(burst * envelope(len(t), 0.001, 0.01), np.float32)


@lru_cache(maxsize=8)
def cymbal(seconds: float = 0.9, decay: float = 5.0, ping: float = 0.5) -> Sound:
    """A cymbal: inharmonic partials over noise; ping is the share of the partials (a ride has much, a crash little)."""
    t = _seconds(seconds)
    modes = np.random.default_rng(23).uniform(2800, 9800, 22)
    metal = sum((np.sin(2 * np.pi * f * t + f) for f in modes), np.zeros(len(t))) / 7 * np.exp(-t * decay * 1.4)
    wash = highpass(_noise(len(t), 17), 5200) * np.exp(-t * decay)
    return np.asarray((ping * metal + (1 - ping) * wash) * envelope(len(t), 0.001, 0.05), np.float32)


@lru_cache(maxsize=2)
def clap() -> Sound:
    """Four hands, a few milliseconds apart."""
    sound = np.zeros(int(0.25 * RATE), np.float32)
    for delay_ms, gain in ((0, 0.6), (9, 0.7), (19, 0.8), (27, 1.0)):
        burst = equalise(noise(0.2, 700, 24.0, 31 + delay_ms), lambda f: 1 / (1 + (f / 3200) ** 4))
        start = delay_ms * RATE // 1000
        sound[start : start + len(burst)] += burst[: len(sound) - start] * np.float32(gain)
    return sound
