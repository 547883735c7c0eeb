"""Windows of real sounds for changing a network without training: what its inner values meet.

Start at `windows_of`; training/hearing/networks.py uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from services.classify.files import SUFFIXES
from services.contract.recipe import Recipe
from services.contract.windows import cut
from services.errors import GenreError
from services.featurizer.features import Featurizer, Views
from training.data.gtzan import read

LEAST_FILES = 20
MOST_FILES = 200
"""Files of each folder, evenly picked; ranges change little beyond."""


def windows_of(folders: Sequence[Path], recipe: Recipe, most: int = 2) -> Views:
    """Return the features of some windows of each file, by the recipe's views.

    Args:
        folders: sound files at any depth; one that can't be read is named and left out.
        most: windows of a file.

    Raises:
        GenreError: for fewer than 20 files that can be read.
    """
    made_by, found = Featurizer(recipe), []
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        for path in files[:: max(1, len(files) // MOST_FILES)]:
            try:
                found.append(made_by.views(cut(read(path))[:most]))
            except GenreError as error:
                click.echo(f"skipped {error.thing}: {error.reason}", err=True)
    if len(found) < LEAST_FILES:
        reason = f"hold {len(found)} readable files; {LEAST_FILES} are needed"
        raise GenreError(", ".join(map(str, folders)), reason, "name folders of real sounds")
    return {name: np.concatenate([views[name] for views in found]) for name in recipe.shapes}
