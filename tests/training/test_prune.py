"""What `training/prune.py` promises: filters that never move are gone, and the answers stay."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from click.testing import CliRunner

from services.errors import GenreError
from services.inference.card import load_card
from tests.training.test_quantize import random_weights
from training.musicnn import BANDS, FRAMES, Trunk
from training.musicnn_graph import branches, scores
from training.onnx_graph import Graph
from training.prune import odd_sounds, prune, without_constants

MODELS = Path(__file__).resolve().parents[2] / "models"


def network(weights: dict[str, Any]) -> Any:
    graph = Graph()
    graph.add("Softmax", Trunk(graph, weights).tags, name="scores", axis=1)
    return graph.model({"features": [FRAMES, BANDS]}, {"scores": [50]})


def still(weights: dict[str, Any]) -> dict[str, Any]:
    """Keep 20 filters of each kind; of the others some never pass the ReLU, some are multiplied by nothing."""
    for number in range(5):
        bias, gamma = f"conv2d_{number}/bias" if number else "conv2d/bias", f"batch_normalization_{number + 1}/gamma"
        weights[bias][20:30] = -1e3
        weights[gamma][20:30] = 1.0  # Only the maximum counts then, and it stays below zero.
        weights[gamma][30:] *= 1e-9
    return weights


def test_answers_stay_without_the_filters_that_never_move() -> None:
    windows = np.random.default_rng(1).random((6, FRAMES, BANDS), np.float32) * 4
    model = network(still(random_weights()))
    small, left, of = without_constants(model, windows[:3])
    assert of == 561 and left <= 100
    kernels = [chain[0].input[1] for chain in branches(small.graph)]
    sizes = {tensor.name: tensor.dims[0] for tensor in small.graph.initializer}
    assert len(kernels) == 5 and {sizes[name] for name in kernels} <= {8, 16, 24}
    before, after = (scores(each.SerializeToString(), windows[3:]) for each in (model, small))
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert np.ptp(before, axis=0).max() > 3e-4  # The windows differ, so that equal answers say something.


def test_a_pruned_network_can_be_pruned_again_to_itself() -> None:
    windows = np.random.default_rng(1).random((3, FRAMES, BANDS), np.float32) * 4
    small, left, _ = without_constants(network(still(random_weights())), windows)
    again, left_again, of = without_constants(small, windows)
    assert (left_again, of) == (left, left + 1)
    before, after = (scores(each.SerializeToString(), windows) for each in (small, again))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_another_network_is_refused() -> None:
    graph = Graph()
    graph.add("Softmax", graph.reshape("features", [0, -1]), name="scores", axis=1)
    model = graph.model({"features": [2, 5]}, {"scores": [10]})
    with pytest.raises(GenreError, match="not musicnn's float form"):
        without_constants(model, np.zeros((1, 2, 5), np.float32))


def test_odd_sounds_are_of_the_recipes_shape_and_finite() -> None:
    made = odd_sounds((FRAMES, BANDS))
    assert made.shape[1:] == (FRAMES, BANDS) and len(made) > 30 and np.isfinite(made).all()


def clips(folder: Path, count: int, silent: bool = False) -> Path:
    """Write clips of noise with a beat, or of silence."""
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / "audio" / "blues" / f"blues.{number:05d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        beat = np.resize(np.repeat(random.random(7), 3_000 + 500 * number), 70_000)
        soundfile.write(path, 0 * beat if silent else beat * random.normal(0, 0.2, 70_000), 22_050)
    return folder / "audio"


def test_the_shipped_model_keeps_its_answers_and_says_what_was_done(tmp_path: Path) -> None:
    shutil.copytree(MODELS / "musicnn", tmp_path / "models" / "musicnn")
    options = ["--models", str(tmp_path / "models"), "--audio", str(clips(tmp_path, 20)), "--version", "99"]
    done = CliRunner().invoke(prune, options)
    assert done.exit_code == 0, done.output
    card, before = load_card(tmp_path / "models", "musicnn"), load_card(MODELS, "musicnn")
    assert (card.version, card.precision) == ("99", "fp32")
    assert card.costs[0].agreement == 1.0 and "front filters left" in card.training["pruned"]
    window = np.random.default_rng(3).random((1, FRAMES, BANDS), np.float32) * 3
    contents = [each.path().read_bytes() for each in (before, card)]
    np.testing.assert_allclose(*(scores(content, window) for content in contents), atol=1e-3)


def test_too_few_clips_leave_the_model_alone(tmp_path: Path) -> None:
    shutil.copytree(MODELS / "musicnn", tmp_path / "models" / "musicnn")
    content = (tmp_path / "models" / "musicnn" / "1" / "model.onnx").read_bytes()
    options = ["--models", str(tmp_path / "models"), "--audio", str(clips(tmp_path, 3)), "--version", "99"]
    with pytest.raises(GenreError, match="3 readable clips; 20 are needed"):
        prune.main(options, standalone_mode=False)
    assert (tmp_path / "models" / "musicnn" / "1" / "model.onnx").read_bytes() == content
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["musicnn"]


def test_the_shipped_models_hold_no_filter_that_never_moves() -> None:
    for name in ("musicnn", "musicnn-small"):
        model = onnx.load(load_card(MODELS, name).path())
        assert sum(model_size(model, chain) for chain in branches(model.graph)) < 128


def model_size(model: Any, chain: list[Any]) -> int:
    """Return how many filters a branch keeps."""
    return next(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if tensor.name == chain[5].input[1])
