"""A model's folder is written whole or not at all, and every shipped one is as export would write it now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.errors import GenreError
from services.inference.card import load_card, model_names
from training import folder
from training.onnx_graph import Graph
from training.triton_config import config

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
    card = load_card(MODELS, "musicnn").model_dump(exclude={"files"})
    return {**card, "name": "tiny", **changes}


def test_a_new_model_is_a_new_folder_and_needs_no_code(tmp_path: Path) -> None:
    card = folder.write(tmp_path, values(), {"1/model.onnx": (tiny(), "answers in the service", "fp32")})
    assert card.name == "tiny" and load_card(tmp_path, "tiny").files[0].bytes == len(tiny())
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert names == ["tiny/1/model.onnx", "tiny/1/model.py", "tiny/card.json", "tiny/config.pbtxt"]


@pytest.mark.parametrize(
    ("changes", "content", "said"),
    [
        ({}, tiny(frames=186), "its card says"),
        ({}, tiny(labels=9), "its card says"),
        ({}, b"nonsense", "is not an ONNX model"),
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


@pytest.mark.parametrize("name", model_names(MODELS))
def test_a_shipped_folder_is_as_export_writes_it_today(name: str) -> None:
    card = load_card(MODELS, name)
    source = ROOT / "training" / "triton" / "model.py"
    assert (card.folder / "1" / "model.py").read_bytes() == source.read_bytes()
    assert (card.folder / "config.pbtxt").read_text() == config(card)
