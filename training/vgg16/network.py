"""The paper's network: VGG16's ImageNet convolutions on a 129 x 128 x 1 mel spectrogram, and a small head.

Keras 3 layers and keras.ops only, so TensorFlow, torch and JAX train it alike. Not the training itself
(`fit.py`) and not the edge (`onnx_graph.py`). Start at `trunk` and `tail`, its two halves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError

FRAMES, BANDS = 129, 128
INPUT = (FRAMES, BANDS, 1)
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""Convolutions and filters of each block (Simonyan and Zisserman 2015, configuration D)."""
HEAD_UNITS = 256
DROPOUT = 0.5
TOP_DB = 80.0
GREY = (103.939 + 116.779 + 123.68) / 3
"""Mean of the three channel means that ImageNet's VGG16 expects to be taken away, on its scale of 0 to 255."""

SCALE = 30.0
"""What all activations are divided by.

ReLU and max are homogeneous: with the input and all biases of the ImageNet convolutions divided by one number, each
block gives what it gave, divided by it. Undivided, block 5 gives values of standard deviation 6 (up to 200), on which
SGD at 0.001 with momentum 0.9 kills every unit of the new head within the first epoch.
"""

GREY_LEVELS = 255.0 / TOP_DB / SCALE, (255.0 - GREY) / SCALE
"""Factor and offset from dB to the grey levels."""

FLOAT32, FLOAT16 = "float32", "mixed_float16"
BFLOAT16 = "mixed_bfloat16"
"""Keras' names for what layers compute in: 32 bits, or 16 (of a GPU, of a CPU) with weights of 32."""

Weights = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Kernel and bias of each layer by the layer's name, in Keras' layout (height, width, in, out)."""


def scale_input(x: Any) -> Any:
    """Map dB below the window's loudest value (-80 to 0) to the grey levels that the ImageNet weights know."""
    return keras.layers.Rescaling(*GREY_LEVELS, name="grey")(x)


def trunk(frozen: int) -> keras.Model:
    """Return the part that is not trained: input [n, 129, 128, 1] through the first `frozen` blocks (1 to 5)."""
    x = features = keras.Input(INPUT, name="features")
    x = _blocks(scale_input(x), 1, frozen)
    return keras.Model(features, x, name=f"trunk_{frozen}")


def tail(frozen: int, genres: int = 10, precision: str = FLOAT32) -> keras.Model:
    """Return the part that is trained: the blocks after the first `frozen` ones, then the head; softmax of the genres.

    The head averages over time but not over frequency: a sound means the same a moment later, but not an octave
    higher. On frozen convolutions that is as good as the flat head the paper's Keras example would have (artist-grouped
    cross-validation, docs/models.md) with a quarter of its parameters.

    Args:
        frozen: blocks in front of it; with none it is the whole network, and takes features.
        genres: how many it tells.
        precision: as `network` takes it.
    """
    if not frozen:
        return network(genres, precision)
    x = inputs = keras.Input(trunk(frozen).output_shape[1:], name="activations")
    x = _blocks(x, frozen + 1, len(BLOCKS), precision)
    return keras.Model(inputs, _head(x, genres, precision), name=f"tail_{frozen}")


def network(genres: int = 10, precision: str = FLOAT32) -> keras.Model:
    """Return the whole network, [n, 129, 128, 1] to probabilities [n, genres].

    Args:
        genres: how many it tells.
        precision: what its layers compute in; input, weights and softmax are float32 whatever it is.
    """
    features = keras.Input(INPUT, name="features")
    x = _blocks(scale_input(features), 1, len(BLOCKS), precision)
    return keras.Model(features, _head(x, genres, precision), name="vgg16")


def optimizer(
    learning_rate: float, decay: float, momentum: float, precision: str = FLOAT32
) -> keras.optimizers.Optimizer:
    """Return SGD with Keras' time-based decay: after s steps the rate is learning_rate / (1 + decay x s).

    In float16 it scales the loss: gradients of this network lie below what 16 bits can hold.
    """
    rate = keras.optimizers.schedules.InverseTimeDecay(learning_rate, decay_steps=1, decay_rate=decay)
    descent = keras.optimizers.SGD(rate, momentum=momentum)
    return keras.optimizers.LossScaleOptimizer(descent) if precision == FLOAT16 else descent


