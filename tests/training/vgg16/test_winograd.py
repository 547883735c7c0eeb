"""Winograd's convolution against a plain one of ONNX Runtime, and both against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from training.onnx_graph import Graph
from training.vgg16.winograd import convolution


def run(graph: Graph, result: str, filters: int, x: NDArray[np.float32]) -> Any:
    graph.add("Identity", result, name="y")
    model = graph.model({"x": x.shape[1:]}, {"y": (filters, *x.shape[2:])})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def exact(x: NDArray[np.float32], kernel: NDArray[np.float64], bias: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the convolution in float64, by its definition."""
    height, width = x.shape[2:]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    parts = [
        np.einsum("nchw,kc->nkhw", padded[:, :, i : i + height, j : j + width], kernel[:, :, i, j])
        for i in range(3)
        for j in range(3)
    ]
    return np.asarray(sum(parts) + bias[:, None, None])


@pytest.mark.parametrize("shape", [(1, 5, 8, 8), (3, 16, 4, 12), (2, 1, 16, 4)])
def test_it_is_the_convolution_but_for_rounding(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 10, shape).astype(np.float32)
    kernel, bias = rng.normal(0, 1, (7, shape[1], 3, 3)), rng.normal(0, 1, 7)
    wanted = exact(x, kernel, bias)
    graph = Graph()
    got = run(graph, convolution(graph, "x", kernel, bias, (shape[2], shape[3])), 7, x)
    assert np.abs(got - wanted).max() < 3e-5 * np.abs(wanted).max()
    plain = Graph()
    node = plain.add("Conv", "x", plain.weight(kernel), plain.weight(bias), kernel_shape=[3, 3], pads=[1] * 4)
    assert np.abs(run(plain, node, 7, x) - wanted).max() < 1e-6 * np.abs(wanted).max()


def test_a_batch_gives_what_each_gives_alone() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3, 4, 8, 8)).astype(np.float32)
    kernel, bias = rng.normal(size=(6, 4, 3, 3)), rng.normal(size=6)
    outputs = []
    for part in (x, x[1:2]):
        graph = Graph()
        outputs.append(run(graph, convolution(graph, "x", kernel, bias, (8, 8)), 6, part))
    np.testing.assert_allclose(outputs[0][1:2], outputs[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 10), (6, 8)])
def test_a_picture_that_tiles_do_not_fill_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="can't be cut into tiles of 4 x 4"):
        convolution(Graph(), "x", np.zeros((1, 1, 3, 3)), np.zeros(1), size)
