"""`genre train listen`: what both networks say of labelled audio, window by window, on disk.

The slow part of the work, done once: heads are fitted on these numbers in seconds. Start at `listen`; `load` reads
the file again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from services import files
from services.contract.recipe import load_recipe
from services.errors import GenreError
from services.featurizer.features import Featurizer
from services.featurizer.levels import levels
from training import folder
from training.data import gtzan
from training.data.data_set import read_data_set, told
from training.data.gtzan import Clip
from training.degradations import over, varied
from training.given import UNREADABLE, archive_of, takes_file
from training.hearing.networks import Networks

SILENT_DBFS = -60.0
MIXES_DB = (-12.0, -6.0, 6.0, 12.0)
"""How much louder the speech of a mixture is than its music; the louder one names the kind."""
WAYS = ("plain", "varied", "mixed")

Ints = NDArray[np.intp]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Heard:
    """What the networks say of some windows.

    Attributes:
        tags: musicnn's activations, [n, 50].
        logits: the sound network's, [n, 521].
        clip_of: number of each window's clip, [n].
        clips: the clips; `artist` is the package or speaker where there is no artist.
        kinds: place of each window's kind in `KINDS`, [n]: the clip's own, or what dominates a mixture.
        ways: "plain", "varied" or "mixed" of each window, [n].
    """

    tags: Floats
    logits: Floats
    clip_of: Ints
    clips: list[Clip]
    kinds: Ints
    ways: NDArray[np.str_]

    def take(self, rows: NDArray[np.bool_]) -> Heard:
        """Return some windows; all clips stay, so that numbers keep their meaning."""
        return Heard(
            self.tags[rows], self.logits[rows], self.clip_of[rows], self.clips, self.kinds[rows], self.ways[rows]
        )


KINDS = ("music", "speech", "other")


networks_option = click.option(
    "--networks", type=click.Path(path_type=Path),
    help="From 'genre train networks'  [default: those in the model genre-sounds].",
)  # fmt: skip
audio_option = click.option("--audio", type=click.Path(path_type=Path), required=True, help="Folder of audio files.")


@click.command()
@networks_option
@audio_option
@click.option(
    "--index", type=click.Path(path_type=Path),
    help="CSV: file, genre (or music, speech, other), artist (or who speaks, or the package).  [default: one folder "
    "a genre]",
)  # fmt: skip
@click.option("--vary", is_flag=True, help="Also hear each window at another level, by telephone, and mixed.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Of --vary.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/heard.npz"), show_default=True)
def listen(networks: Path | None, audio: Path, index: Path | None, vary: bool, seed: int, out: Path) -> None:
    """Write what both networks say of each window of labelled audio.

    \b
    Example: genre train listen --audio music --out own.npz
    Example: genre train listen --networks networks.onnx --audio music --index music/index.csv --out music.npz
    """
    data = read_data_set(audio, index)
    takes_file("--out", out)
    for line in told(data.skipped):
        click.echo(line, err=True)
    heard = hear(Networks(networks or folder.shipped()), data.clips, np.random.default_rng(seed) if vary else None)
    save(out, heard)
    click.echo(f"wrote {out}: {len(heard.tags)} windows of {len(heard.clips)} clips")


def hear(networks: Networks, clips: Sequence[Clip], random: np.random.Generator | None) -> Heard:
    """Ask both networks about every window that is not silent; a file that can't be read is named and left out.

    Raises:
        GenreError: where nothing can be heard, or a network's answer is not finite.
    """
    featurizer = Featurizer(load_recipe(networks.recipe))
    used: list[Clip] = []
    windows: list[NDArray[np.int16]] = []
    rows: list[tuple[int, int, str]] = []
    for clip in clips:
        try:
            pcm = gtzan.windows(gtzan.read(clip.path)).pcm
        except GenreError as error:
            click.echo(f"skipped {error.thing}: {error.reason}", err=True)
            continue
        pcm = pcm[levels(pcm).rms_dbfs >= SILENT_DBFS]
        if clip.kind not in KINDS or not len(pcm):
            continue
        windows.append(pcm)
        rows += [(len(used), KINDS.index(clip.kind), "plain")] * len(pcm)
        used.append(clip)
    if not used:
        raise GenreError("--audio", "has no clip that can be heard", "see the lines above")
    everything = np.concatenate(windows)
    if random is not None:
        more, more_rows = _more(everything, rows, random)
        everything, rows = np.concatenate([everything, more]), rows + more_rows
    tags, logits = [], []
    with click.progressbar(everything, label="windows", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        for window in bar:
            one = networks.answer(featurizer.views(window[None]))
            tags.append(one[0][0])
            logits.append(one[1][0])
    made = Heard(
        np.array(tags), np.array(logits), np.array([row[0] for row in rows], np.intp), used,
        np.array([row[1] for row in rows], np.intp), np.array([row[2] for row in rows]),
    )  # fmt: skip
    _check(made)
    return made


def _more(
    windows: NDArray[np.int16], rows: Sequence[tuple[int, int, str]], random: np.random.Generator
) -> tuple[NDArray[np.int16], list[tuple[int, int, str]]]:
    """Return each window as it may reach a listener, and half as many mixtures of speech and music."""
    made = [varied(window, random) for window in windows]
    told = [(clip, kind, "varied") for clip, kind, _ in rows]
    places = [np.flatnonzero([row[1] == kind for row in rows]) for kind in (0, 1)]
    if all(map(len, places)):
        for number in range(len(places[1])):
            music, speech = (int(random.choice(each)) for each in places)
            db = MIXES_DB[number % len(MIXES_DB)]
            made.append(over(windows[speech], windows[music], db))
            # Filed under the speaker: a fold then never has the same voice on both sides.
            told.append((rows[speech][0], KINDS.index("speech" if db > 0 else "music"), "mixed"))
    return np.array(made), told


def _check(heard: Heard) -> None:
    """Refuse answers that are not finite, naming the clip."""
    for name, values in (("musicnn's tags", heard.tags), ("the sounds' logits", heard.logits)):
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            clip = heard.clips[heard.clip_of[bad[0]]]
            raise GenreError(str(clip.path), f"{name} are not finite there", "leave the file out")


def save(path: Path, heard: Heard) -> None:
    """Write the file, whole or not at all.

    Raises:
        GenreError: where it can't be written.
    """
    about = np.array([[clip.name, clip.genre, clip.artist] for clip in heard.clips])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as new:
            np.savez(
                new, tags=heard.tags, logits=heard.logits, clip_of=heard.clip_of, kinds=heard.kinds,
                ways=heard.ways, clips=about,
            )  # fmt: skip
    except OSError as error:
        raise GenreError(str(path), f"can't be written ({error})", "give --out a place that can") from error


def load(paths: Sequence[Path]) -> Heard:
    """Read files that `genre train listen` wrote as one; a clip that stands in several is taken from the first.

    Raises:
        GenreError: for a file that is none, or holds values that are not finite.
    """
    parts: list[Heard] = []
    clips: list[Clip] = []
    taken: set[tuple[str, str]] = set()
    for path in paths:
        try:
            with archive_of(path) as archive:
                own = [Clip(str(name), str(genre), path, str(artist)) for name, genre, artist in archive["clips"]]
                tags, logits = np.asarray(archive["tags"], np.float32), np.asarray(archive["logits"], np.float32)
                clip_of, kinds = _places(archive["clip_of"], own), _places(archive["kinds"], KINDS)
                one = Heard(tags, logits, clip_of, own, kinds, np.asarray(archive["ways"]))
            if len({len(each) for each in (tags, logits, one.clip_of, one.kinds, one.ways)}) > 1 or tags.shape[1] != 50:
                raise ValueError("its columns do not fit each other")
            if len(np.unique(clip_of)) < len(own):
                raise ValueError("it lists a clip without windows")
        except UNREADABLE as error:
            reason = f"is not what 'genre train listen' writes ({error})"
            raise GenreError(str(path), reason, "make it again with 'genre train listen'") from error
        _check(one)
        new = np.array([(clip.name, clip.genre) not in taken for clip in own])
        taken |= {(clip.name, clip.genre) for clip in own}
        numbers = np.cumsum(new) - 1 + len(clips)
        clips += [clip for clip, keep in zip(own, new, strict=True) if keep]
        one = one.take(new[one.clip_of])
        parts.append(Heard(one.tags, one.logits, numbers[one.clip_of].astype(np.intp), [], one.kinds, one.ways))
    columns = ("tags", "logits", "clip_of", "kinds", "ways")
    tags, logits, clip_of, kinds, ways = (np.concatenate([getattr(part, name) for part in parts]) for name in columns)
    return Heard(tags, logits, clip_of, clips, kinds, ways)


def _places(values: NDArray[np.generic], among: Sequence[object]) -> Ints:
    """Return whole numbers that are places in a sequence."""
    if values.dtype.kind not in "iu" or (values.size and not 0 <= int(values.min()) <= int(values.max()) < len(among)):
        raise ValueError("its numbers are no places of clips or kinds")
    return np.asarray(values, np.intp)