def imagenet(path: Path | None) -> Weights:
    """Return VGG16's ImageNet convolutions for one channel and activations divided by `SCALE`.

    The first kernel is summed over its three input channels: that is exactly the network that sees the spectrogram
    three times, as grey, but with the paper's 129 x 128 x 1 input and a third of the first layer's work.

    Args:
        path: Keras' vgg16 "notop" file (HDF5); None lets Keras download it.

    Raises:
        GenreError: for a file that cannot be read, is no VGG16, or holds weights that are not finite.
    """
    name = str(path or "VGG16's ImageNet weights")
    remedy = "give --weights Keras' vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    if path and not path.is_file():
        raise GenreError(name, "is no file", remedy)
    try:
        model = keras.applications.VGG16(
            include_top=False, weights=None if path else "imagenet", input_shape=(FRAMES, BANDS, 3)
        )
        fresh = read_weights(model)
        if path:
            model.load_weights(path)
    except (
        Exception
    ) as error:  # Keras raises ValueError, OSError, KeyError and bare Exception for a bad file or no net.
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise GenreError(name, f"can't be used ({reason})", remedy) from error
    weights = read_weights(model)
    for layer, (kernel, _) in weights.items():
        # Keras only warns of layers that a file does not hold, and leaves them random.
        if path and np.array_equal(kernel, fresh[layer][0]):
            raise GenreError(name, f"does not hold the layer {layer}", remedy)
    if not all(np.isfinite(array).all() for pair in weights.values() for array in pair):
        raise GenreError(name, "holds weights that are not finite", remedy)
    weights = {name: (kernel, bias / np.float32(SCALE)) for name, (kernel, bias) in weights.items()}
    kernel, bias = weights["block1_conv1"]
    weights["block1_conv1"] = kernel.sum(axis=2, keepdims=True), bias
    return weights


def read_weights(*models: keras.Model) -> Weights:
    """Return the weights of all layers that have a kernel and a bias."""
    return {
        layer.name: (np.asarray(layer.get_weights()[0]), np.asarray(layer.get_weights()[1]))
        for model in models
        for layer in model.layers
        if len(layer.get_weights()) == 2
    }


def write_weights(model: keras.Model, weights: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]) -> None:
    """Set the layers of a model that `weights` names; leave the others.

    Raises:
        GenreError: for weights of the wrong shape.
    """
    for layer in model.layers:
        if layer.name in weights:
            want = [tuple(variable.shape) for variable in layer.weights]
            have = [array.shape for array in weights[layer.name]]
            if want != have:
                raise GenreError(f"weights of {layer.name}", f"have shapes {have}, not {want}", "give those of VGG16")
            layer.set_weights(list(weights[layer.name]))


def _blocks(x: Any, first: int, last: int, precision: str = FLOAT32) -> Any:
    """Apply VGG16's blocks first to last, counted from 1 as in the layers' names."""
    for block in range(first, last + 1):
        convolutions, filters = BLOCKS[block - 1]
        for number in range(1, convolutions + 1):
            name = f"block{block}_conv{number}"
            x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name=name, dtype=precision)(x)
        x = keras.layers.MaxPooling2D(2, name=f"block{block}_pool", dtype=precision)(x)
    return x


def _head(x: Any, genres: int, precision: str = FLOAT32) -> Any:
    """Apply the head; the softmax, and so the loss, is float32 in any case."""
    x = keras.layers.AveragePooling2D((x.shape[1], 1), name="time", dtype=precision)(x)
    x = keras.layers.Flatten(name="flatten", dtype=precision)(x)
    x = keras.layers.Dense(HEAD_UNITS, activation="relu", name="hidden", dtype=precision)(x)
    x = keras.layers.Dropout(DROPOUT, name="dropout", dtype=precision)(x)
    return keras.layers.Dense(genres, activation="softmax", name="genres", dtype=FLOAT32)(x)
