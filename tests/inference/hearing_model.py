"""A model of two views with kinds and sounds, small enough for a test: what it answers hangs on one number a view."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from services.inference.card import Card, load_card
from training.folder import file_of
from training.onnx_graph import Graph

MODELS = Path(__file__).resolve().parents[2] / "models"
SOUNDS = ("Speech", "Music", "Rain", "Applause")
VIEWS: dict[str, dict[str, Any]] = {
    "mel96": {"kind": "mel", "n_fft": 512, "hop_length": 256, "frames": 187, "bands": 96, "fmin": 0.0, "fmax": 8000.0,
              "power": 2, "scaling": "log10_1_10000x"},
    "mel64": {"kind": "mel", "n_fft": 512, "win_length": 400, "hop_length": 160, "frames": 298, "bands": 64,
              "fmin": 125.0, "fmax": 7500.0, "htk": True, "norm": None, "power": 1, "scaling": "log_0.001"},
    "mel32": {"kind": "mel", "n_fft": 512, "hop_length": 256, "frames": 187, "bands": 32, "fmin": 0.0, "fmax": 8000.0,
              "power": 2, "scaling": "power_to_db"},
}  # fmt: skip


def recipe(views: Collection[str] = ("mel96", "mel64")) -> dict[str, Any]:
    """Return a recipe of these of VIEWS."""
    named = [{"name": name, **VIEWS[name]} for name in views]
    return {"id": "hearing", "window": 66_000, "sample_rate": 16_000, "level_dbfs": -15.0, "views": named}


def graph(outputs: Collection[str] = ("scores", "kinds", "sounds"), nan: str = "") -> bytes:
    """Return an ONNX model of the views mel96 and mel64; the output `nan` is not a number."""
    made, rng = Graph(), np.random.default_rng(5)
    means = [made.add("ReduceMean", name, axes=[1, 2], keepdims=0) for name in ("mel96", "mel64")]
    both = made.add("Concat", *(made.reshape(mean, [-1, 1]) for mean in means), axis=1)
    sizes = {"scores": 10, "kinds": 3, "sounds": len(SOUNDS)}
    for name in outputs:
        weights = made.weight(rng.normal(size=(2, sizes[name])) * (np.nan if name == nan else 1))
        logits = made.add("Gemm", both, weights, made.weight(np.zeros(sizes[name])))
        if name == "sounds":
            made.add("Sigmoid", logits, name=name)
        else:
            made.add("Softmax", logits, name=name, axis=1)
    shapes = {name: [VIEWS[name]["frames"], VIEWS[name]["bands"]] for name in ("mel96", "mel64")}
    content: bytes = made.model(shapes, {name: [sizes[name]] for name in outputs}).SerializeToString()
    return content


def hearing_model(
    models: Path,
    outputs: Collection[str] = ("scores", "kinds", "sounds"),
    views: Collection[str] = (),
    nan: str = "",
    **changes: Any,
) -> Card:
    """Write models/hearing and return its card, which load_card has read.

    Args:
        outputs: of the ONNX file, of which `nan` is not a number.
        views: of the card's recipe, where it is to differ from the file's.
        changes: fields of the card.
    """
    from services.contract.recipe import Recipe

    content = graph(sorted(outputs), nan)
    of = Recipe.model_validate(recipe(views or ("mel96", "mel64")))
    values = {
        **load_card(MODELS, "vgg16").model_dump(mode="json", exclude={"files", "evaluations", "costs"}),
        "name": "hearing",
        "kinds": ["music", "speech", "other"],
        "sounds": list(SOUNDS),
        "recipe": of.model_dump(),
        "recipe_digest": of.digest,
        "precision": "fp32",
        "files": [file_of("1/model.onnx", content, "answers in the test", "fp32").model_dump()],
        **changes,
    }
    folder = models / "hearing"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(content)
    (folder / "card.json").write_text(json.dumps(values))
    return load_card(models, "hearing")
