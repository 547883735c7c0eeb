"""What `training/musicnn/prune.py` promises: filters that never move are gone, and the answers stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

from services.errors import GenreError
from tests.training.musicnn.weights import random_weights
from training.musicnn.graph import branches
from training.musicnn.network import BANDS, FRAMES, Trunk
from training.musicnn.prune import odd_sounds, without_constants
from training.onnx_graph import Graph


def network(weights: dict[str, Any]) -> Any:
    graph = Graph()
    graph.add("Softmax", Trunk(graph, weights).tags, name="scores", axis=1)
    return graph.model({"features": [FRAMES, BANDS]}, {"scores": [50]})


def scores(model: Any, windows: Any) -> Any:
    engine = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([engine.run(["scores"], {"features": window[None]})[0] for window in windows])


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
    before, after = (scores(each, windows[3:]) for each in (model, small))
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert np.ptp(before, axis=0).max() > 3e-4  # The windows differ, so that equal answers say something.


def test_a_pruned_network_can_be_pruned_again_to_itself() -> None:
    windows = np.random.default_rng(1).random((3, FRAMES, BANDS), np.float32) * 4
    small, left, _ = without_constants(network(still(random_weights())), windows)
    again, left_again, of = without_constants(small, windows)
    assert (left_again, of) == (left, left + 1)
    np.testing.assert_allclose(scores(again, windows), scores(small, windows), atol=1e-5)


def test_another_network_is_refused() -> None:
    graph = Graph()
    graph.add("Softmax", graph.reshape("features", [0, -1]), name="scores", axis=1)
    model = graph.model({"features": [2, 5]}, {"scores": [10]})
    with pytest.raises(GenreError, match="not musicnn's float form"):
        without_constants(model, np.zeros((1, 2, 5), np.float32))


def test_odd_sounds_are_of_the_recipes_shape_and_finite() -> None:
    made = odd_sounds((FRAMES, BANDS))
    assert made.shape[1:] == (FRAMES, BANDS) and len(made) > 30 and np.isfinite(made).all()
