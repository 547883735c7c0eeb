"""VGG16 for the edge: its weights written down as an ONNX graph, as float32 and as int8.

No framework converts anything here, so nothing but the network is in the file. `training/export.py` puts the result
into models/. Start at `float_model`, then `int8_model`; `agreement` says what int8 costs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from training.onnx_graph import Graph
from training.vgg16.network import BANDS, BLOCKS, FRAMES, GREY_LEVELS, HEAD_UNITS, Weights
from training.vgg16.winograd import convolution

OPSET = 13
"""The first with a scale for each channel (int8 needs it); JetPack 4.6 has ONNX Runtime 1.6 and TensorRT 8.2 for it."""
CALIBRATION_BATCH = 16


WINOGRAD_BLOCKS = (3, 4)
"""The first two have too few channels for it, the last too few tiles: plain convolutions take no longer there."""


def float_model(weights: Weights, temperature: float = 1.0, *, winograd: bool = False) -> onnx.ModelProto:
    """Return the whole network: features [batch, 129, 128] to scores [batch, 10], softmax of logits / temperature.

    Args:
        winograd: for a CPU: a fifth cheaper there, 149 MB instead of 61; the same answers but for rounding. A GPU's
            runtime wants plain convolutions, and chooses.
    """
    graph = Graph()
    # ONNX counts channels before height and width, Keras after: kernels and the head's first layer are turned round.
    x = graph.reshape("features", (0, 1, FRAMES, BANDS))
    x = graph.affine(x, np.array(GREY_LEVELS[0]), np.array(GREY_LEVELS[1]), (1, 1, 1, 1))
    height, width = FRAMES, BANDS
    for block, (convolutions, _) in enumerate(BLOCKS, 1):
        for number in range(1, convolutions + 1):
            kernel, bias = weights[f"block{block}_conv{number}"]
            kernel = kernel.transpose(3, 2, 0, 1)
            if winograd and block in WINOGRAD_BLOCKS:
                x = convolution(graph, x, kernel, bias, (height, width))
            else:
                x = graph.add("Conv", x, graph.weight(kernel), graph.weight(bias), kernel_shape=[3, 3], pads=[1] * 4)
            x = graph.add("Relu", x)
        x = graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        height, width = height // 2, width // 2
    x = graph.add("AveragePool", x, kernel_shape=[height, 1])
    x = graph.add("Flatten", x)
    channels = BLOCKS[-1][1]
    kernel, bias = weights["hidden"]
    kernel = kernel.reshape(width, channels, HEAD_UNITS).transpose(1, 0, 2).reshape(-1, HEAD_UNITS)
    x = graph.add("Relu", graph.add("Gemm", x, graph.weight(kernel), graph.weight(bias)))
    kernel, bias = weights["genres"]
    x = graph.add("Gemm", x, graph.weight(kernel / temperature), graph.weight(bias / temperature), name="logits")
    graph.add("Softmax", x, name="scores", axis=1)
    model = graph.model({"features": (FRAMES, BANDS)}, {"scores": (len(bias),)})
    model.opset_import[0].version = OPSET
    onnx.checker.check_model(model, full_check=True)
    return model


class _Windows(CalibrationDataReader):  # type: ignore[misc]
    """Feeds calibration windows, in ranges: all activations of all windows at once would fill the memory."""

    def __init__(self, features: NDArray[np.float32]):
        """Take the windows, shape [n, 129, 128]."""
        self._batches = np.array_split(features, -(-len(features) // CALIBRATION_BATCH))
        self._next, self._end = 0, len(self._batches)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Feed the batches from start_index to before end_index."""
        self._next, self._end = start_index, end_index

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch, None after the last."""
        if self._next >= self._end:
            return None
        self._next += 1
        return {"features": self._batches[self._next - 1]}


def int8_model(model: onnx.ModelProto, calibration: NDArray[np.float32], method: str = "MinMax") -> onnx.ModelProto:
    """Return the network with int8 convolutions (static QDQ, a weight scale for each channel).

    The first convolution and the head stay float: they cost next to nothing, and int8 would cost answers there.

    Args:
        calibration: real windows, shape [n, 129, 128], from which the activations' ranges are taken.
        method: MinMax, Percentile or Entropy, as ONNX Runtime names them.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole, ready, small = (Path(folder) / name for name in ("float.onnx", "ready.onnx", "int8.onnx"))
        onnx.save(model, whole)
        quant_pre_process(whole, ready, skip_symbolic_shape=True)
        nodes = onnx.load(ready).graph.node
        edges = [next(node.name for node in nodes if node.op_type == "Conv")]
        edges += [node.name for node in nodes if node.op_type == "Gemm"]
        quantize_static(
            ready,
            small,
            _Windows(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # Seven bits of eight: without VNNI, x86 adds two products in 16 bits, which 2 x 255 x 127 overflows.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=edges,
            calibrate_method=CalibrationMethod[method],
            op_types_to_quantize=["Conv", "Gemm", "MaxPool", "AveragePool", "Relu"],
            extra_options={"CalibStridedMinMax": 1, "CalibPercentile": 99.99},  # Strided: one batch at a time.
        )
        return onnx.load(small)


def scores(model: onnx.ModelProto, features: NDArray[np.float32], threads: int = 1) -> NDArray[np.float32]:
    """Return a model's scores of windows [n, 129, 128], one window at a time as the service does: shape [n, 10]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    out = [session.run(["scores"], {"features": features[at : at + 1]})[0] for at in range(len(features))]
    return np.concatenate(out)


def agreement(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the share of windows to which two models give the same genre."""
    return float((a.argmax(axis=1) == b.argmax(axis=1)).mean())
