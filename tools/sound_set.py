"""Writes the labelled set of speech, music and other sounds that the kinds are fitted on and judged by.

From Debian packages with open licences, unpacked side by side into one folder (`dpkg -x PACKAGE.deb FOLDER/PACKAGE`),
from voices that speak here (espeak-ng, flite, festival) and from synthesis. What is fitted on and what is judged by
share no package, speaker or voice. Needs ffmpeg for G.722. Start at `main`; docs/models.md lists what came of it.

    python -m tools.sound_set PACKAGES OUT
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from services.contract.windows import SAMPLE_RATE, WINDOW
from tools.sound_archives import unpack
from tools.sound_synthesis import SOUNDS

Signal = NDArray[np.float32]
LEAST_RMS = 10 ** (-58 / 20)
LONG_S, PARTS = 40.0, 8
"""Of a longer file this many places are taken."""
LANGUAGE = r"_[a-z]{2,3}(_[A-Za-z@]+)?\.ogg$|_desc"
"""tuxpaint's files that speak, not sound."""


@dataclass(frozen=True)
class Source:
    """Some files of a package.

    Attributes:
        part: "fit" or "test".
        joined: short files stand one after the other, as prompts do; else each alone, repeated to fill a window.
        each: most windows of a file.
    """

    part: str
    kind: str
    name: str
    files: str
    windows: int
    joined: bool = False
    each: int = 6
    without: str = ""


