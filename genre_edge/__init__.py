"""genre-edge from Python: windows, features and answers of audio files as arrays. docs/python.md shows each.

The names here are the ones to build on; the rooms below (`services.*`) may move. Start at `Model`.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path


def _find_services() -> None:
    """Import `services` from beside this package: a folder of that name beside a notebook would come first else."""
    root = Path(__file__).resolve().parents[1]
    there = sys.modules.get("services")
    if there is None:
        spec = PathFinder.find_spec("services", [str(root)])
        if spec is not None and spec.loader is not None:
            there = sys.modules["services"] = module_from_spec(spec)
            spec.loader.exec_module(there)
    where = Path(getattr(there, "__file__", None) or "a folder of that name")
    if where.parent.parent.resolve() != root:
        raise ImportError(
            f"genre_edge needs its own package 'services', but {where} was imported; import genre_edge first"
        )


_find_services()

from genre_edge.audio import Model, features, windows  # noqa: E402
from services.classify.pipeline import Classified, Window  # noqa: E402
from services.contract.recipe import load_recipe, recipe_ids  # noqa: E402
from services.errors import GenreError  # noqa: E402
from services.inference.answer import Answer  # noqa: E402

__all__ = [
    "Answer",
    "Classified",
    "GenreError",
    "Model",
    "Window",
    "features",
    "load_recipe",
    "recipe_ids",
    "windows",
]
