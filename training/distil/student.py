"""The student behind its front: musicnn's upper layers at half of the frames and a branch for the sound network's
classes, which also looks at the bands themselves, in Keras for training and in ONNX to serve.

It begins as the teacher it is cut from and is then taught what both networks answer. Nothing here knows genres or
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

from services.errors import GenreError
from training.distil.front import FRAMES_OUT, STRIDE
from training.musicnn.network import BANDS, FRAMES
from training.musicnn.prune import BLOCK
from training.onnx_graph import Graph

TAGS, WIDTH, HIDDEN, SOUND_HIDDEN = 50, 64, 200, 256
SOUND_LAYERS = ((128, 6, 4), (128, 3, 2), (160, 3, 1))
"""Filters, frames and stride of the convolutions of the branch of sounds: musicnn's filters tell music apart and are
nearly deaf to birds and doors."""
TAPS_OF_LAYER = 2 * -(-3 // STRIDE) + 1
"""Of a middle layer: as far as the teacher's seven frames reach."""
Array = NDArray[np.float32]
Matrix = NDArray[np.float64]


def build(channels: int, sounds: int) -> keras.Model:
    """Return the network: `front` [batch, 94, channels] and `bands` [batch, 187, 96] to logits of tags and sounds."""
    front, bands = keras.Input((FRAMES_OUT, channels), name="front"), keras.Input((FRAMES, BANDS), name="bands")
    first = _layer(front, 0)
    second = layers.Add()([_layer(first, 1), first])
    third = layers.Add()([_layer(second, 2), second])
    x = layers.Concatenate()([front, first, second, third])
    x = layers.Concatenate(name="pooled")([layers.GlobalMaxPooling1D()(x), layers.GlobalAveragePooling1D()(x)])
    hidden = Scale(name="scale_dense")(layers.Dense(HIDDEN, "relu", name="dense")(x))
    heard = _sounds(x.shape[-1], sounds)({"pooled": x, "bands": bands})
    return keras.Model(
        {"front": front, "bands": bands}, {"tags": layers.Dense(TAGS, name="tags")(hidden), "sounds": heard}
    )


def _sounds(pooled: int, sounds: int) -> keras.Model:
    """Return the branch of sounds, a network of its own: `pooled` [batch, pooled] and `bands` to logits."""
    before, bands = keras.Input((pooled,), name="pooled"), keras.Input((FRAMES, BANDS), name="bands")
    x = layers.BatchNormalization(name="scale_bands")(bands)
    for number, (filters, frames, stride) in enumerate(SOUND_LAYERS):
        x = layers.Conv1D(filters, frames, strides=stride, activation="relu", name=f"sound_{number}")(x)
        x = layers.BatchNormalization(name=f"scale_sound_{number}")(x)
    x = layers.Concatenate()([before, layers.GlobalMaxPooling1D()(x), layers.GlobalAveragePooling1D()(x)])
    x = layers.Dense(SOUND_HIDDEN, "relu", name="sound_dense")(x)
    logits = layers.Dense(sounds, name="sound_logits")(x)
    return keras.Model({"pooled": before, "bands": bands}, logits, name="sounds")


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
        try:
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
        except (LookupError, StopIteration) as error:
            reason = f"is not all of musicnn in its float form ({error})"
            raise GenreError("the teacher", reason, "take the file of 'genre train networks'") from error

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
        model.get_layer("tags").set_weights(list(self.logits))


class Earlier:
    """The layers of a student behind its front, read from an ONNX file that `append` wrote in a former version."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Read them.

        Raises:
            GenreError: for another network.
        """
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        after = {name: node for node in model.graph.node for name in node.input}
        self.layers: list[list[Array]] = []
        try:
            for node in model.graph.node:
                of_tags = node.op_type == "Conv" and after[node.output[0]].op_type == "Relu" and len(self.layers) < 3
                if of_tags:  # Those behind are of the sounds.
                    times = after[after[node.output[0]].output[0]]
                    plus = after[times.output[0]]
                    self.layers.append([weights[name] for name in (*node.input[1:3], times.input[1], plus.input[1])])
            gemms = [node for node in model.graph.node if node.op_type == "Gemm"]
            self.dense, self.tags, self.heard, self.sounds = (
                [weights[name] for name in node.input[1:3]] for node in gemms[:4]
            )
            if [layer[0].shape[2] for layer in self.layers] != [TAPS_OF_LAYER] * 3:
                raise ValueError("it has other layers")
        except (LookupError, ValueError) as error:
            remedy = "give one that 'genre train distil' wrote"
            raise GenreError("--begin", f"is no student of musicnn ({error})", remedy) from error

    def begin(self, model: keras.Model) -> None:
        """Set a student's layers to these; convolutions of its sounds begin anew."""
        for number, (kernel, bias, scale, shift) in enumerate(self.layers):
            used = kernel[:, : model.get_layer("front").output.shape[-1]] if number == 0 else kernel
            model.get_layer(f"convolution_{number}").set_weights([used[..., 0].transpose(2, 1, 0), bias])
            model.get_layer(f"scale_{number}").set_weights([scale.reshape(-1), shift.reshape(-1)])
        model.get_layer("dense").set_weights(self.dense)
        model.get_layer("tags").set_weights(self.tags)
        branch = model.get_layer("sounds")
        entry, kernel = branch.get_layer("sound_dense"), self.heard[0]
        # A former version read the pooled values alone: what is new begins at nothing.
        more = entry.kernel.shape[0] - len(kernel)
        entry.set_weights([np.pad(kernel, ((0, more), (0, 0))), self.heard[1]])
        branch.get_layer("sound_logits").set_weights(self.sounds)


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