SOURCES = (
    Source("fit", "speech", "asterisk-core-sounds-en-wav", "asterisk-core-sounds-en-wav/**/*.wav", 60, True),
    Source("fit", "speech", "asterisk-core-sounds-es-g722", "asterisk-core-sounds-es-g722/**/*.g722", 50, True),
    Source("fit", "speech", "asterisk-core-sounds-ru-g722", "asterisk-core-sounds-ru-g722/**/*.g722", 50, True),
    Source("fit", "speech", "asterisk-prompt-it-menardi-wav", "asterisk-prompt-it-menardi-wav/**/*.wav", 50, True),
    Source("fit", "speech", "fillets-ng-data-cs", "fillets-ng-data-cs/**/*.ogg", 100, True),
    Source("fit", "speech", "klettres-data", "klettres-data/**/*.ogg", 100, True),
    Source("test", "speech", "asterisk-core-sounds-fr-g722", "asterisk-core-sounds-fr-g722/**/*.g722", 60, True),
    Source("test", "speech", "fillets-ng-data-nl", "fillets-ng-data-nl/**/*.ogg", 80, True),
    *(
        Source("test", "speech", f"tuxpaint-stamps {code}", f"tuxpaint-stamps-default/**/*_desc_{code}.ogg", 16, True)
        for code in ("be", "bg", "ca", "da", "el", "es", "fr", "ro", "ru", "lt", "nl")
    ),
    Source("test", "speech", "tuxpaint-stamps en", "tuxpaint-stamps-default/**/*_desc.ogg", 16, True),
    Source("test", "speech", "pocketsphinx-testdata", "pocketsphinx-testdata/**/*.wav", 20, each=20),
    Source("fit", "music", "hyperrogue-music", "hyperrogue-music/**/*.ogg", 60, each=3),
    Source("fit", "music", "fillets-ng-data", "fillets-ng-data/**/music/*.ogg", 40, each=3),
    Source("fit", "music", "asc-music", "asc-music/**/*.mp3", 30, each=10),
    Source("fit", "music", "drascula-music", "drascula-music/**/*.ogg", 50, each=3),
    Source("fit", "music", "wesnoth-1.16-music", "wesnoth-1.16-music/**/*.ogg", 60, each=2),
    Source("fit", "music", "sonic-pi-samples", "sonic-pi-samples/**/loop_*.flac", 30, each=3),
    Source("test", "music", "singularity-music", "singularity-music/**/*.ogg", 48, each=3),
    Source("test", "music", "supertux-data (music)", "supertux-data/**/music/**/*.ogg", 80, each=2),
    Source("test", "music", "supertux-data tux_rap", "supertux-data/**/tux_rap.ogg", 30, each=30),
    Source("test", "music", "asterisk-moh-opsound-g722", "asterisk-moh-opsound-g722/**/*.g722", 60, each=12),
    Source("test", "music", "planetblupi-music-ogg", "planetblupi-music-ogg/**/*.ogg", 40, each=4),
    Source("fit", "other", "scorched3d-data", "scorched3d-data/**/*.wav", 90, each=2),
    Source("fit", "other", "wesnoth-1.16-data", "wesnoth-1.16-data/**/*.[ow][ga][gv]", 150, each=3,
           without="horn|gamestart|bell"),
    Source("fit", "other", "freedink-data", "freedink-data/**/*.wav", 40, each=2),
    Source("fit", "other", "colobot-common-sounds", "colobot-common-sounds/**/*.wav", 60, each=2),
    Source("fit", "other", "hedgewars-data", "hedgewars-data/**/Sounds/*.ogg", 60, each=2),
    Source("fit", "other", "simutrans-pak64", "simutrans-pak64/**/*.wav", 40, each=3),
    Source("fit", "other", "bucklespring-data", "bucklespring-data/**/*.wav", 12, True),
    Source("fit", "other", "gcompris-qt-data (animals)", "gcompris-qt-data/**/farm_animal_*.ogg", 27, each=3),
    Source("fit", "other", "widelands-data", "widelands-data/**/sound/**/*.ogg", 120, each=2, without="horn|bell"),
    Source("fit", "other", "megaglest-data", "megaglest-data/**/commondata/sounds/*.[ow][ga][gv]", 120, each=2,
           without="_ack|_select|_die|_summon"),
    Source("fit", "other", "unknown-horizons", "unknown-horizons/**/audio/sounds/**/*.ogg", 40, each=3),
    Source("test", "other", "openttd-opensfx", "openttd-opensfx/**/opensfx/*.wav", 63, each=1, without="/00[01].wav"),
    Source("test", "other", "tuxpaint-stamps animals", "tuxpaint-stamps-default/**/animals/**/*.ogg", 150, each=3,
           without=LANGUAGE),
    Source("test", "other", "tuxpaint-stamps things", "tuxpaint-stamps-default/**/household/**/*.ogg", 100, each=3,
           without=LANGUAGE),
    Source("test", "other", "supertux-data (rain, water)", "supertux-data/**/sounds/[rwtl]a*.wav", 30, each=3),
    Source("test", "other", "ambience (rainforest)", "ambience/**/sounds/nature/*.ogg", 20, each=20),
    Source("test", "other", "ambience (train)", "ambience/**/sounds/town/*.ogg", 20, each=20),
    Source("test", "other", "onsen (water)", "onsen/**/water.wav", 20, each=20),
)  # fmt: skip
NEWS = (
    "The minister said on Tuesday that the new bridge will open in spring. Heavy rain is expected in the north, with "
    "temperatures of about twelve degrees. In sport, the home team won by two goals to one. Scientists have found a "
    "small frog that was thought to be gone for good."
)
WHALE = (
    "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse, and "
    "nothing particular to interest me on shore, I thought I would sail about a little and see the watery part of "
    "the world."
)
VOICES = {
    "fit": (
        ("espeak-ng", ("en-us", "de", "fr", "es", "en-gb+f3", "ru", "it+f2"), NEWS),
        ("flite", ("kal", "awb"), NEWS),
    ),
    "test": (
        ("espeak-ng", ("pt", "pl", "tr", "hi", "cmn", "sv", "en-gb-scotland+m3", "en-us+f4", "de+f2"), WHALE),
        ("flite", ("slt", "rms"), WHALE),
        ("festival", ("cmu_us_slt_arctic_hts", "lp_diphone", "czech_ph", "suo_fi_lj_diphone", "upc_ca_ona_hts"), WHALE),
    ),
}
SYNTHETIC = {"fit": 14, "test": 12}
"""Windows of each synthesised sound."""


def read(path: Path) -> Signal:
    """Return a file's sound, mono at 22,050 Hz; of a long one some places; empty where it can't be read."""
    if path.suffix == ".g722":
        command = ["ffmpeg", "-v", "error", "-f", "g722", "-i", str(path), "-ac", "1", "-ar", str(SAMPLE_RATE)]
        done = subprocess.run([*command, "-f", "f32le", "-"], capture_output=True, check=False)
        return np.frombuffer(done.stdout, np.float32)
    try:
        with soundfile.SoundFile(path) as file:
            rate, seconds = file.samplerate, file.frames / file.samplerate
            if seconds <= LONG_S:
                return _resampled(file.read(dtype="float32", always_2d=True), rate)
            parts = []
            for place in np.linspace(0.05, 0.9, PARTS):
                file.seek(int(place * file.frames))
                parts.append(_resampled(file.read(int(3.05 * rate), dtype="float32", always_2d=True), rate)[:WINDOW])
            return np.concatenate([part for part in parts if len(part) == WINDOW])
    except (soundfile.SoundFileError, OSError, ValueError):
        return np.zeros(0, np.float32)


