"""A model's folder is written whole or not at all, and every shipped one is as export would write it now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.contract.recipe import load_recipe
from services.errors import GenreError
from services.inference.card import load_card
from training import folder
from training.export import DEFAULT
from training.onnx_graph import Graph

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"


def tiny(frames: int = 187, bands: int = 96, labels: int = 10) -> bytes:
    """A model that only adds up its input."""
    graph = Graph()
    total = graph.add("ReduceMean", "features", axes=[1, 2], keepdims=0)
    column = graph.reshape(total, [-1, 1])
    logits = graph.add("Gemm", column, graph.weight(np.ones((1, labels))), graph.weight(np.zeros(labels)))
    graph.add("Softmax", logits, name="scores", axis=1)
    content: bytes = graph.model({"features": [frames, bands]}, {"scores": [labels]}).SerializeToString()
    return content


def values(**changes: object) -> dict[str, object]:
    card = load_card(MODELS, DEFAULT).model_dump(exclude={"files"})
    recipe = load_recipe("mel96")
    own = {"recipe": recipe, "recipe_digest": recipe.digest, "kinds": None, "sounds": None}
    return {**card, **own, "name": "tiny", **changes}


def test_a_package_without_models_says_where_they_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "models_folder", lambda **_: tmp_path)
    with pytest.raises(GenreError, match="copy models/ of the project here, or give --networks"):
        folder.shipped()


def test_a_new_model_is_a_new_folder_and_needs_no_code(tmp_path: Path) -> None:
    card = folder.write(tmp_path, values(), {"1/model.onnx": (tiny(), "answers in the service", "fp32")})
    assert card.name == "tiny" and load_card(tmp_path, "tiny").files[0].bytes == len(tiny())
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert names == ["tiny/1/model.onnx", "tiny/card.json"]


@pytest.mark.parametrize(
    ("changes", "content", "said"),
    [
        ({}, tiny(frames=186), "its card says"),
        ({}, tiny(labels=9), "its card says"),
        ({}, b"nonsense", "can't load it"),
        ({"temperature": -1}, tiny(), "temperature"),
        ({"name": "../out"}, tiny(), "name"),
    ],
)
@pytest.mark.parametrize("before", [False, True])
def test_a_wrong_model_leaves_nothing_half_written(
    tmp_path: Path, changes: dict[str, object], content: bytes, said: str, before: bool
) -> None:
    if before:
        folder.write(tmp_path, values(), {"1/model.onnx": (tiny(), "answers in the service", "fp32")})
    with pytest.raises(GenreError, match=said):
        folder.write(tmp_path, values(**changes), {"1/model.onnx": (content, "answers in the service", "fp32")})
    assert [path.name for path in tmp_path.iterdir()] == (["tiny"] if before else [])
    assert not before or load_card(tmp_path, "tiny")


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file, not a folder")
    with pytest.raises(GenreError, match="can't be written"):
        folder.write(tmp_path / "models", values(), {"1/model.onnx": (tiny(), "answers in the service", "fp32")})
