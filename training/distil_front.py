"""The student's front: the teacher's own filters, the ones that matter most, at a quarter of the frames and half the
bands.

Taken from musicnn's float ONNX file as training/musicnn.py writes it, and not trained further. Start at `Front.of`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from services.errors import GenreError
from training.musicnn import BANDS, FRAMES
from training.onnx_graph import Graph

STRIDE = 4
"""Frames between two places of a filter (64 ms)."""
FRAMES_OUT = -(-FRAMES // STRIDE)
KEPT = (96, 96, 16, 16, 16)
"""Filters that are kept of each of musicnn's five kinds (204, 204, 51, 51, 51)."""
CHANNELS = sum(KEPT)
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Branch:
    """Filters of one size: convolution, maximum over the bands (minimum where sign is -1), ReLU, scale and shift."""

    kernel: Array
    bias: Array
    sign: Array
    scale: Array
    shift: Array

    def only(self, rows: NDArray[np.intp]) -> Branch:
        """Return some of the filters."""
        return Branch(*(part[rows] for part in (self.kernel, self.bias, self.sign, self.scale, self.shift)))

    @property
    def step(self) -> int:
        """Bands between two places; filters of a single band look at each fourth."""
        return 4 if self.kernel.shape[3] == 1 else 2


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
        after = {name: node for node in model.graph.node for name in node.input}
        start = [node.op_type for node in model.graph.node[:3]]
        branches = []
        for node in model.graph.node:
            chain = [node]
            while len(chain) < 7 and chain[-1].output[0] in after:
                chain.append(after[chain[-1].output[0]])
            kinds = [link.op_type for link in chain]
            if kinds == ["Conv", "MaxPool", "Slice", "Mul", "Relu", "Mul", "Add"]:
                sign, scale, shift = (weights[chain[place].input[1]].reshape(-1) for place in (3, 5, 6))
                kernel, bias = (weights[name][: len(sign)] for name in node.input[1:3])
                branches.append(Branch(kernel, bias, sign, scale, shift))
        if start != ["Reshape", "Mul", "Add"] or len(branches) != len(KEPT):
            raise GenreError("the teacher", "is not musicnn's float form", "take models/musicnn with its fp32.onnx")
        scale, shift = (weights[node.input[1]] for node in model.graph.node[1:3])
        return cls(scale, shift, tuple(branches))

    def only(self, importance: NDArray[np.floating]) -> tuple[Front, NDArray[np.intp]]:
        """Return the front with the most important filters of each branch, and their places among all of them."""
        kept, places, first = [], [], 0
        for branch, count in zip(self.branches, KEPT, strict=True):
            size = len(branch.bias)
            rows = np.sort(np.argsort(-importance[first : first + size])[:count])
            kept.append(branch.only(rows))
            places.append(rows + first)
            first += size
        return replace(self, branches=tuple(kept)), np.concatenate(places)

    @property
    def parameters(self) -> int:
        """Return how many numbers the filters have."""
        return sum(branch.kernel.size + 4 * branch.bias.size for branch in self.branches)

    def append(self, graph: Graph, features: str) -> str:
        """Write the front into an ONNX graph; return the name of [batch, channels, 47, 1]."""
        x = graph.affine(graph.reshape(features, [0, 1, FRAMES, BANDS]), self.scale, self.shift, [1])
        parts = []
        for branch in self.branches:
            count, _, height, width = branch.kernel.shape
            pads = [(height - 1) // 2, 0, height // 2, 0]
            y = graph.add(
                "Conv",
                x,
                graph.weight(branch.kernel),
                graph.weight(branch.bias),
                kernel_shape=[height, width],
                pads=pads,
                strides=[STRIDE, branch.step],
            )
            y = graph.add("MaxPool", y, kernel_shape=[1, (BANDS - width) // branch.step + 1])
            begin, end, axis = (graph.weight(np.array([value]), np.int64) for value in (0, count, 1))
            y = graph.add("Slice", y, begin, end, axis)
            y = graph.add("Relu", graph.add("Mul", y, graph.weight(branch.sign.reshape(1, -1, 1, 1))))
            parts.append(graph.affine(y, branch.scale, branch.shift, [1, -1, 1, 1]))
        return graph.add("Concat", *parts, axis=1)

    def run(self, features: NDArray[Any], progress: Any = None) -> NDArray[np.float16]:
        """Return what the front makes of windows [n, 187, 96]: [n, 47, channels]."""
        graph = Graph()
        graph.add("Squeeze", self.append(graph, "features"), name="front", axes=[3])
        channels = sum(len(branch.bias) for branch in self.branches)
        model = graph.model({"features": [FRAMES, BANDS]}, {"front": [channels, FRAMES_OUT]})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        engine = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        out = np.empty((len(features), FRAMES_OUT, channels), np.float16)
        for place, window in enumerate(features):
            (value,) = engine.run(None, {"features": np.asarray(window[None], np.float32)})
            out[place] = value[0].T
            if progress is not None and (place % 64 == 63 or place + 1 == len(features)):
                progress("front", place + 1, len(features))
        return out