def append(graph: Graph, model: keras.Model, features: str, front: str, tags: str, sounds: str) -> None:
    """Write the trained layers into an ONNX graph behind features and front, as `tags` (0..1) and `sounds` (logits)."""
    first = _append_layer(graph, model, front, 0)
    second = graph.add("Add", _append_layer(graph, model, first, 1), first)
    third = graph.add("Add", _append_layer(graph, model, second, 2), second)
    x = _append_pooled(graph, graph.add("Concat", front, first, second, third, axis=1))

    def dense(x: str, weights: list[Matrix], name: str | None = None) -> str:
        return graph.add("Gemm", x, *(graph.weight(part) for part in weights), name=name)

    hidden = graph.add("Relu", dense(x, _arrays(model, "dense")))
    scale, shift = _arrays(model, "scale_dense")
    kernel, bias = _arrays(model, "tags")
    # The scale of the hidden layer goes into the layer behind it.
    graph.add("Sigmoid", dense(hidden, [scale[:, None] * kernel, bias + shift @ kernel]), name=tags)
    branch = model.get_layer("sounds")
    bands = graph.reshape(graph.add("Transpose", features, perm=[0, 2, 1]), [0, BANDS, FRAMES, 1])
    scale, shift = _scale(branch, "scale_bands")
    for number, (_, frames, stride) in enumerate(SOUND_LAYERS):
        kernel, bias = _arrays(branch, f"sound_{number}")
        # The scale before a layer goes into it: none of them pads.
        bias, kernel = bias + np.einsum("i,kio->o", shift, kernel), kernel * scale[:, None]
        weights = (graph.weight(kernel.transpose(2, 1, 0)[..., None]), graph.weight(bias))
        bands = graph.add("Relu", graph.add("Conv", bands, *weights, kernel_shape=[frames, 1], strides=[stride, 1]))
        scale, shift = _scale(branch, f"scale_sound_{number}")
    bands = _append_pooled(graph, graph.affine(bands, scale, shift, [1, -1, 1, 1]))
    heard = graph.add("Relu", dense(graph.add("Concat", x, bands, axis=1), _arrays(branch, "sound_dense")))
    dense(heard, _arrays(branch, "sound_logits"), name=sounds)


def _append_pooled(graph: Graph, x: str) -> str:
    """Write maximum and mean over time of each channel; return the name of [batch, channels x 2]."""
    x = graph.add("Concat", graph.add("GlobalMaxPool", x), graph.add("GlobalAveragePool", x), axis=1)
    return graph.add("Flatten", x, axis=1)


def _append_layer(graph: Graph, model: keras.Model, x: str, number: int) -> str:
    """Write one middle layer."""
    kernel, bias = _arrays(model, f"convolution_{number}")
    kernel, reach = kernel.transpose(2, 1, 0)[..., None], TAPS_OF_LAYER // 2
    if more := -kernel.shape[1] % BLOCK:  # as in training/musicnn/prune.py
        kernel = np.pad(kernel, ((0, 0), (0, more), (0, 0), (0, 0)))
        x = graph.add("Pad", x, graph.weight(np.array([0, 0, 0, 0, 0, more, 0, 0]), np.int64))
    y = graph.add(
        "Conv", x, graph.weight(kernel), graph.weight(bias), kernel_shape=[TAPS_OF_LAYER, 1], pads=[reach, 0, reach, 0]
    )
    scale, shift = _arrays(model, f"scale_{number}")
    return graph.affine(graph.add("Relu", y), scale, shift, [1, -1, 1, 1])


def _scale(model: keras.Model, name: str) -> tuple[Matrix, Matrix]:
    """Return what a batch normalisation multiplies by and adds at inference."""
    gamma, beta, mean, variance = _arrays(model, name)
    scale = gamma / np.sqrt(variance + model.get_layer(name).epsilon)
    return scale, beta - mean * scale


def _arrays(model: keras.Model, name: str) -> list[Matrix]:
    """Return a layer's weights, of any Keras backend."""
    return [np.asarray(keras.ops.convert_to_numpy(part), np.float64) for part in model.get_layer(name).weights]
