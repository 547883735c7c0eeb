"""The student's front: the teacher's own filters at half of the frames and half of the bands.

Taken from musicnn's ONNX file as training/musicnn/prune.py leaves it, and not trained further. Start at `Front.of`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from services.errors import GenreError
from training.musicnn.graph import branches
from training.musicnn.network import BANDS, FRAMES
from training.musicnn.prune import BLOCK
from training.onnx_graph import Graph

STRIDE, STEP = 2, 2
"""Frames (32 ms) and bands between two places of a filter."""
FRAMES_OUT = -(-FRAMES // STRIDE)
BRANCHES, MOST_CHANNELS = 5, 128
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Branch:
    """Filters of one size: convolution, maximum over the bands (minimum where sign is -1), ReLU, scale and shift."""

    kernel: Array
    bias: Array
    sign: Array
    scale: Array
    shift: Array


@dataclass(frozen=True)
class Front:
    """Input scale and shift, and the branches in musicnn's order."""

    scale: Array
    shift: Array
    branches: tuple[Branch, ...]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Front:
        """Read all filters of a musicnn ONNX file.

        Raises:
            GenreError: for another network, or its int8 form.
        """
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        start = [node.op_type for node in model.graph.node[:3]]
        found = []
        for chain in branches(model.graph):
            sign, scale, shift = (weights[chain[place].input[1]].reshape(-1) for place in (3, 5, 6))
            kernel, bias = (weights[name][: len(sign)] for name in chain[0].input[1:3])
            found.append(Branch(kernel, bias, sign, scale, shift))
        if start != ["Reshape", "Mul", "Add"] or len(found) != BRANCHES:
            raise GenreError("the teacher", "is not musicnn's float form", "take the file of 'genre train networks'")
        if sum(len(branch.bias) for branch in found) > MOST_CHANNELS:
            raise GenreError("the teacher", "has filters that never move", "take the file of 'genre train networks'")
        scale, shift = (weights[node.input[1]] for node in model.graph.node[1:3])
        return cls(scale, shift, tuple(found))

    @property
    def channels(self) -> int:
        """Return how many values a frame it makes."""
        return sum(len(branch.bias) for branch in self.branches)

    @property
    def parameters(self) -> int:
        """Return how many numbers the filters have."""
        return sum(branch.kernel.size + 4 * branch.bias.size for branch in self.branches)

    def append(self, graph: Graph, features: str) -> str:
        """Write the front into an ONNX graph; return the name of [batch, channels, 94, 1]."""
        x = graph.affine(graph.reshape(features, [0, 1, FRAMES, BANDS]), self.scale, self.shift, [1])
        parts = []
        for branch in self.branches:
            count, _, height, width = branch.kernel.shape
            pads, more = [(height - 1) // 2, 0, height // 2, 0], -count % BLOCK
            y = graph.add(
                "Conv",
                x,
                graph.weight(np.pad(branch.kernel, ((0, more), (0, 0), (0, 0), (0, 0)))),
                graph.weight(np.pad(branch.bias, (0, more))),
                kernel_shape=[height, width],
                pads=pads,
                strides=[STRIDE, STEP],
            )
            y = graph.add("MaxPool", y, kernel_shape=[1, (BANDS - width) // STEP + 1])
            begin, end, axis = (graph.weight(np.array([value]), np.int64) for value in (0, count, 1))
            y = graph.add("Slice", y, begin, end, axis)
            y = graph.add("Relu", graph.add("Mul", y, graph.weight(branch.sign.reshape(1, -1, 1, 1))))
            parts.append(graph.affine(y, branch.scale, branch.shift, [1, -1, 1, 1]))
        return graph.add("Concat", *parts, axis=1)

    def runner(self) -> Callable[[Array], NDArray[np.float16]]:
        """Return what gives the front's output [94, channels] of a window's features [187, 96]."""
        graph = Graph()
        graph.add("Squeeze", self.append(graph, "features"), name="front", axes=[3])
        model = graph.model({"features": [FRAMES, BANDS]}, {"front": [self.channels, FRAMES_OUT]})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        engine = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

        def run(features: Array) -> NDArray[np.float16]:
            (value,) = engine.run(None, {"features": np.asarray(features[None], np.float32)})
            return np.asarray(value[0].T, np.float16)

        return run
