"""ONNX Runtime answers with probabilities that do not depend on the company a window keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from services.errors import GenreError
from services.featurizer.features import Featurizer
from services.inference.answer import Answer, outputs_of
from services.inference.card import load_card, model_names
from services.inference.decision import decide_windows
from services.inference.onnx_backend import OnnxBackend, session
from services.settings.schema import Inference
from tests.inference.hearing_model import hearing_model

DEFAULT = Inference().model
MODELS = Path(__file__).resolve().parents[2] / "models"


def tensors(name: str, count: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(3)
    beat = (np.sin(2 * np.pi * np.arange(66_000) / 11_025) > 0.5) * rng.normal(0, 4_000, (count, 66_000))
    return Featurizer(load_card(MODELS, name).recipe).views(beat.astype(np.int16))


@pytest.mark.parametrize("name", model_names(MODELS))
def test_a_windows_answer_is_the_same_to_the_bit_in_any_batch(name: str) -> None:
    engine, views = OnnxBackend(load_card(MODELS, name)), tensors(name, 3)
    together = engine.answer(views).scores
    alone = np.concatenate([engine.answer({k: v[i : i + 1] for k, v in views.items()}).scores for i in range(3)])
    backwards = engine.answer({k: v[::-1] for k, v in views.items()}).scores[::-1]
    assert together.shape == (3, 10) and together.dtype == np.float32
    assert together.tobytes() == alone.tobytes() == backwards.tobytes()
    assert np.abs(together.sum(axis=1) - 1).max() < 1e-5 and together.min() >= 0


@pytest.mark.parametrize("name", model_names(MODELS))
def test_a_true_batch_gives_the_same_answer_but_for_rounding(name: str) -> None:
    card, views = load_card(MODELS, name), tensors(name, 3)
    one_by_one = OnnxBackend(card).answer(views)
    names = list(outputs_of(card))
    for name, batch in zip(names, session(card.path()).run(names, views), strict=True):
        assert np.abs(batch - getattr(one_by_one, name)).max() < 1e-4, name


def test_no_windows_give_no_scores() -> None:
    card = load_card(MODELS, DEFAULT)
    none = {name: np.empty((0, *shape), np.float32) for name, shape in card.recipe.shapes.items()}
    assert OnnxBackend(card).answer(none).scores.shape == (0, 10)


@pytest.mark.parametrize(
    "features", [np.zeros((1, 129, 127), np.float32), np.zeros((129, 128), np.float32), np.zeros((1, 129, 128))]
)
def test_another_shape_or_type_is_refused(features: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="are not float32"):
        OnnxBackend(load_card(MODELS, "vgg16")).answer({"features": features})


def test_a_model_of_several_views_tells_kinds_and_sounds(tmp_path: Path) -> None:
    card = hearing_model(tmp_path)
    windows = (np.random.default_rng(1).normal(0, 3_000, (4, 66_000))).astype(np.int16)
    answer = OnnxBackend(card).answer(Featurizer(card.recipe).views(windows))
    assert answer.kinds is not None and answer.sounds is not None and answer.problem() == ""
    assert (answer.scores.shape, answer.kinds.shape, answer.sounds.shape) == ((4, 10), (4, 3), (4, 4))


@pytest.mark.parametrize(
    ("views", "said"),
    [
        ({"mel96": (1, 187, 96)}, "views mel96 are not mel96, mel64"),
        ({"mel96": (1, 187, 96), "mel64": (2, 298, 64)}, "each must hold the same"),
        ({"mel96": (1, 187, 96), "mel64": (1, 298, 96)}, "mel64 .* are not float32"),
    ],
)
def test_views_that_are_not_those_of_the_recipe_are_refused(
    tmp_path: Path, views: dict[str, tuple[int, ...]], said: str
) -> None:
    engine = OnnxBackend(hearing_model(tmp_path))
    with pytest.raises(ValueError, match=said):
        engine.answer({name: np.zeros(shape, np.float32) for name, shape in views.items()})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"views": ["mel96"]}, "has an input 'mel64' that is no view of its card's recipe"),
        ({"views": ["mel96", "mel64", "mel32"]}, "has no input 'mel32' but mel64, mel96"),
        ({"kinds": None}, "has an output 'kinds' that its card does not speak of"),
        ({"sounds": ["Speech", "Music"]}, r"its output 'sounds' is \[4\], its card says \[2\]"),
        ({"labels": ["blues", "rock"]}, r"its output 'scores' is \[10\], its card says \[2\]"),
    ],
)
def test_a_model_that_does_not_fit_its_card_is_named_when_it_is_loaded(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    card = hearing_model(tmp_path, **changes)
    with pytest.raises(GenreError, match=said):
        OnnxBackend(card)


@pytest.mark.parametrize("output", ["kinds", "sounds"])
def test_a_model_without_the_network_that_its_card_promises_is_named(tmp_path: Path, output: str) -> None:
    card = hearing_model(tmp_path, outputs={"scores"} | {"kinds", "sounds"} - {output})
    with pytest.raises(GenreError, match=f"has no output '{output}'"):
        OnnxBackend(card)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(np.full((1, 2), np.nan, np.float32)), "scores are not finite"),
        (Answer(np.ones((1, 1), np.float32), np.full((1, 3), np.inf, np.float32)), "kinds are not finite"),
        (Answer(np.ones((1, 1), np.float32), None, np.full((1, 3), 1.5, np.float32)), "sounds are no probabilities"),
        (Answer(np.ones((1, 1), np.float32)), ""),
    ],
)
def test_what_is_no_probability_is_named(answer: Answer, said: str) -> None:
    assert said in answer.problem() and bool(answer.problem()) == bool(said)


def test_a_file_that_onnx_runtime_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(GenreError, match=r"model\.onnx: ONNX Runtime .* can't load it"):
        session(tmp_path / "model.onnx")


def test_noise_and_tones_are_no_music_and_hum_gets_no_confident_genre() -> None:
    card = load_card(MODELS, DEFAULT)
    rng, t = np.random.default_rng(1), np.arange(66_000) / 22_050
    steady = np.stack([
        rng.normal(0, 3_000, 66_000),
        8_000 * np.sin(2 * np.pi * 440 * t),
        sum(4_000 * np.sin(2 * np.pi * 50 * k * t) / k for k in range(1, 8)),
    ]).astype(np.int16)  # fmt: skip
    answer = OnnxBackend(card).answer(Featurizer(card.recipe).views(steady))
    noise, tone, hum = decide_windows(answer, [-20.0] * 3, card)
    assert (noise.kind, tone.kind) == ("other", "other") and hum.kind in ("other", "unsure")
