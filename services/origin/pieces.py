"""Ten pieces, one for each genre: bars, chords and patterns. Composed for this project.

They are meant to sound like their style, not to be learned from. Each function returns float32, shape (2, samples),
44,100 Hz. Start at any of them; `tape.py` lays the notes, `instruments.py` makes the sounds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.origin import instruments as i
from services.origin.tape import Tape, melody

MINOR_BLUES = (0, 3, 5, 6, 7, 10)
MAJOR_PENTATONIC = (0, 2, 4, 7, 9)
MAJOR = (0, 2, 4, 5, 7, 9, 11)


def blues() -> NDArray[np.float32]:
    """Twelve-bar shuffle in E with boogie guitar, harp and walking bass."""
    t = Tape(104, 24, 0.66, 1)
    kit = {"k": (i.kick(60), 0.7, 0.0), "s": (i.snare(170, 0.6), 0.5, 0.0), "h": (i.noise(0.07, 6500, 45.0), 0.3, 0.3)}
    form = (0, 5, 0, 0, 5, 5, 0, 0, 7, 5, 0, 7)
    for bar in range(t.bars):
        root = 40 + form[bar % 12]
        t.drums(bar, kit, {"k": "x...x.o.", "s": "..x...x.", "h": "xoxoxoxo"})
        for eighth in range(8):
            high = (7, 7, 9, 9, 10, 10, 9, 9)[eighth]
            for step in (0, high):
                t.play(np.tanh(2.5 * i.pluck(root + step, t.s(0.5), 0.75, 0.992)), bar * 4 + eighth / 2, 0.26, -0.4)
        for beat, step in enumerate((0, 4, 7, 9)):
            t.play(i.bass(root - 12 + step, t.s(0.9)), bar * 4 + beat, 0.8)
        t.play(i.piano(root + 24 + 4, t.s(0.4), 0.8) + i.piano(root + 24 + 10, t.s(0.4), 0.8), bar * 4 + 1.5, 0.3, 0.5)
    for at, held, note in melody(t, 64, MINOR_BLUES, 0, 12, "..x.xxx.") + melody(
        t, 52, MINOR_BLUES, 12, 12, "xxx.x.xx"
    ):
        if at < 48:
            t.play(i.harmonica(note, t.s(held)), at, 0.5, 0.2)
        else:
            t.play(np.tanh(4 * i.pluck(note, t.s(held * 1.2), 0.8, 0.999)), at, 0.34, 0.3)
    return t.finish(0.9, 0.2)


def classical() -> NDArray[np.float32]:
    """Broken chords on the piano under a string section, in D minor, without drums."""
    t = Tape(66, 18, 0.5, 2)
    chords = (
        (50, 53, 57),
        (46, 50, 53),
        (43, 46, 50),
        (45, 49, 52),
        (50, 53, 57),
        (48, 52, 55),
        (53, 57, 60),
        (45, 49, 52),
    )
    for bar in range(t.bars):
        chord = chords[bar % 8] if bar < t.bars - 1 else chords[0]
        ladder = [*chord, *(n + 12 for n in chord), *(n + 24 for n in chord)]
        order = (0, 2, 3, 4, 5, 4, 3, 2) if bar % 2 else (0, 2, 3, 5, 6, 5, 3, 2)
        for eighth, index in enumerate((*order, *order)):
            t.play(i.piano(ladder[index], t.s(1.2), 0.25), bar * 4 + eighth / 4, 0.5 + 0.06 * (eighth % 4 == 0), -0.2)
        for place, note in enumerate((chord[0] - 12, *chord[1:], chord[2] + 12)):
            t.play(i.strings(note, t.s(4.2)), bar * 4, 0.5, (-0.5, -0.2, 0.3, 0.6)[place])
        if bar >= 2:
            top = chord[(bar * 2) % 3] + 24
            t.play(i.strings(top, t.s(2.6)), bar * 4, 0.5, 0.5)
            t.play(i.strings(top + (2 if bar % 3 else -1), t.s(0.6)), bar * 4 + 2.5, 0.4, 0.5)
            t.play(i.strings(top - (1 if bar % 2 else 0), t.s(1.1)), bar * 4 + 3, 0.4, 0.5)
    return t.finish(2.4, 0.5)


def country() -> NDArray[np.float32]:
    """Two-beat in G: root and fifth, strummed off-beats, a banjo roll and a fiddle."""
    t = Tape(116, 32, 0.52, 3)
    kit = {"k": (i.kick(62, 0.2), 0.5, 0.0), "b": (i.noise(0.09, 2600, 30.0), 0.33, 0.1)}
    form = (43, 43, 48, 43, 43, 43, 50, 50, 43, 43, 48, 48, 43, 50, 43, 43)
    for bar in range(t.bars):
        root = form[bar % 16]
        t.drums(bar, kit, {"k": "x...x...", "b": ".ox..ox."})
        for beat, step in ((0, 0), (2, -5)):
            t.play(i.bass(root - 12 + step + (12 if root + step < 48 else 0), t.s(1.1)), bar * 4 + beat, 0.7)
        for beat in (1, 3):
            for string, note in enumerate((root, root + 4, root + 7, root + 12, root + 16)):
                t.play(i.pluck(note, t.s(0.8), 0.9, 0.992), bar * 4 + beat + string * 0.015, 0.22, -0.4)
        roll = (12, 19, 24, 16, 19, 24, 12, 19) if bar % 2 else (16, 19, 24, 12, 19, 24, 16, 24)
        for eighth, step in enumerate(roll):
            t.play(i.pluck(root + step, t.s(0.45), 1.0, 0.982), bar * 4 + eighth / 2, 0.4, 0.4)
    for at, held, note in melody(t, 55, MAJOR_PENTATONIC, 4, 12, "x.xxx.x.") + melody(
        t, 55, MAJOR_PENTATONIC, 20, 12, "x..xx.xx"
    ):
        t.play(i.fiddle(note + 12, t.s(held)), at, 0.5, 0.1)
        t.play(i.pluck(note, t.s(held), 0.8, 0.997), at, 0.2, 0.6)
    return t.finish(0.6, 0.15)


def disco() -> NDArray[np.float32]:
    """Four on the floor, open hats between, octaves in the bass, strings and a scratched guitar."""
    t = Tape(122, 34, 0.5, 4)
    kit = {
        "k": (i.kick(52, 0.25, 0.4), 1.0, 0.0),
        "c": (i.clap(), 0.6, 0.0),
        "o": (i.noise(0.18, 7000, 14.0), 0.34, 0.2),
        "h": (i.noise(0.04, 8000, 70.0), 0.22, -0.2),
    }
    chords = ((45, (57, 60, 64, 67)), (50, (57, 60, 62, 66)), (43, (55, 59, 62, 66)), (48, (55, 59, 60, 64)))
    for bar in range(t.bars):
        root, chord = chords[bar // 2 % 4]
        t.drums(
            bar,
            kit,
            {"k": "x...x...x...x...", "c": "....x.......x...", "o": "..x...x...x...x.", "h": "xx.xxx.xxx.xxx.x"},
        )
        for eighth in range(8):
            t.play(i.bass(root - 12 + 12 * (eighth % 2), t.s(0.42), 0.8), bar * 4 + eighth / 2, 0.75)
        for sixteenth, mark in enumerate("x.xx.xx.x.xx.x.x"):
            if mark == "x":
                for note in chord[1:]:
                    t.play(i.pluck(note + 12, 0.09, 1.0, 0.97), bar * 4 + sixteenth / 4, 0.2, -0.6)
        if bar >= 4:
            for note in chord:
                t.play(i.strings(note + 12, t.s(3.6)), bar * 4, 0.28, 0.4)
            run = (0, 2, 3, 5, 7, 5, 3, 2)
            if bar % 4 == 3:
                for eighth, step in enumerate(run):
                    t.play(i.strings(chord[0] + 24 + step, t.s(0.5)), bar * 4 + eighth / 2, 0.5, 0.5)
    for at, held, note in melody(t, 57, MINOR_BLUES, 8, 24, "x.x..x.x"):
        t.play(i.voice(note + 12, t.s(held), "a"), at, 0.45)
    return t.finish(0.8, 0.2)


def hiphop() -> NDArray[np.float32]:
    """Boom bap: a hard kick and snare, swung hats, a looped electric piano, a rapped rhythm on one note."""
    t = Tape(90, 24, 0.58, 5)
    kit = {
        "k": (np.tanh(2.2 * i.kick(46, 0.35, 0.8)), 1.0, 0.0),
        "s": (np.tanh(2 * i.snare(210, 1.0, 0.2)), 0.75, 0.0),
        "h": (i.noise(0.05, 7500, 60.0), 0.3, 0.2),
    }
    chords = ((50, 53, 57, 60, 64), (46, 50, 53, 57, 60))
    for bar in range(t.bars):
        t.drums(
            bar,
            kit,
            {"k": ("x.....xx..x.....", "x..x...x..x..x..")[bar % 2], "s": "....x.......x...", "h": "x.x.x.x.x.x.xox."},
        )
        chord = chords[bar % 2]
        for beat in (0, 2.5):
            for place, note in enumerate(chord):
                t.play(i.lowpass(i.electric_piano(note, t.s(1.8)), 1800), bar * 4 + beat + 0.01 * place, 0.22, -0.2)
        low = chord[0] - 24
        for beat, beats in ((0, 0.8), (1.5, 0.7), (2.5, 1.2)):
            t.play(i.tone(low + 12, t.s(beats), (1.0, 0.2), 0.01, 0.08), bar * 4 + beat, 0.9)
        if bar >= 4:
            for sixteenth in range(16):
                if t.rng.random() < 0.72:
                    word = i.voice(50 + int(t.rng.integers(-2, 4)), 0.14, "aoe"[int(t.rng.integers(0, 3))])
                    breath = i.noise(0.05, 3000, 40.0, int(t.rng.integers(60, 64)))
                    t.play(word, bar * 4 + sixteenth / 4, 0.9)
                    t.play(breath, bar * 4 + sixteenth / 4, 0.25)
    crackle = np.zeros(t.tracks.shape[1], np.float32)
    crackle[t.rng.integers(0, len(crackle), 900)] = 0.12
    t.tracks += crackle
    return t.finish(0.4, 0.08)


def jazz() -> NDArray[np.float32]:
    """A trio in B flat: walking bass, ride cymbal and a piano that comps and improvises."""
    t = Tape(152, 40, 0.64, 6)
    kit = {
        "r": (i.cymbal(0.8, 6.0, 0.5), 0.22, 0.3),
        "h": (i.noise(0.05, 6000, 55.0), 0.3, -0.3),
        "b": (i.noise(0.12, 1800, 22.0), 0.2, 0.0),
    }
    form = ((46, 4, 11), (43, 3, 10), (48, 3, 10), (41, 4, 10), (50, 3, 10), (43, 4, 10), (48, 3, 10), (41, 4, 10))
    for bar in range(t.bars):
        root, third, seventh = form[bar % 8]
        following = form[(bar + 1) % 8][0]
        t.drums(bar, kit, {"r": "x.xox.xo", "h": "..x...x.", "b": "o..o...o" if bar % 2 else "........"})
        for beat, note in enumerate((root, root + third, root + 7, following + (1 if bar % 2 else -1))):
            t.play(i.pluck(note - 12, t.s(1.05), 0.25, 0.994), bar * 4 + beat, 1.0)
            t.play(i.bass(note - 12, t.s(0.9), 0.1), bar * 4 + beat, 0.35)
        for place in ((0, 1.5), (0.5, 2.5), (1.5, 3.5))[int(t.rng.integers(0, 3))]:
            for step in (third, seventh, 14):
                t.play(i.piano(root + 12 + step, t.s(0.7), 0.4), bar * 4 + place, 0.3, -0.3)
    for at, held, note in melody(t, 58, (0, 2, 3, 4, 5, 7, 9, 10), 2, 37, "xxxx.xxx"):
        t.play(i.piano(note, t.s(held * 1.1), 0.65), at, 0.5, -0.1)
    return t.finish(0.7, 0.2)


def metal() -> NDArray[np.float32]:
    """Palm-muted power chords in E, double bass drum, two guitars left and right."""
    t = Tape(168, 44, 0.5, 7)
    kit = {
        "k": (np.tanh(3 * i.kick(55, 0.16, 1.2)), 0.8, 0.0),
        "s": (np.tanh(2 * i.snare(190, 1.0, 0.25)), 0.85, 0.0),
        "c": (i.cymbal(1.2, 3.0, 0.15), 0.4, 0.4),
    }
    riffs = (
        ("xx.xx.xx", (0, 0, 0, 1)),
        ("xxxxxxxx", (0, 3, 0, 5)),
        ("x.x.x.x.", (0, 1, 3, 1)),
        ("xx.xx.xx", (0, 6, 5, 3)),
    )
    for bar in range(t.bars):
        picks, steps = riffs[bar // 4 % 4]
        t.drums(
            bar,
            kit,
            {
                "k": "xxxxxxxxxxxxxxxx" if bar // 4 % 2 else "x.xxx.x.x.xxx.x.",
                "s": "....x.......x...",
                "c": "x...x...x...x...",
            },
        )
        for eighth, mark in enumerate(picks):
            step = steps[eighth // 2] if bar % 2 else 0
            accent = eighth == 0 or step != 0
            for side, note in ((-0.9, 40 + step), (0.9, 40.06 + step)):
                if mark == "x":
                    t.play(
                        i.power_chord(note, t.s(1.0 if accent else 0.45), 22.0, not accent),
                        bar * 4 + eighth / 2,
                        0.8,
                        side,
                    )
            if mark == "x":
                t.play(np.tanh(3 * i.bass(28 + step, t.s(0.45), 1.0)), bar * 4 + eighth / 2, 0.4)
    for at, held, note in melody(t, 64, (0, 1, 3, 5, 7, 8, 10), 16, 16, "xxxxxxxxxxxxxxxx"):
        t.play(np.tanh(6 * i.pluck(note, t.s(held * 1.3), 0.9, 0.9995)), at, 0.35, 0.1)
    return t.finish(0.5, 0.1)


def pop() -> NDArray[np.float32]:
    """Four chords in C, synthesiser and claps, a voice without words over the chorus."""
    t = Tape(112, 30, 0.5, 8)
    kit = {
        "k": (i.kick(50, 0.25, 0.5), 0.9, 0.0),
        "c": (i.clap(), 0.6, 0.0),
        "h": (i.noise(0.05, 8000, 55.0), 0.25, 0.25),
    }
    chords = ((48, (60, 64, 67)), (43, (59, 62, 67)), (45, (60, 64, 69)), (41, (57, 60, 65)))
    for bar in range(t.bars):
        root, chord = chords[bar % 4]
        chorus = bar // 8 % 2 == 1
        t.drums(
            bar,
            kit,
            {
                "k": "x..x..x.x..x..x." if chorus else "x.......x.......",
                "c": "....x.......x...",
                "h": "x.x.x.x.x.x.x.x.",
            },
        )
        for eighth in range(8):
            t.play(i.tone(root - 12, t.s(0.4), i.SQUARE[:9], 0.005, 0.04, 2.0), bar * 4 + eighth / 2, 0.65)
            t.play(
                i.tone(chord[eighth % 3] + 12, t.s(0.45), i.SAW[:12], 0.003, 0.2, 4.0), bar * 4 + eighth / 2, 0.5, 0.5
            )
        for note in chord:
            t.play(
                i.tone(note, t.s(4), i.SAW[:10], 0.05, 0.1, 0.0, 0.0, (-0.1, 0.08)),
                bar * 4,
                0.5 if chorus else 0.3,
                -0.4,
            )
    tune = (
        (0, 1, 4),
        (1, 1, 4),
        (2, 0.5, 2),
        (2.5, 1.5, 0),
        (4, 1, 1),
        (5, 1.5, 0),
        (6.5, 1.5, -1),
        (8, 1, 4),
        (9, 1, 5),
        (10, 2, 4),
        (12, 1.5, 2),
        (13.5, 2.5, 0),
    )
    for start in range(4, t.bars - 4, 4):
        for beat, beats, degree in tune:
            note = 72 + 12 * (degree // 7) + MAJOR[degree % 7]
            t.play(i.voice(note - (0 if start % 8 else 12), t.s(beats), "aoe"[degree % 3]), start * 4 + beat, 0.8)
            t.play(i.voice(note - 12 + 4 * (start % 8 == 4), t.s(beats), "o"), start * 4 + beat, 0.35, 0.4)
    return t.finish(1.0, 0.25)


def reggae() -> NDArray[np.float32]:
    """One drop: nothing on one, all on three; chords off the beat, a round and heavy bass."""
    t = Tape(76, 20, 0.56, 9)
    kit = {
        "k": (i.kick(50, 0.3, 0.2), 0.9, 0.0),
        "r": (i.snare(320, 0.25, 0.1), 0.6, 0.1),
        "h": (i.noise(0.05, 7000, 55.0), 0.28, 0.3),
    }
    chords = ((45, (57, 60, 64)), (45, (57, 60, 64)), (38, (57, 62, 65)), (40, (55, 59, 64)))
    line = ((0.5, 0.4, 0), (1, 0.4, 0), (1.5, 0.4, 7), (2.5, 0.4, 12), (3, 0.4, 10), (3.5, 0.4, 7))
    for bar in range(t.bars):
        root, chord = chords[bar % 4]
        t.drums(bar, kit, {"k": "....x...", "r": "....x..o", "h": "xoxoxoxo"})
        for beat in range(4):
            for note in chord:
                t.play(i.pluck(note, 0.13, 0.85, 0.985), bar * 4 + beat + 0.5, 0.5, -0.45)
                t.play(i.organ(note, 0.12), bar * 4 + beat + 0.5, 0.35, 0.45)
                if bar % 8 >= 4:
                    t.play(i.organ(note, 0.09), bar * 4 + beat + 0.75, 0.2, 0.45)
        for place, beats, step in line:
            t.play(i.tone(root - 12 + step, t.s(beats), (1.0, 0.35, 0.1), 0.01, 0.06), bar * 4 + place, 1.1)
    for at, held, note in melody(t, 57, (0, 3, 5, 7, 10), 4, 15, "x.x...x."):
        t.play(i.voice(note, t.s(held), "o"), at, 0.7)
        t.play(i.pluck(note, t.s(held), 0.7, 0.994), at + 0.375, 0.12, 0.7)
    return t.finish(1.4, 0.25)


def rock() -> NDArray[np.float32]:
    """A driving back beat in A, overdriven open chords and a guitar solo."""
    t = Tape(134, 36, 0.5, 10)
    kit = {
        "k": (i.kick(56, 0.25, 0.6), 0.95, 0.0),
        "s": (i.snare(180, 1.0, 0.28), 0.85, 0.0),
        "h": (i.noise(0.12, 6500, 20.0), 0.3, 0.3),
        "c": (i.cymbal(1.4, 2.6, 0.2), 0.5, -0.3),
    }
    form = (45, 45, 43, 50, 45, 45, 43, 40)
    for bar in range(t.bars):
        root = form[bar % 8]
        t.drums(
            bar,
            kit,
            {"k": "x....xx.", "s": "..x...x.", "h": "xxxxxxxx", "c": "x......." if bar % 4 == 0 else "........"},
        )
        for start, beats in ((0, 1.5), (1.5, 1.0), (2.5, 1.5)):
            for side, off in ((-0.8, 0.0), (0.8, 0.05)):
                t.play(i.power_chord(root + off, t.s(beats), 6.0), bar * 4 + start, 0.75, side)
        for eighth in range(8):
            t.play(i.bass(root - 12, t.s(0.46), 0.7), bar * 4 + eighth / 2, 0.6)
    for at, held, note in melody(t, 69, (0, 3, 5, 7, 10), 16, 16, "x.xxx.xx"):
        t.play(np.tanh(5 * i.pluck(note, t.s(held * 1.4), 0.8, 0.9996)), at, 0.4, 0.1)
    for at, held, note in melody(t, 57, (0, 3, 5, 7, 10), 4, 12, "x.x.xx.."):
        t.play(np.tanh(2 * i.voice(note + 12, t.s(held), "a")), at, 0.6)
    return t.finish(0.8, 0.18)
