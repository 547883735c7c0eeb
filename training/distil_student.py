"""The student behind its front: musicnn's upper layers at half of the frames, in Keras for training and in ONNX to
serve.

It begins as the teacher it is cut from and is then taught what the whole network answers. Nothing here knows genres or
audio. Start at `build`, then `append`.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import onnx
from keras import layers
from numpy.typing import NDArray
from onnx import numpy_helper

from training.distil_front import FRAMES_OUT, STRIDE
from training.onnx_graph import Graph
from training.prune import BLOCK

TAGS, WIDTH, HIDDEN = 50, 64, 200
TAPS_OF_LAYER = 2 * -(-3 // STRIDE) + 1
"""Of a middle layer: as far as the teacher's seven frames reach."""
SMALLEST = 3e-4
"""As in training/gaussians.py: the head reads log(tag + 3e-4), so that is what the student has to get right."""
Array = NDArray[np.float32]


def build(channels: int) -> keras.Model:
    """Return the network: a front's output [batch, 94, channels] to tag logits [batch, 50] and a hidden layer."""
    front = keras.Input((FRAMES_OUT, channels), name="front")
    first = _layer(front, 0)
    second = layers.Add()([_layer(first, 1), first])
    third = layers.Add()([_layer(second, 2), second])
    x = layers.Concatenate()([front, first, second, third])
    x = layers.Concatenate()([layers.GlobalMaxPooling1D()(x), layers.GlobalAveragePooling1D()(x)])
    x = layers.Dense(HIDDEN, "relu", name="dense")(x)
    hidden = Scale(name="scale_dense")(x)
    logits = layers.Dense(TAGS, name="logits")(hidden)
    return keras.Model(front, {"logits": logits, "hidden": hidden})


class Scale(layers.Layer):  # type: ignore[misc]
    """A scale and a shift of each channel, both learnt: what is left of a batch normalisation at inference.

    Batches of a student that is nearly right would only add noise to the statistics.
    """

    def build(self, shape: tuple[int, ...]) -> None:
        """Make the weights."""
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        self.shift = self.add_weight(shape=(shape[-1],), initializer="zeros", name="shift")

    def call(self, x: Any) -> Any:
        """Return x * scale + shift."""
        return x * self.scale + self.shift


def _layer(x: Any, number: int) -> Any:
    """Append a middle layer: convolution over time, ReLU, scale and shift."""
    x = layers.Conv1D(WIDTH, TAPS_OF_LAYER, padding="same", activation="relu", name=f"convolution_{number}")(x)
    return Scale(name=f"scale_{number}")(x)


class Upper:
    """The teacher's layers behind its front, read from its float ONNX file."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Read them."""
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        after = {name: node for node in model.graph.node for name in node.input}

        def affine(node: Any) -> tuple[Array, Array]:
            times = after[node.output[0]]
            plus = after[times.output[0]]
            return weights[times.input[1]].reshape(-1), weights[plus.input[1]].reshape(-1)

        self.layers = []
        for node in model.graph.node:
            if node.op_type == "Conv" and after[node.output[0]].op_type == "Relu":
                kernel, bias = (weights[name] for name in node.input[1:3])
                self.layers.append((kernel[..., 0], bias, *affine(after[node.output[0]])))
        gemms = [node for node in model.graph.node if node.op_type == "Gemm"]
        reshape = next(
            node for node in model.graph.node if node.op_type == "Reshape" and node is not model.graph.node[0]
        )
        self.pooled = affine(reshape)
        self.dense = tuple(weights[name] for name in gemms[0].input[1:3])
        self.scale = affine(after[gemms[0].output[0]])
        self.logits = tuple(weights[name] for name in gemms[1].input[1:3])

    def begin(self, model: keras.Model) -> None:
        """Set a student to what the teacher is, its taps moved to the frames there are."""
        for number, (kernel, bias, scale, shift) in enumerate(self.layers):
            used = kernel[:, : model.get_layer("front").output.shape[-1]] if number == 0 else kernel
            model.get_layer(f"convolution_{number}").set_weights([_taps(used).transpose(2, 1, 0), bias])
            model.get_layer(f"scale_{number}").set_weights([scale, shift])
        scale, shift = self.pooled
        kernel, bias = self.dense[0] * scale[:, None], self.dense[1] + shift @ self.dense[0]
        # The teacher's order is maximum and mean of each channel in turn, the student's all maxima, then all means.
        model.get_layer("dense").set_weights([np.concatenate([kernel[::2], kernel[1::2]]), bias])
        model.get_layer("scale_dense").set_weights(list(self.scale))
        model.get_layer("logits").set_weights(list(self.logits))


def _taps(kernel: Array) -> Array:
    """Return a kernel [out, in, 7] of single frames as one of TAPS frames STRIDE apart, with linear interpolation."""
    half, middle = kernel.shape[2] // 2, TAPS_OF_LAYER // 2
    out = np.zeros((*kernel.shape[:2], TAPS_OF_LAYER), np.float32)
    for tap in range(-half, half + 1):
        whole, part = divmod(tap, STRIDE)
        share = part / STRIDE
        out[..., middle + whole] += (1 - share) * kernel[..., half + tap]
        if share:
            out[..., middle + whole + 1] += share * kernel[..., half + tap]
    return out


def append(graph: Graph, model: keras.Model, front: str) -> str:
    """Write the trained layers into an ONNX graph behind a front; return the name of the tags (0..1), [batch, 50]."""
    first = _append_layer(graph, model, front, 0)
    second = graph.add("Add", _append_layer(graph, model, first, 1), first)
    third = graph.add("Add", _append_layer(graph, model, second, 2), second)
    x = graph.add("Concat", front, first, second, third, axis=1)
    x = graph.add("Concat", graph.add("GlobalMaxPool", x), graph.add("GlobalAveragePool", x), axis=1)
    x = graph.add("Flatten", x, axis=1)
    dense, logits = (_arrays(model, name) for name in ("dense", "logits"))
    x = graph.add("Relu", graph.add("Gemm", x, *(graph.weight(part) for part in dense)))
    scale, shift = _arrays(model, "scale_dense")
    # The scale of the hidden layer goes into the layer behind it.
    kernel, bias = scale[:, None] * logits[0], logits[1] + shift @ logits[0]
    return graph.add("Sigmoid", graph.add("Gemm", x, graph.weight(kernel), graph.weight(bias)))


def _append_layer(graph: Graph, model: keras.Model, x: str, number: int) -> str:
    """Write one middle layer."""
    kernel, bias = _arrays(model, f"convolution_{number}")
    kernel, reach = kernel.transpose(2, 1, 0)[..., None], TAPS_OF_LAYER // 2
    if more := -kernel.shape[1] % BLOCK:  # as in training/prune.py
        kernel = np.pad(kernel, ((0, 0), (0, more), (0, 0), (0, 0)))
        x = graph.add("Pad", x, graph.weight(np.array([0, 0, 0, 0, 0, more, 0, 0]), np.int64))
    y = graph.add(
        "Conv", x, graph.weight(kernel), graph.weight(bias), kernel_shape=[TAPS_OF_LAYER, 1], pads=[reach, 0, reach, 0]
    )
    scale, shift = _arrays(model, f"scale_{number}")
    return graph.affine(graph.add("Relu", y), scale, shift, [1, -1, 1, 1])


def _arrays(model: keras.Model, name: str) -> list[NDArray[np.float64]]:
    """Return a layer's weights, of any Keras backend."""
    return [np.asarray(keras.ops.convert_to_numpy(part), np.float64) for part in model.get_layer(name).weights]
