"""ONNX Runtime answers with probabilities that do not depend on the company a window keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from services.errors import GenreError
from services.featurizer.features import Featurizer
from services.inference.card import load_card, model_names
from services.inference.onnx_backend import OnnxBackend, session
from services.inference.verdict import judge

MODELS = Path(__file__).resolve().parents[2] / "models"


def tensors(name: str, count: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    beat = (np.sin(2 * np.pi * np.arange(66_000) / 11_025) > 0.5) * rng.normal(0, 4_000, (count, 66_000))
    return Featurizer(load_card(MODELS, name).recipe).features(beat.astype(np.int16))


@pytest.mark.parametrize("name", model_names(MODELS))
def test_a_windows_answer_is_the_same_to_the_bit_in_any_batch(name: str) -> None:
    engine, features = OnnxBackend(load_card(MODELS, name)), tensors(name, 3)
    together = engine.scores(features)
    alone = np.concatenate([engine.scores(window[None]) for window in features])
    assert together.shape == (3, 10) and together.dtype == np.float32
    assert together.tobytes() == alone.tobytes() == engine.scores(features[::-1])[::-1].tobytes()
    assert np.abs(together.sum(axis=1) - 1).max() < 1e-5 and together.min() >= 0


@pytest.mark.parametrize("name", model_names(MODELS))
def test_a_true_batch_gives_the_same_answer_but_for_rounding(name: str) -> None:
    card, features = load_card(MODELS, name), tensors(name, 3)
    batch = session(card.path()).run(["scores"], {"features": features})[0]
    assert np.abs(batch - OnnxBackend(card).scores(features)).max() < 1e-4


def test_no_windows_give_no_scores() -> None:
    card = load_card(MODELS, "musicnn")
    assert OnnxBackend(card).scores(np.empty((0, *card.recipe.shape), np.float32)).shape == (0, 10)


@pytest.mark.parametrize(
    "features", [np.zeros((1, 187, 95), np.float32), np.zeros((187, 96), np.float32), np.zeros((1, 187, 96))]
)
def test_another_shape_or_type_is_refused(features: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="are not float32"):
        OnnxBackend(load_card(MODELS, "musicnn")).scores(features)


def test_a_file_that_onnx_runtime_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(GenreError, match=r"model\.onnx: ONNX Runtime .* can't load it"):
        session(tmp_path / "model.onnx")


def test_noise_hum_and_tones_get_no_confident_genre() -> None:
    card = load_card(MODELS, "musicnn")
    rng, t = np.random.default_rng(1), np.arange(66_000) / 22_050
    steady = np.stack([
        rng.normal(0, 3_000, 66_000),
        8_000 * np.sin(2 * np.pi * 440 * t),
        sum(4_000 * np.sin(2 * np.pi * 50 * k * t) / k for k in range(1, 8)),
    ]).astype(np.int16)  # fmt: skip
    scores = OnnxBackend(card).scores(Featurizer(card.recipe).features(steady))
    assert [judge(row, -20.0, card).kind for row in scores] == ["unsure"] * 3