def _resampled(signal: NDArray[np.float32], rate: int) -> Signal:
    mono = signal.mean(axis=1)
    return np.asarray(soxr.resample(mono, rate, SAMPLE_RATE) if rate != SAMPLE_RATE else mono, np.float32)


def rms(signal: Signal) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(signal, dtype=np.float64)))) if len(signal) else 0.0


def joined(files: Iterable[Path], count: int, random: np.random.Generator) -> Iterator[Signal]:
    """Yield windows of short files one after the other, half a second apart at most."""
    buffer = np.zeros(0, np.float32)
    for path in files:
        signal = read(path)
        loud = np.flatnonzero(np.abs(signal) > 0.01 * np.abs(signal).max(initial=0))
        if len(loud) < 0.15 * SAMPLE_RATE:
            continue
        signal = signal[loud[0] : loud[-1] + 1]
        pause = np.zeros(int(random.uniform(0.05, 0.5) * SAMPLE_RATE), np.float32)
        buffer = np.concatenate([buffer, signal * np.float32(0.1 / rms(signal)), pause])
        while len(buffer) >= WINDOW and count:
            yield buffer[:WINDOW]
            buffer, count = buffer[WINDOW:], count - 1


def alone(files: Iterable[Path], count: int, each: int, random: np.random.Generator) -> Iterator[Signal]:
    """Yield windows of files by themselves; a short one is repeated to fill a window."""
    for path in files:
        signal = read(path)
        if len(signal) < 0.4 * SAMPLE_RATE or rms(signal) < LEAST_RMS:
            continue
        if len(signal) < SAMPLE_RATE:
            signal = np.concatenate([signal, np.zeros(int(random.uniform(0.1, 0.6) * SAMPLE_RATE), np.float32)])
        signal = np.resize(signal, max(WINDOW, len(signal)))
        starts = np.arange(0, len(signal) - WINDOW + 1, WINDOW)
        for start in random.permutation(starts)[:each]:
            if count and rms(signal[start : start + WINDOW]) > LEAST_RMS:
                yield signal[start : start + WINDOW]
                count -= 1


def spoken(program: str, voice: str, text: str, folder: Path) -> Path:
    """Let a program speak a text; return the file."""
    out = folder / f"{voice.replace('+', '_')}.wav"
    commands = {
        "espeak-ng": ["espeak-ng", "-v", voice, "-w", str(out), text],
        "flite": ["flite", "-voice", voice, "-t", text, "-o", str(out)],
        "festival": ["text2wave", "-eval", f"(voice_{voice})", "-o", str(out)],
    }
    subprocess.run(commands[program], input=text.encode(), capture_output=True, check=False, timeout=120)
    return out


def windows(packages: Path, part: str, random: np.random.Generator) -> Iterator[tuple[str, str, Signal]]:
    """Yield (kind, source, window) of one part of the set."""
    for source in (each for each in SOURCES if each.part == part):
        files = sorted(path for path in packages.glob(source.files) if path.is_file())
        files = [path for path in files if not source.without or not re.search(source.without, str(path))]
        random.shuffle(files)
        made = (
            joined(files, source.windows, random)
            if source.joined
            else alone(files, source.windows, source.each, random)
        )
        yield from ((source.kind, source.name, window) for window in made)
    with tempfile.TemporaryDirectory() as scratch:
        for program, voices, text in VOICES[part]:
            for voice in voices:
                files = [spoken(program, voice, text, Path(scratch))]
                yield from (("speech", f"{program} {voice}", window) for window in alone(files, 8, 8, random))
    for name, sound in SOUNDS.items():
        for _ in range(SYNTHETIC[part]):
            yield "other", f"synthesis {name}", sound(random)


def main(packages: Path, out: Path) -> None:
    """Write OUT/fit/, OUT/test/ and an index of each."""
    unpack(packages)
    for part in ("fit", "test"):
        rows, counts = [], dict[str, int]()
        for kind, source, window in windows(packages, part, np.random.default_rng(7)):
            counts[source] = counts.get(source, 0) + 1
            file = f"{part}/{kind}/{re.sub('[^a-z0-9.-]+', '_', source.lower())}.{counts[source]:04d}.flac"
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(out / file, window / max(1.0, float(np.abs(window).max())), SAMPLE_RATE)
            rows.append((file, kind, source))
        with (out / f"{part}.csv").open("w", newline="", encoding="utf-8") as index:
            csv.writer(index).writerows([("file", "genre", "artist"), *rows])
        print(f"{part}: {len(rows)} windows of {len(counts)} sources")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
