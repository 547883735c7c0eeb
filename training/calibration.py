"""Windows of real clips for changing a network without training: one half shows what it meets, the other judges.

Start at `halves`; training/prune.py and training/quantize.py use it.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from services.errors import GenreError
from services.featurizer.features import Features, Featurizer
from services.featurizer.recipe import Recipe
from services.featurizer.windows import cut
from training.gtzan import find, read

LEAST_CLIPS = 20


def halves(audio: Path, recipe: Recipe, most: int) -> tuple[Features, Features]:
    """Return the features of every second clip and of the others, each [windows, frames, bands].

    Args:
        audio: folder of clips, one folder a genre; a clip that can't be read is named and left out.
        most: windows of a clip.

    Raises:
        GenreError: for fewer than 20 clips that can be read.
    """
    made_by, features = Featurizer(recipe), []
    for clip in find(audio)[0]:
        try:
            pcm = cut(read(clip.path))[:most]
        except GenreError as error:
            click.echo(f"skipped {error.thing}: {error.reason}", err=True)
            continue
        features.append(made_by.features(pcm))
    if len(features) < LEAST_CLIPS:
        reason = f"has {len(features)} readable clips; {LEAST_CLIPS} are needed"
        raise GenreError(str(audio), reason, "name a folder of clips")
    return np.concatenate(features[::2]), np.concatenate(features[1::2])
