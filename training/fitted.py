"""A fitted head on disk: what `genre train fit` writes and `genre train export` reads.

One .npz file: matrices, and a JSON text with what cross-validation found. Start at `save` and `load`.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from services.errors import GenreError
from training.gaussians import Gaussians
from training.gtzan import GENRES
from training.heads import Head, Linear
from training.musicnn import TAGS

KINDS: dict[str, type[Gaussians] | type[Linear]] = {"gaussians": Gaussians, "linear": Linear}


def save(path: Path, head: Head, about: dict[str, Any]) -> None:
    """Write a head, whole or not at all.

    Raises:
        GenreError: where path can't be written.
    """
    arrays = vars(head.classifier)
    kind = next(name for name, made in KINDS.items() if isinstance(head.classifier, made))
    text = json.dumps({**about, "kind": kind, "temperature": head.temperature, "correlation": head.correlation})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as scratch:
            np.savez(scratch, about=np.array(text), **arrays)
        Path(scratch.name).replace(path)
    except OSError as error:
        raise GenreError(str(path), f"can't be written ({error})", "give --out a place that can") from error


def load(path: Path) -> tuple[Head, dict[str, Any]]:
    """Read a head and what was said about it.

    Raises:
        GenreError: for a file that is not a head, or whose matrices have the wrong shape.
    """
    remedy = "make it with 'genre train fit'"
    try:
        with np.load(path, allow_pickle=False) as archive:
            about: dict[str, Any] = json.loads(str(archive["about"]))
            made = KINDS[about.pop("kind")]
            arrays = {field.name: np.asarray(archive[field.name], np.float64) for field in fields(made)}
        temperature, correlation = float(about.pop("temperature")), float(about.pop("correlation"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise GenreError(str(path), f"is not a fitted head ({error})", remedy) from error
    tags, genres = len(TAGS), len(GENRES)
    shapes = {
        Gaussians: {"means": (genres, tags), "whiten": (genres, tags, tags), "constants": (genres,)},
        Linear: {"weights": (tags, genres), "bias": (genres,)},
    }[made]
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            found = list(arrays[name].shape)
            raise GenreError(str(path), f"{name} has the shape {found}, not {list(shape)}", remedy)
        if not np.isfinite(arrays[name]).all():
            raise GenreError(str(path), f"{name} holds values that are not finite", remedy)
    if not temperature > 0:
        raise GenreError(str(path), f"temperature is {temperature}", remedy)
    return Head(made(**arrays), temperature, correlation), about
