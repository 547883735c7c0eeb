"""A model is what its card says, or it is refused with one clear line."""

from __future__ import annotations

import hashlib
import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import GenreError
from services.inference.card import File, _check_file, load_card, model_names
from services.inference.onnx_shapes import read_shapes, read_versions

MODELS = Path(__file__).resolve().parents[2] / "models"
SHIPPED = model_names(MODELS)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A copy of the shipped musicnn, free to be broken."""
    shutil.copytree(MODELS / "musicnn", tmp_path / "musicnn")
    return tmp_path


def change(models: Path, **changes: Any) -> None:
    path = models / "musicnn" / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(models: Path, name: str = "musicnn") -> str:
    with pytest.raises(GenreError) as caught:
        load_card(models, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_model_is_what_its_card_says(name: str) -> None:
    card = load_card(MODELS, name)
    assert card.name == name and len(card.labels) == 10
    inputs, outputs = read_shapes(card.path())
    assert inputs["features"][1:] == card.recipe.shape and outputs["scores"][1:] == (10,)


def test_the_shipped_models_stay_small() -> None:
    listed = {
        card.path(file.path)
        for card in (load_card(MODELS, name) for name in model_names(MODELS))
        for file in card.files
    }
    large = {path for path in MODELS.rglob("*") if path.suffix in (".onnx", ".tflite", ".plan")}
    # Not tracked: VGG16's float form, which 'genre train export-vgg16' leaves beside the int8 one.
    assert large - listed <= {MODELS / "vgg16" / "fp32.onnx"}
    assert sum(path.stat().st_size for path in listed) < 40e6


@pytest.mark.parametrize("name", ["nosuch", "", "..", "../models/musicnn", "a/b", "x" * 100])
def test_a_missing_model_is_named_with_those_there_are(models: Path, name: str) -> None:
    assert "choose one of those there: musicnn" in refused(models, name)


def test_a_missing_folder_of_models_is_said(tmp_path: Path) -> None:
    assert "none" in refused(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "musicnn"}', "\0\1"])
def test_a_broken_card_is_refused(models: Path, text: str) -> None:
    (models / "musicnn" / "card.json").write_text(text)
    assert "card.json" in refused(models)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "other"}, "is the card of 'other'"),
        ({"labels": ["blues", "blues"]}, "stands twice"),
        ({"labels": ["blues", "rock"]}, "its card says [2]"),
        ({"recipe_digest": "0" * 16}, "recipe_digest"),
        ({"temperature": 0}, "temperature"),
        ({"colour": "red"}, "colour"),
        ({"files": []}, "files"),
        ({"unsure_below": float("nan")}, "unsure_below"),
    ],
)
def test_a_card_that_contradicts_itself_or_its_model_is_refused(
    models: Path, changes: dict[str, Any], said: str
) -> None:
    change(models, **changes)
    assert said in refused(models)


def test_a_recipe_of_another_shape_than_the_onnx_file_is_refused(models: Path) -> None:
    card = load_card(models, "musicnn")
    recipe = card.recipe.model_copy(update={"frames": 186})
    change(models, recipe=recipe.model_dump(), recipe_digest=recipe.digest)
    assert "'features' is [187, 96], its card says [186, 96]" in refused(models)


def test_another_onnx_file_than_the_cards_is_refused(models: Path) -> None:
    path = models / "musicnn" / "1" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "sha256 differs" in refused(models)


def test_a_missing_onnx_file_is_named(models: Path) -> None:
    (models / "musicnn" / "1" / "model.onnx").unlink()
    assert "model.onnx: can't be read" in refused(models)


@pytest.mark.parametrize("path", ["../other/model.onnx", "/etc/passwd", "1/../../x"])
def test_a_card_can_not_reach_out_of_its_folder(models: Path, path: str) -> None:
    card = json.loads((models / "musicnn" / "card.json").read_text())
    change(models, files=[*card["files"], {**card["files"][0], "path": path}])
    assert "files" in refused(models)


@pytest.mark.parametrize("content", [b"", b"not onnx", b"\xff" * 64, b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x02\x5a\x00"])
def test_a_file_that_is_no_onnx_model_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    try:
        assert read_shapes(path) == ({}, {})
    except GenreError as error:
        assert "is not an ONNX model" in str(error)


@given(st.data())
def test_any_change_of_an_onnx_file_is_read_or_said_to_be_none(
    tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject
) -> None:
    content = bytearray(small_onnx(0))
    for _ in range(draw.draw(st.integers(1, 4))):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    path.write_bytes(content[: draw.draw(st.integers(1, len(content)))])
    for read in (read_shapes, read_versions):
        try:
            read(path)
        except GenreError as error:
            assert "an ONNX model" in str(error)


def test_weights_are_checked_and_stepped_over_without_being_held(tmp_path: Path) -> None:
    """Inference beside Triton checks the file that Triton loads: VGG16 in float32 took it 80 MiB for a moment."""
    (tmp_path / "model.onnx").write_bytes(content := small_onnx(2**24))
    file = File(
        path="model.onnx", sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), purpose="", precision=""
    )
    tracemalloc.start()
    try:
        _check_file(tmp_path / "model.onnx", file)
        inputs, outputs = read_shapes(tmp_path / "model.onnx")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (inputs, outputs) == ({"x": (-1, 3)}, {"y": (-1, 3)}) and len(content) > 2**26
    assert peak < 2**20


def small_onnx(numbers: int) -> bytes:
    """Return a model that adds one, with so many float32 weights that it does not use."""
    shape = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "one"], ["y"])],
        "test",
        [shape("x", onnx.TensorProto.FLOAT, ["batch", 3])],
        [shape("y", onnx.TensorProto.FLOAT, ["batch", 3])],
        [onnx.numpy_helper.from_array(np.ones(size, np.float32), name) for name, size in (("one", 1), ("w", numbers))],
    )
    made: bytes = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 12)]).SerializeToString()
    return made
