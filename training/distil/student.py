"""The student: mn04's layers over a cheaper view of a window, with a second head for musicnn's tags, in Keras.

It begins as mn04, without the hidden values that say least, and is then taught what both networks answer. Nothing here
knows genres or audio. Start at `build`, then `append`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from training.efficientat import network as efficientat
from training.efficientat.network import (
    BANDS,
    CENTRE,
    FIRST_SWISH,
    SPREAD,
    STRIDES,
    Block,
    Layer,
    Network,
    adds,
)
from training.onnx_graph import Graph

FLOOR = float(np.log(1e-4))
"""What is quieter in a band says nothing to a student: at -40 dBFS it would be the rounding of 16 bits, by which an
answer moved by 0.017."""
HIDDEN = 496
"""Of mn04's 512 hidden values: with the second head the network has fewer than a million numbers."""
TAGS = 50
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Student:
    """What a student is: mn04's layers, and the tags' from the same hidden values."""

    network: Network
    tags: Layer


def beginning(network: Network, hidden: int = HIDDEN) -> Student:
    """Return a student that hears as mn04 does, with the hidden values that weigh most; its tags say nothing yet."""
    (rows, bias), (columns, classes_bias) = network.hidden, network.classes
    weight = np.linalg.norm(rows, axis=1) * np.linalg.norm(columns, axis=0)
    kept = np.sort(np.argsort(-weight)[:hidden])
    made = replace(network, hidden=(rows[kept], bias[kept]), classes=(columns[:, kept], classes_bias))
    return Student(made, (np.zeros((TAGS, len(kept)), np.float32), np.full(TAGS, -3.0, np.float32)))


def build(student: Student, shape: tuple[int, int]) -> keras.Model:
    """Return the network: features [batch, *shape] (frames and bands of its view) to logits of `tags` and `sounds`."""
    network, made = student.network, _Layers()
    features = keras.Input(shape, name="features")
    x = layers.Activation("relu")(layers.Rescaling(1 / SPREAD, -FLOOR / SPREAD)(features))
    x = layers.ZeroPadding2D(((0, 0), (0, BANDS - shape[1])))(layers.Reshape((*shape, 1))(x))
    x = layers.Rescaling(1.0, (FLOOR - CENTRE) / SPREAD)(x)
    x = _active(made.convolution(x, network.first, 2), swish=True)
    for number, (block, stride) in enumerate(zip(network.blocks, STRIDES, strict=True)):
        before, swish = x, number >= FIRST_SWISH
        if block.widen is not None:
            x = _active(made.convolution(x, block.widen), swish)
        x = _active(made.around(x, block.around, stride), swish)
        if block.weigh is not None:
            pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
            weights = layers.Activation("relu")(made.point(pooled, block.weigh[0]))
            x = layers.Multiply()([x, layers.Activation("sigmoid")(made.point(weights, block.weigh[1]))])
        x = made.convolution(x, block.narrow)
        if adds(network, number):
            x = layers.Add()([x, before])
    x = layers.GlobalAveragePooling2D()(_active(made.convolution(x, network.last), swish=True))
    hidden = layers.Activation("hard_swish", name="hidden")(made.dense(x, network.hidden))
    sounds, tags = made.dense(hidden, network.classes, "sounds"), made.dense(hidden, student.tags, "tags")
    model = keras.Model(features, {"sounds": sounds, "tags": tags})
    made.set()
    return model


def read(model: keras.Model, like: Student) -> Student:
    """Return what a Keras student has become.

    Args:
        like: what it was built from.
    """
    weights = iter(_layers_of(model))
    network = like.network

    def convolution(layer: Layer) -> Layer:
        return _from_keras(next(weights), layer)

    first = convolution(network.first)
    blocks = []
    for block in network.blocks:
        made = [convolution(layer) for layer in block.layers]
        widen = made.pop(0) if block.widen is not None else None
        around, narrow = made.pop(0), made.pop()
        blocks.append(Block(widen, around, (made[0], made[1]) if block.weigh is not None else None, narrow))
    last, hidden, classes, tags = (convolution(x) for x in (network.last, network.hidden, network.classes, like.tags))
    return Student(Network(first, tuple(blocks), last, hidden, classes), tags)


