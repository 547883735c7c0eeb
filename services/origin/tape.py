"""Two tracks of tape: notes and drum patterns are laid at beats, then a room is added. For the demo music only.

It knows rhythm and space, not instruments (`instruments.py`) or tunes (`pieces.py`). Start at `Tape.play`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.origin import instruments as i
from services.origin.instruments import RATE, Sound


class Tape:
    """Two tracks of tape on which sounds are laid at beats; a hand that is never quite exact, but always the same.

    Args:
        bpm: beats a minute.
        bars: length, in bars of four beats.
        swing: where the second half of a beat falls, 0.5 is straight and 0.667 a triplet.
        seed: of the hand.
    """

    def __init__(self, bpm: float, bars: int, swing: float = 0.5, seed: int = 0) -> None:
        self.beat_s, self.bars, self.swing = 60 / bpm, bars, swing
        self.rng = np.random.default_rng(seed)
        self.tracks: NDArray[np.float32] = np.zeros((2, int((bars * 4 * self.beat_s + 2.5) * RATE)), np.float32)

    def play(self, sound: Sound, beat: float, gain: float, pan: float = 0.0) -> None:
        """Lay sound down at a beat (its fraction is swung); pan is -1 (left) to 1 (right)."""
        whole, part = divmod(beat, 1.0)
        swung = part * 2 * self.swing if part < 0.5 else self.swing + (part - 0.5) * 2 * (1 - self.swing)
        start = max(0, int(((whole + swung) * self.beat_s + self.rng.normal(0, 0.003)) * RATE))
        gain *= float(self.rng.uniform(0.85, 1.0))
        piece = sound[: max(0, self.tracks.shape[1] - start)]
        for side, share in enumerate(((1 - pan) / 2, (1 + pan) / 2)):
            self.tracks[side, start : start + len(piece)] += piece * np.float32(gain * (2 * share) ** 0.5)

    def s(self, beats: float) -> float:
        """Return how long so many beats last, in seconds, rounded so that equal notes are rendered once."""
        return round(beats * self.beat_s, 3)

    def drums(self, bar: int, hits: dict[str, tuple[Sound, float, float]], pattern: dict[str, str]) -> None:
        """Play one bar of a drum grid: a line of 'x' (hit), 'o' (soft) and '.' for each drum, any number of steps."""
        for name, line in pattern.items():
            sound, gain, pan = hits[name]
            for step, mark in enumerate(line):
                if mark != ".":
                    self.play(sound, bar * 4 + step * 4 / len(line), gain * (1.0 if mark == "x" else 0.45), pan)

    def finish(self, room_s: float, wet: float) -> NDArray[np.float32]:
        """Add a room (noise that dies within room_s), round the peaks off and fade; shape (2, samples)."""
        size = int(room_s * RATE)
        length = self.tracks.shape[1]
        points = 1 << int(np.ceil(np.log2(length + size)))
        out: NDArray[np.float32] = np.empty_like(self.tracks)
        for side in range(2):
            tail = np.random.default_rng(40 + side).normal(0, 1, size) * np.exp(-5.5 * np.arange(size) / size)
            tail = i.lowpass(tail.astype(np.float32), 3800) / np.sqrt(size / 16)
            room = np.fft.irfft(np.fft.rfft(self.tracks[side], points) * np.fft.rfft(tail, points), points)[:length]
            out[side] = self.tracks[side] + np.float32(wet) * room
        out /= np.percentile(np.abs(out[:, ::16]), 99.5) + 1e-9
        out = np.asarray(np.tanh(out * 0.75) * 0.95, np.float32)
        fade = int(1.5 * RATE)
        out[:, -fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        return out


def melody(
    tape: Tape, root: int, scale: Sequence[int], start: int, bars: int, rhythm: str
) -> list[tuple[float, float, int]]:
    """Walk a scale at random by small steps: (beat, beats, note) for each 'x' of a rhythm of one bar ('.' holds)."""
    notes: list[tuple[float, float, int]] = []
    degree = len(scale) + int(tape.rng.integers(0, 3))
    step = 4 / len(rhythm)
    for bar in range(start, start + bars):
        for place, mark in enumerate(rhythm):
            if mark == "x" and tape.rng.random() < 0.85:
                degree = int(np.clip(degree + tape.rng.integers(-2, 3), 0, 3 * len(scale) - 1))
                octave, index = divmod(degree, len(scale))
                held = 1 + next((n for n, c in enumerate(rhythm[place + 1 :]) if c == "x"), len(rhythm) - place - 1)
                notes.append((bar * 4 + place * step, held * step, root + 12 * octave + scale[index]))
    return notes
