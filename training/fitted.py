"""A fitted head on disk: what `genre train fit` writes and `genre train export` reads.

One .npz file: matrices, and a JSON text with what cross-validation found. Start at `save` and `load`.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from services.errors import GenreError
from training.gtzan import GENRES
from training.heads import Head
from training.musicnn import TAGS


def save(path: Path, head: Head, about: dict[str, Any]) -> None:
    """Write a head, whole or not at all.

    Raises:
        GenreError: where path can't be written.
    """
    arrays: dict[str, Any] = {}
    for place, (weights, bias) in enumerate(head.layers):
        arrays[f"weights{place}"], arrays[f"bias{place}"] = weights, bias
    text = json.dumps({**about, "temperature": head.temperature, "correlation": head.correlation})
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
            count = sum(name.startswith("weights") for name in archive.files)
            layers = tuple((archive[f"weights{i}"], archive[f"bias{i}"]) for i in range(count))
        temperature, correlation = float(about.pop("temperature")), float(about.pop("correlation"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise GenreError(str(path), f"is not a fitted head ({error})", remedy) from error
    widths = [len(TAGS), *(len(bias) if bias.ndim == 1 else -1 for _, bias in layers)]
    for place, (weights, _) in enumerate(layers):
        if weights.shape != (widths[place], widths[place + 1]):
            raise GenreError(str(path), f"layer {place} has weights of shape {list(weights.shape)}", remedy)
    if not layers or widths[-1] != len(GENRES):
        raise GenreError(str(path), f"gives {widths[-1]} scores, not {len(GENRES)}", remedy)
    if not all(np.isfinite(part).all() for layer in layers for part in layer) or not temperature > 0:
        raise GenreError(str(path), "holds values that are not finite", remedy)
    return Head(layers, temperature, correlation), about
