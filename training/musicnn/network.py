"""The MSD networks of PyPI's musicnn (Pons 2019, ISC licence), read from its wheel and written down as ONNX layers.

No musicnn import (it pins TensorFlow 1): only its checkpoint, its input and its tag order are used. Start at
`checkpoint`, then `Trunk`. Nothing here knows genres; training/hearing/heads.py does.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError
from training.onnx_graph import Graph

WHEEL = "musicnn-0.1.0-py3-none-any.whl"
# fmt: off
# fmt: on
"""The 50 tags in the library's order, blanks as underscores."""
FRAMES, BANDS = 187, 96
BLOCK = 16
"""Channels in a block of ONNX Runtime's layout on AVX-512 (8 on AVX2 and NEON)."""
_EPSILON = 1e-3
"""Of tf.layers.batch_normalization."""

Weights = dict[str, NDArray[np.float32]]


def checkpoint(wheel: Path, network: str = "MSD_musicnn") -> Weights:
    """Read the variables of one network from the musicnn wheel, or from a folder it was unpacked to.

    Raises:
        GenreError: where the file is not that wheel.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf  # Only its checkpoint reader is used, and only here.

    with tempfile.TemporaryDirectory() as scratch:
        folder = wheel / "musicnn" if wheel.is_dir() else Path(scratch) / "musicnn"
        try:
            if not wheel.is_dir():
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(scratch, [n for n in archive.namelist() if n.startswith(f"musicnn/{network}/")])
            reader = tf.compat.v1.train.NewCheckpointReader(f"{folder / network}/")
        except (OSError, zipfile.BadZipFile, tf.errors.OpError) as error:
            raise GenreError(
                str(wheel), f"has no readable checkpoint of {network} ({error})", f"give {WHEEL} from PyPI"
            ) from error
        names = [name for name in reader.get_variable_to_shape_map() if "Adam" not in name and "power" not in name]
        return {name: reader.get_tensor(name) for name in names}


def _normalisation(weights: Weights, number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return one batch normalisation at inference as a scale and a shift."""
    prefix = f"batch_normalization_{number}" if number else "batch_normalization"
    gamma, beta, mean, variance = (
        weights[f"{prefix}/{part}"].astype(np.float64) for part in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    scale = gamma / np.sqrt(variance + _EPSILON)
    return scale, beta - mean * scale


class Trunk:
    """MSD_musicnn as ONNX layers: `features` [batch, 187, 96] in, `penultimate` (200) and `tags` (50) out."""

    def __init__(self, graph: Graph, weights: Weights, features: str = "features") -> None:
        """Append the network to a graph; the names of its results are attributes."""
        self._graph, self._weights = graph, weights
        scale, shift = _normalisation(weights, 0)
        x = graph.affine(graph.reshape(features, [0, 1, FRAMES, BANDS]), scale, shift, [1])
        front = [
            self._front(x, 0, [3, 0, 3, 0]),
            self._front(x, 1, [3, 0, 3, 0]),
            self._front(x, 2, [63, 0, 64, 0]),
            self._front(x, 3, [31, 0, 32, 0]),
            self._front(x, 4, [15, 0, 16, 0]),
        ]
        # From here on [batch, channels, frames, 1]: the frequency axis is pooled away.
        first = graph.add("Concat", *front, axis=1)
        second = self._middle(first, 5)
        third = graph.add("Add", self._middle(second, 6), second)
        fourth = graph.add("Add", self._middle(third, 7), third)
        everything = graph.add("Concat", first, second, third, fourth, axis=1)
        most, mean = graph.add("GlobalMaxPool", everything), graph.add("GlobalAveragePool", everything)
        # musicnn flattens [channels, (max, mean)], so the two alternate.
        self.pooled = graph.reshape(graph.add("Concat", most, mean, axis=2), [0, -1])
        x = graph.affine(self.pooled, *_normalisation(weights, 9), [1, -1])
        x = graph.add("Relu", self._dense(x, "dense"))
        self.penultimate = graph.affine(x, *_normalisation(weights, 10), [1, -1])
        self.tags = graph.add("Sigmoid", self._dense(self.penultimate, "dense_1"))

    def _convolution(self, x: str, number: int, pads: list[int], sign: NDArray[Any], transpose: bool = False) -> str:
        """Append a convolution, times a sign a channel; TensorFlow's kernels are [height, width, in, out].

        Channels are filled up with zeros to a multiple of BLOCK: ONNX Runtime then keeps its blocked layout instead of
        reordering after each layer, and the same numbers come out for 18 % less time. A front-end branch cuts the
        filling off once it has pooled; a middle layer's 64 channels need none.
        """
        prefix = f"conv2d_{number}" if number else "conv2d"
        kernel = (self._weights[f"{prefix}/kernel"] * sign).transpose(3, 2, 0, 1)
        if transpose:
            kernel = kernel.transpose(0, 3, 2, 1)
        bias = self._weights[f"{prefix}/bias"] * sign
        graph = self._graph
        more_out, more_in = -kernel.shape[0] % BLOCK, -kernel.shape[1] % BLOCK if kernel.shape[1] > 1 else 0
        kernel = np.pad(kernel, ((0, more_out), (0, more_in), (0, 0), (0, 0)))
        bias = np.pad(bias, (0, more_out))
        if more_in:
            x = graph.add("Pad", x, graph.weight(np.array([0, 0, 0, 0, 0, more_in, 0, 0]), np.int64))
        return graph.add(
            "Conv", x, graph.weight(kernel), graph.weight(bias), kernel_shape=list(kernel.shape[2:]), pads=pads
        )

    def _front(self, x: str, number: int, pads: list[int]) -> str:
        """Append a front-end branch: convolution, ReLU, normalisation, maximum over frequency.

        Pooling goes first, so that the rest touches up to 96 times fewer numbers: the maximum of a x + b is
        a max(x) + b where a > 0 and a min(x) + b where a < 0, and a minimum is the maximum of the negated channel.
        """
        graph = self._graph
        scale, shift = _normalisation(self._weights, number + 1)
        sign = np.where(scale < 0, -1.0, 1.0)
        convolved = self._convolution(x, number, pads, sign)
        width = BANDS - self._weights[f"conv2d_{number}/kernel" if number else "conv2d/kernel"].shape[1] + 1
        extreme = graph.add("MaxPool", convolved, kernel_shape=[1, width])
        begin, end, axis = (graph.weight(np.array([value]), np.int64) for value in (0, len(sign), 1))
        extreme = graph.add("Slice", extreme, begin, end, axis)
        rectified = graph.add("Relu", graph.add("Mul", extreme, graph.weight(sign.reshape(1, -1, 1, 1))))
        return graph.affine(rectified, scale, shift, [1, -1, 1, 1])

    def _middle(self, x: str, number: int) -> str:
        """Append a middle layer: convolution over time, ReLU, normalisation."""
        one = np.ones(1)
        convolved = self._graph.add("Relu", self._convolution(x, number, [3, 0, 3, 0], one, transpose=True))
        return self._graph.affine(convolved, *_normalisation(self._weights, number + 1), [1, -1, 1, 1])

    def _dense(self, x: str, prefix: str) -> str:
        """Append a dense layer."""
        graph, weights = self._graph, self._weights
        return graph.add("Gemm", x, graph.weight(weights[f"{prefix}/kernel"]), graph.weight(weights[f"{prefix}/bias"]))


def parameters(weights: Weights) -> int:
    """Return the number of trained parameters of a network."""
    return int(sum(value.size for name, value in weights.items() if "moving" not in name))


def trunk_model(weights: Weights, outputs: tuple[str, ...] = ("tags", "penultimate", "pooled")) -> Any:
    """Return MSD_musicnn alone as an ONNX model, for making training features."""
    graph = Graph()
    trunk = Trunk(graph, weights)
    shapes = {"tags": [50], "penultimate": [200], "pooled": [1506]}
    for name in outputs:
        graph.add("Identity", getattr(trunk, name), name=name)
    return graph.model({"features": [FRAMES, BANDS]}, {name: shapes[name] for name in outputs})