def append(graph: Graph, student: Student, features: str, tags: str, sounds: str, shape: tuple[int, int]) -> None:
    """Write a student into an ONNX graph, from features [batch, *shape] to tags and the sounds' logits."""
    hidden, logits = efficientat.append(graph, student.network, features, shape, FLOOR)
    graph.add("Identity", logits, name=sounds)
    weights, bias = student.tags
    graph.add("Sigmoid", graph.add("Gemm", hidden, graph.weight(weights.T), graph.weight(bias)), name=tags)


def _active(x: Any, swish: bool) -> Any:
    return layers.Activation("hard_swish" if swish else "relu")(x)


class _Layers:
    """Makes Keras layers and gives them their weights when all are built."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, Layer]] = []

    def convolution(self, x: Any, layer: Layer, stride: int = 1) -> Any:
        size = layer[0].shape[2]
        return self._add(layers.Conv2D(len(layer[1]), size, stride, name=self._name()), _padded(x, size), layer)

    def around(self, x: Any, layer: Layer, stride: int) -> Any:
        size = layer[0].shape[2]
        return self._add(layers.DepthwiseConv2D(size, stride, name=self._name()), _padded(x, size), layer)

    def point(self, x: Any, layer: Layer) -> Any:
        return self._add(layers.Conv2D(len(layer[1]), 1, name=self._name()), x, layer)

    def dense(self, x: Any, layer: Layer, name: str | None = None) -> Any:
        return self._add(layers.Dense(len(layer[1]), name=name or self._name()), x, layer)

    def set(self) -> None:
        """Give all layers their weights."""
        for made, layer in self._made:
            made.set_weights(_to_keras(made, layer))

    def _name(self) -> str:
        return f"layer_{len(self._made):02}"

    def _add(self, made: Any, x: Any, layer: Layer) -> Any:
        self._made.append((made, layer))
        return made(x)


def _padded(x: Any, size: int) -> Any:
    """Pad as PyTorch does, the same on both sides; Keras' "same" does not where a stride is 2."""
    return layers.ZeroPadding2D(size // 2)(x) if size > 1 else x


def _to_keras(made: Any, layer: Layer) -> list[Array]:
    """Return a layer's weights as Keras orders them: frames, bands, in, out."""
    kernel, bias = layer
    if isinstance(made, layers.Dense):
        return [kernel.T, bias]
    if kernel.ndim == 2:
        return [kernel.T[None, None], bias]
    order = (3, 2, 0, 1) if isinstance(made, layers.DepthwiseConv2D) else (3, 2, 1, 0)
    return [kernel.transpose(order), bias]


def _from_keras(weights: Sequence[Array], like: Layer) -> Layer:
    """Return weights of Keras in the shape of the layer that they came from."""
    kernel, bias = weights
    if like[0].ndim == 2:
        return kernel.reshape(kernel.shape[-2:]).T, bias
    # A convolution of each channel by itself has its channels where others have what goes in.
    order = (2, 3, 1, 0) if kernel.shape[-1] == 1 and like[0].shape[1] == 1 and like[0].shape[0] > 1 else (3, 2, 1, 0)
    return kernel.transpose(order), bias


def _layers_of(model: keras.Model) -> list[list[Array]]:
    """Return the weights of all layers, in the order that they were made in."""
    named = {layer.name: [np.asarray(keras.ops.convert_to_numpy(part), np.float32) for part in layer.weights]
             for layer in model.layers if layer.weights}  # fmt: skip
    numbered = sorted(name for name in named if name.startswith("layer_"))
    return [named[name] for name in (*numbered, "sounds", "tags")]
