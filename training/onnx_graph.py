"""A small builder of ONNX graphs, at the oldest opset a Jetson runtime needs.

Not a converter: a network is written down layer by layer with its weights, in the order it runs, which keeps the
graph free of framework residue. Start at `Graph`; training/musicnn/network.py is an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 12
"""ONNX Runtime 1.6 and TensorRT 8.2, the newest on JetPack 4.6, read it; nothing here needs more."""
IR_VERSION = 7


class Graph:
    """Nodes and weights in the order of running; every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: dict[str, NDArray[Any]] = {}

    def weight(self, value: NDArray[Any], dtype: Any = np.float32) -> str:
        """Keep a constant and return its name."""
        name = f"w{len(self.weights)}"
        self.weights[name] = np.ascontiguousarray(value, dtype)
        return name

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Append a node with one output."""
        output = name or f"{operator.lower()}{len(self.nodes)}"
        # A node is named like its result: tools that pick nodes by name would take "" for all of them.
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """Reshape; -1 and 0 as in ONNX."""
        return self.add("Reshape", x, self.weight(np.array(shape), np.int64))

    def affine(self, x: str, scale: NDArray[Any], shift: NDArray[Any], shape: Sequence[int]) -> str:
        """Return x * scale + shift, both reshaped to `shape` so that they broadcast."""
        product = self.add("Mul", x, self.weight(scale.reshape(shape)))
        return self.add("Add", product, self.weight(shift.reshape(shape)))

    def parameters(self) -> int:
        """Return how many float weights the graph holds."""
        return sum(value.size for value in self.weights.values() if value.dtype == np.float32)

    def model(
        self, inputs: dict[str, Sequence[int]], outputs: dict[str, Sequence[int]], producer: str = "genre-edge"
    ) -> Any:
        """Return the checked model; the first axis of every input and output is the batch.

        Args:
            inputs, outputs: name -> shape without the batch axis, all float32.
        """

        def values(named: dict[str, Sequence[int]]) -> list[Any]:
            return [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
                for name, shape in named.items()
            ]

        graph = helper.make_graph(
            self.nodes,
            "genre",
            values(inputs),
            values(outputs),
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name=producer
        )
        onnx.checker.check_model(model, full_check=True)
        return model
