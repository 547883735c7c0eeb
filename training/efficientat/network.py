"""mn04 of EfficientAT (Schmid, Koutini and Widmer 2023, MIT licence): a MobileNetV3 over mel bands, as plain layers.

Read from PyTorch's file without PyTorch, batch normalisation folded in; written down as ONNX by `append`, for the
teacher and for a student that has the same layers. Start at `read`. Nothing here knows genres, kinds or audio.
"""

from __future__ import annotations

import collections
import hashlib
import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError
from training.given import UNREADABLE
from training.onnx_graph import Graph

FILE = "mn04_as_mAP_432.pt, of EfficientAT's release v0.0.1"
SHA256 = "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c"
LEFT_OUT = (1, 2, 12, 32, 33, 277)
"""Of AudioSet's 527 classes those that say whether a man or a woman speaks or sings, and two that hardly occur:
Google's own YAMNet leaves the same six out, and 521 are left."""
FRAMES, BANDS = 300, 128
"""Of a window as the teacher takes it: recipe `mel128-32000`."""
CENTRE, SPREAD = -4.5, 5.0
"""What its features are scaled by, (x - CENTRE) / SPREAD."""
SILENCE = float(np.log(1e-5))
"""Of a band in which there is nothing."""
STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1)
FIRST_SWISH = 6
"""Blocks from this one on have hard swish in place of ReLU."""
_EPSILON = 1e-3
"""Of its batch normalisation."""

Array = NDArray[np.float32]
Layer = tuple[Array, Array]
"""Kernel [out, in / group, bands, frames], or [out, in], and bias [out]."""


@dataclass(frozen=True)
class Block:
    """An inverted residual: widen, look around channel by channel, weigh channels, narrow.

    Attributes:
        widen, weigh: absent in some blocks; `weigh` is squeeze and excitation, two layers.
    """

    widen: Layer | None
    around: Layer
    weigh: tuple[Layer, Layer] | None
    narrow: Layer

    @property
    def layers(self) -> list[Layer]:
        """Return those there are, in the order they run."""
        return [layer for layer in (self.widen, self.around, *(self.weigh or ()), self.narrow) if layer is not None]


@dataclass(frozen=True)
class Network:
    """All layers: `first`, the blocks, `last`, then the mean over bands and frames, `hidden` and `classes`."""

    first: Layer
    blocks: tuple[Block, ...]
    last: Layer
    hidden: Layer
    classes: Layer


def read(path: Path) -> Network:
    """Read the network from EfficientAT's file, its classes without LEFT_OUT.

    Raises:
        GenreError: where it is another file, by its digest or by what it holds.
    """
    remedy = f"give {FILE}"
    try:
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != SHA256:
            raise GenreError(str(path), f"is another file (SHA-256 {digest[:8]}...{digest[-5:]})", remedy)
        return network_of(_State(zipfile.ZipFile(io.BytesIO(content))).load())
    except UNREADABLE as error:
        raise GenreError(str(path), f"has no readable network ({error})", remedy) from error


def network_of(state: Mapping[str, Array]) -> Network:
    """Return the layers of a state dict of the whole network, 527 classes and all.

    Raises:
        LookupError, ValueError: for another one.
    """
    blocks = []
    for number in range(1, len(STRIDES) + 1):
        prefix, place = f"features.{number}.block", 0
        widen = None
        if state[f"{prefix}.0.0.weight"].shape[2] == 1:
            widen, place = _folded(state, f"{prefix}.0"), 1
        around = _folded(state, f"{prefix}.{place}")
        weigh, inside = None, f"{prefix}.{place + 1}.conc_se_layers.0"
        if f"{inside}.fc1.weight" in state:
            weigh, place = (_dense(state, f"{inside}.fc1"), _dense(state, f"{inside}.fc2")), place + 1
        blocks.append(Block(widen, around, weigh, _folded(state, f"{prefix}.{place + 1}")))
    weights, bias = _dense(state, "classifier.5")
    classes = np.delete(weights, LEFT_OUT, axis=0), np.delete(bias, LEFT_OUT)
    ends = (_folded(state, "features.0"), _folded(state, f"features.{len(STRIDES) + 1}"))
    return Network(ends[0], tuple(blocks), ends[1], _dense(state, "classifier.2"), classes)


