"""Reads a musicnn ONNX file as network.py writes it: its front branches, and what inner values come to.

Start at `branches`. Nothing here changes a network; training/musicnn/prune.py does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

Features = NDArray[np.float32]
BRANCH = ["Conv", "MaxPool", "Slice", "Mul", "Relu", "Mul", "Add"]
"""Convolution, maximum over the bands, filling cut off, sign, ReLU, scale, shift."""


def branches(graph: Any) -> list[list[Any]]:
    """Return the nodes of each front branch, as BRANCH names them, in their order; none for another network."""
    after: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            after.setdefault(name, []).append(node)
    found = []
    for node in graph.node:
        chain = [node]
        while len(chain) < len(BRANCH) and len(after.get(chain[-1].output[0], [])) == 1:
            chain.append(after[chain[-1].output[0]][0])
        if [link.op_type for link in chain] == BRANCH:
            found.append(chain)
    return found


def ranges(
    model: onnx.ModelProto, names: Sequence[str], windows: Iterable[Features]
) -> dict[str, tuple[Features, Features]]:
    """Return the least and largest value of each channel of some inner values [1, channels, frames, width]."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    engine = _session(opened.SerializeToString())
    (entry,) = (value.name for value in model.graph.input)
    found: dict[str, tuple[Features, Features]] = {}
    for window in windows:
        for name, value in zip(names, engine.run(list(names), {entry: window[None]}), strict=True):
            low, high = value.min(axis=(0, 2, 3)), value.max(axis=(0, 2, 3))
            before = found.get(name, (low, high))
            found[name] = np.minimum(before[0], low), np.maximum(before[1], high)
    return found


def _session(content: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
