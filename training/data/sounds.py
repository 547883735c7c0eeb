"""Labelled sounds as windows: what a model is measured on. Start at `read_sounds`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError
from training.data import gtzan
from training.data.data_set import read_data_set, told
from training.data.gtzan import Clip
from training.degradations import Pcm


@dataclass(frozen=True)
class Sounds:
    """Windows of sounds that have a label.

    Attributes:
        pcm: int16 [n, 66000].
        clip_of: number of each window's clip, [n].
        clips: those that can be read.
        skipped: file and reason of the others.
    """

    pcm: Pcm
    clip_of: NDArray[np.intp]
    clips: list[Clip]
    skipped: list[dict[str, str]]

    def of(self, kept: Sequence[bool]) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        """Return which windows are of some clips, and the number of each among those."""
        mask = np.asarray(kept, bool)
        rows = mask[self.clip_of]
        return rows, (np.cumsum(mask) - 1)[self.clip_of[rows]].astype(np.intp)


def read_sounds(audio: Path, index: Path | None, channel: int | None = None) -> Sounds:
    """Read the sounds of an index, or of one folder a genre; one that can't be read is named and left out.

    Args:
        channel: of several, take this one alone.

    Raises:
        GenreError: for an index that is none, or no file that can be read.
    """
    data = read_data_set(audio, index)
    skipped = [asdict(item) for item in data.skipped]
    for line in told(data.skipped):
        click.echo(line, err=True)
    windows: list[Pcm] = []
    clip_of: list[int] = []
    clips: list[Clip] = []
    for clip in data.clips:
        try:
            pcm = gtzan.windows(gtzan.read(clip.path, channel)).pcm
        except GenreError as error:
            click.echo(f"skipped {error.thing}: {error.reason}", err=True)
            skipped.append({"file": error.thing, "reason": error.reason})
            continue
        windows.append(pcm)
        clip_of += [len(clips)] * len(pcm)
        clips.append(clip)
    if not clips:
        raise GenreError(str(audio), "has no clip that can be read", "see the lines above")
    return Sounds(np.concatenate(windows), np.array(clip_of, np.intp), clips, skipped)
