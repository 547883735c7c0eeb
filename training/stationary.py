"""Doubt about sound that does not move: noise, hum and test tones are no music, however sure a genre network is.

Written into the graph after the softmax, so every engine has it and no service code knows of it. It does not change
which genre is first (but for a tie of all), only how sure the model says it is. Start at `append_doubt`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.onnx_graph import Graph

BLOCK = 16
"""Frames that are averaged first (0.26 s at musicnn's rate): the flicker of noise is not movement."""
THRESHOLD = 0.27
"""Least movement of music, in log10(1 + 10000 x): 579 windows of GTZAN have 0.33 or more, steady noise up to 0.21."""
WIDTH = 0.01


def movement(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how much the liveliest band moves: its standard deviation over blocks of 0.26 s, [windows].

    Args:
        features: of the musicnn recipe, [windows, frames, bands].
    """
    count, frames, bands = features.shape
    blocks = features[:, : frames // BLOCK * BLOCK].reshape(count, -1, BLOCK, bands).mean(axis=2)
    return np.asarray(blocks.std(axis=1).max(axis=1), np.float32)


def append_doubt(graph: Graph, features: str, scores: str, frames: int, bands: int, labels: int, name: str) -> str:
    """Append: scores become even (1 / labels each) where nothing moves; return `name`."""
    blocks = frames // BLOCK
    first, end, axis = (graph.weight(np.array([value]), np.int64) for value in (0, blocks * BLOCK, 1))
    used = graph.add("Slice", features, first, end, axis)
    means = graph.add("ReduceMean", graph.reshape(used, [-1, blocks, BLOCK, bands]), axes=[2], keepdims=0)
    apart = graph.add("Sub", means, graph.add("ReduceMean", means, axes=[1], keepdims=1))
    variance = graph.add("ReduceMean", graph.add("Mul", apart, apart), axes=[1], keepdims=0)
    most = graph.add("Sqrt", graph.add("ReduceMax", variance, axes=[1], keepdims=1))
    doubt = graph.add("Sigmoid", graph.affine(most, np.array([-1 / WIDTH]), np.array([THRESHOLD / WIDTH]), [1]))
    even = graph.add("Sub", graph.weight(np.full((1, labels), 1 / labels)), scores)
    return graph.add("Add", scores, graph.add("Mul", doubt, even), name=name)