def append(
    graph: Graph, network: Network, features: str, shape: tuple[int, int], floor: float = SILENCE
) -> tuple[str, str]:
    """Write the network into an ONNX graph, from features [batch, *shape] (ln of mel powers).

    Args:
        shape: frames and bands. Where these are fewer than BANDS, quiet ones are put above them: without them the zeros
            with which convolutions pad would stand there, which are as loud as music.
        floor: what is below counts as this.

    Returns:
        The names of the hidden layer's values [batch, hidden] and of the classes' logits [batch, classes].
    """
    frames, bands = shape
    if floor > SILENCE:
        features = graph.add("Max", features, graph.weight(np.array(floor)))
    if bands < BANDS:
        more = graph.weight(np.array([0, 0, 0, 0, 0, BANDS - bands]), np.int64)
        features = graph.add("Pad", features, more, graph.weight(np.array(floor)), mode="constant")
    x = graph.affine(features, np.array([1 / SPREAD]), np.array([-CENTRE / SPREAD]), [1])
    x = _swish(graph, _convolution(graph, graph.reshape(x, [0, 1, frames, BANDS]), network.first, 2))
    for number, (block, stride) in enumerate(zip(network.blocks, STRIDES, strict=True)):
        before, active = x, _swish if number >= FIRST_SWISH else _relu
        if block.widen is not None:
            x = active(graph, _convolution(graph, x, block.widen))
        x = active(graph, _convolution(graph, x, block.around, stride, len(block.around[1])))
        if block.weigh is not None:
            weights = _relu(graph, _point(graph, graph.add("GlobalAveragePool", x), block.weigh[0]))
            x = graph.add("Mul", x, graph.add("Sigmoid", _point(graph, weights, block.weigh[1])))
        x = _convolution(graph, x, block.narrow)
        if adds(network, number):
            x = graph.add("Add", x, before)
    x = graph.add("GlobalAveragePool", _swish(graph, _convolution(graph, x, network.last)))
    hidden = _swish(graph, _product(graph, graph.add("Flatten", x), network.hidden))
    return hidden, _product(graph, hidden, network.classes)


def adds(network: Network, number: int) -> bool:
    """Tell whether a block's input is added to what it makes."""
    block = network.blocks[number]
    channels = (block.around if block.widen is None else block.widen)[0].shape[0 if block.widen is None else 1]
    return STRIDES[number] == 1 and channels == len(block.narrow[1])


def _relu(graph: Graph, x: str) -> str:
    return graph.add("Relu", x)


def _swish(graph: Graph, x: str) -> str:
    """Return x * clip(x / 6 + 1 / 2, 0, 1): no operation of its own before ONNX's opset 14."""
    return graph.add("Mul", x, graph.add("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def _convolution(graph: Graph, x: str, layer: Layer, stride: int = 1, group: int = 1) -> str:
    kernel, bias = layer
    size = kernel.shape[2]
    return graph.add(
        # The file's kernels are [bands, frames], features are [frames, bands].
        "Conv", x, graph.weight(kernel.transpose(0, 1, 3, 2)), graph.weight(bias), kernel_shape=[size, size],
        pads=[size // 2] * 4, strides=[stride, stride], group=group,
    )  # fmt: skip


def _point(graph: Graph, x: str, layer: Layer) -> str:
    return graph.add("Conv", x, graph.weight(layer[0][:, :, None, None]), graph.weight(layer[1]), kernel_shape=[1, 1])


def _product(graph: Graph, x: str, layer: Layer) -> str:
    return graph.add("Gemm", x, graph.weight(layer[0].T), graph.weight(layer[1]))


def _folded(state: Mapping[str, Array], name: str) -> Layer:
    """Return a convolution with the batch normalisation behind it in one."""
    gamma, beta, mean, variance = (
        state[f"{name}.1.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + _EPSILON)
    kernel = state[f"{name}.0.weight"] * scale[:, None, None, None]
    return kernel.astype(np.float32), (beta - mean * scale).astype(np.float32)


def _dense(state: Mapping[str, Array], name: str) -> Layer:
    return state[f"{name}.weight"], state[f"{name}.bias"]


class _State(pickle.Unpickler):
    """Reads a state dict of PyTorch's: numbers and their names; anything else that a pickle could do is refused."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._root = archive.namelist()[0].partition("/")[0]
        super().__init__(io.BytesIO(archive.read(f"{self._root}/data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict, ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch", "FloatStorage"): np.float32, ("torch", "LongStorage"): np.int64,
        }  # fmt: skip
        if (module, name) not in known:
            raise ValueError(f"it asks for {module}.{name}")
        return known[module, name]

    def persistent_load(self, told: Any) -> NDArray[Any]:
        _, dtype, key, *_ = told
        return np.frombuffer(self._archive.read(f"{self._root}/data/{key}"), dtype)


def _tensor(stored: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> NDArray[Any]:
    """Return a tensor of a storage; all of this file's lie there row by row."""
    length = int(np.prod(size, dtype=np.int64))
    if stride != tuple(int(np.prod(size[place + 1 :], dtype=np.int64)) for place in range(len(size))):
        raise ValueError(f"a tensor has strides {stride} at a size of {size}")
    return stored[offset : offset + length].reshape(size)
