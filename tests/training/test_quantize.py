"""What `training/quantize.py` promises: two convolutions in int8, and nearly the same scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from services.errors import GenreError
from services.inference.card import load_card, model_names
from training.musicnn import BANDS, FRAMES, Trunk
from training.musicnn_graph import scores
from training.onnx_graph import Graph
from training.quantize import int8_front

MODELS = Path(__file__).resolve().parents[2] / "models"
NORMALISED = (1, 204, 204, 51, 51, 51, 64, 64, 64, 1506, 200)


def random_weights() -> dict[str, Any]:
    """Return weights of MSD_musicnn's shapes; half of the normalisations turn their channel round."""
    random = np.random.default_rng(0)
    kernels = [(7, 67, 1, 204), (7, 38, 1, 204), (128, 1, 1, 51), (64, 1, 1, 51), (32, 1, 1, 51)]
    kernels += [(7, 561, 1, 64), (7, 64, 1, 64), (7, 64, 1, 64)]
    weights: dict[str, Any] = {}
    for number, shape in enumerate(kernels):
        name = f"conv2d_{number}" if number else "conv2d"
        weights[f"{name}/kernel"] = random.normal(0, 1 / np.sqrt(np.prod(shape[:3])), shape).astype(np.float32)
        weights[f"{name}/bias"] = random.normal(0, 0.05, shape[3]).astype(np.float32)
    for number, size in enumerate(NORMALISED):
        name = f"batch_normalization_{number}" if number else "batch_normalization"
        weights[f"{name}/gamma"] = (
            random.choice([-1.0, 1.0], size).astype(np.float32) if number else np.ones(1, np.float32)
        )
        for part, value in (("beta", 0.1), ("moving_mean", 0.2), ("moving_variance", 1.0)):
            weights[f"{name}/{part}"] = np.full(size, value, np.float32)
    for name, shape in (("dense", (1506, 200)), ("dense_1", (200, 50))):
        weights[f"{name}/kernel"] = random.normal(0, 1 / np.sqrt(shape[0]), shape).astype(np.float32)
        weights[f"{name}/bias"] = np.zeros(shape[1], np.float32)
    return weights


def network() -> Any:
    graph = Graph()
    trunk = Trunk(graph, random_weights())
    graph.add("Softmax", trunk.tags, name="scores", axis=1)
    return graph.model({"features": [FRAMES, BANDS]}, {"scores": [50]})


def test_int8_scores_stay_close_to_float() -> None:
    windows = np.random.default_rng(1).random((8, FRAMES, BANDS), np.float32) * 4
    model = network()
    small = int8_front(model, windows[:4])
    before, after = (scores(each.SerializeToString(), windows[4:]) for each in (model, small))
    assert np.abs(before - after).max() < 0.002
    assert sum(node.op_type == "QuantizeLinear" for node in small.graph.node) == 5
    assert_no_overflow(small)


def assert_no_overflow(model: Any) -> None:
    """Two products of an int8 weight and a uint8 value must fit 16 bits, where x86 without VNNI adds them."""
    whole = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    kernels = [kernel.astype(int) for kernel in whole if kernel.ndim == 4]
    assert kernels and 2 * 255 * max(int(np.abs(kernel).max()) for kernel in kernels) < 2**15


def test_no_shipped_int8_model_overflows_on_an_older_processor() -> None:
    cards = [load_card(MODELS, name) for name in model_names(MODELS)]
    small = [card for card in cards if "int8" in card.precision]
    assert small
    for card in small:
        assert_no_overflow(onnx.load(card.path()))


def test_a_network_without_pooled_convolutions_is_refused() -> None:
    graph = Graph()
    graph.add("Softmax", graph.reshape("features", [0, -1]), name="scores", axis=1)
    model = graph.model({"features": [2, 5]}, {"scores": [10]})
    with pytest.raises(GenreError, match="no convolution"):
        int8_front(model, np.zeros((1, 2, 5), np.float32))
