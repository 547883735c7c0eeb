"""A model is what its card says, or it is refused with one clear line."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from services.errors import GenreError
from services.inference.card import File, _check_file, load_card, model_names
from services.inference.onnx_backend import OnnxBackend
from tests.inference.hearing_model import hearing_model

MODELS = Path(__file__).resolve().parents[2] / "models"
SHIPPED = model_names(MODELS)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A small model, free to be broken."""
    hearing_model(tmp_path)
    return tmp_path


def change(models: Path, **changes: Any) -> None:
    path = models / "hearing" / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(models: Path, name: str = "hearing") -> str:
    with pytest.raises(GenreError) as caught:
        load_card(models, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_model_is_what_its_card_says(name: str) -> None:
    card = load_card(MODELS, name)
    assert card.name == name and len(card.labels) == 10
    OnnxBackend(card)


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


@pytest.mark.parametrize("name", ["nosuch", "", "..", "../models/hearing", "a/b", "x" * 100])
def test_a_missing_model_is_named_with_those_there_are(models: Path, name: str) -> None:
    assert "choose one of those there: hearing" in refused(models, name)


def test_a_missing_folder_of_models_is_said(tmp_path: Path) -> None:
    assert "none" in refused(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "hearing"}', "\0\1"])
def test_a_broken_card_is_refused(models: Path, text: str) -> None:
    (models / "hearing" / "card.json").write_text(text)
    assert "card.json" in refused(models)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "other"}, "is the card of 'other'"),
        ({"labels": ["blues", "blues"]}, "stands twice"),
        ({"kinds": ["music", "noise"]}, "kinds are music, noise, not music, speech, other in this order"),
        ({"kinds": []}, "kinds are none"),
        ({"sounds": ["Speech", "Speech"]}, "sounds: one stands twice"),
        ({"sounds": []}, "sounds"),
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


def test_another_onnx_file_than_the_cards_is_refused(models: Path) -> None:
    path = models / "hearing" / "1" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "sha256 differs" in refused(models)


def test_a_missing_onnx_file_is_named(models: Path) -> None:
    (models / "hearing" / "1" / "model.onnx").unlink()
    assert "model.onnx: can't be read" in refused(models)


@pytest.mark.parametrize("path", ["../other/model.onnx", "/etc/passwd", "1/../../x"])
def test_a_card_can_not_reach_out_of_its_folder(models: Path, path: str) -> None:
    card = json.loads((models / "hearing" / "card.json").read_text())
    change(models, files=[*card["files"], {**card["files"][0], "path": path}])
    assert "files" in refused(models)


def test_weights_are_checked_without_being_held(tmp_path: Path) -> None:
    """Inference beside Triton checks the file that Triton loads: VGG16 in float32 took it 80 MiB for a moment."""
    (tmp_path / "model.onnx").write_bytes(content := bytes(2**26 + 1))
    file = File(
        path="model.onnx", sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), purpose="", precision=""
    )
    tracemalloc.start()
    try:
        _check_file(tmp_path / "model.onnx", file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20 < 2**26 < len(content)
