"""The LiteRT (TensorFlow Lite) form of a model, from its float ONNX file: for devices without ONNX Runtime.

Each ONNX node becomes the TensorFlow operation that means the same; TensorFlow only converts here. No service loads
the result: it is for people who put the model elsewhere. Start at `convert`; `add` puts it into the model's folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from services.errors import GenreError
from services.featurizer.features import Featurizer
from services.featurizer.windows import WINDOW
from services.inference.card import INPUT, OUTPUT, Card
from training import cost, folder

LITERT_FILE = "model.tflite"
CLOSE = 1e-4
"""Most that a score may differ from ONNX Runtime's."""
_TO_LAST, _TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
_PLACE = {0: 0, 1: 3, 2: 1, 3: 2, -3: 3, -2: 1, -1: 2}
"""Where an axis of [batch, channel, height, width] stands in [batch, height, width, channel], TensorFlow's order."""

_PROBE = """
import json, sys, time
import numpy as np, psutil
own = psutil.Process()
from ai_edge_litert.interpreter import Interpreter
before = own.memory_info().rss
model = Interpreter(model_path=sys.argv[1], num_threads=1)
model.allocate_tensors()
x, times, found = np.load(sys.argv[2]), [], []
entry, out = model.get_input_details()[0]["index"], model.get_output_details()[0]["index"]
for window in x:
    start = time.process_time()
    model.set_tensor(entry, window[None])
    model.invoke()
    times.append(time.process_time() - start)
    found.append(model.get_tensor(out)[0].tolist())
print(json.dumps([sorted(times)[len(times) // 2] * 1000, (own.memory_info().rss - before) / 2**20, found]))
"""


def convert(model: onnx.ModelProto) -> bytes:
    """Return the LiteRT form of a float model; it takes one window at a time.

    Raises:
        GenreError: for an operator that is not known here.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]

    @tf.function(input_signature=[tf.TensorSpec([1, *shape], tf.float32, name=INPUT)], autograph=False)  # type: ignore[untyped-decorator]
    def run(features: Any) -> Any:
        return _run(tf, model, features)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([run.get_concrete_function()])
    return bytes(converter.convert())


def _run(tf: Any, model: onnx.ModelProto, features: Any) -> Any:
    """Return the scores; values of four axes are kept in TensorFlow's order, so that nothing is turned round twice."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values: dict[str, Any] = {INPUT: features}

    def value(name: str) -> Any:
        if name in values:
            return values[name]
        constant = constants[name]
        return tf.constant(constant.transpose(_TO_LAST) if constant.ndim == 4 else constant)

    for node in model.graph.node:
        options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type not in _OPERATORS:
            raise GenreError("LiteRT", f"the operator {node.op_type} is not known here", "add it to training/litert.py")
        values[node.output[0]] = _OPERATORS[node.op_type](tf, value, constants, list(node.input), options)
    return values[OUTPUT]


Value = Callable[[str], Any]
Constants = dict[str, NDArray[Any]]
Options = dict[str, Any]


def _axis(x: Any, axis: int) -> int:
    return _PLACE[axis] if len(x.shape) == 4 else axis


def _convolution(tf: Any, value: Value, constants: Constants, names: Sequence[str], options: Options) -> Any:
    top, left, bottom, right = options.get("pads", [0] * 4)
    x = tf.pad(value(names[0]), [[0, 0], [top, bottom], [left, right], [0, 0]])
    kernel = constants[names[1]].transpose(2, 3, 1, 0)
    return tf.nn.conv2d(x, kernel, options.get("strides", [1, 1]), "VALID") + constants[names[2]]


def _pool(kind: str) -> Callable[..., Any]:
    def pool(tf: Any, value: Value, constants: Constants, names: Sequence[str], options: Options) -> Any:
        size = options["kernel_shape"]
        return tf.nn.pool(value(names[0]), size, kind, strides=options.get("strides", [1, 1]), padding="VALID")

    return pool


def _whole(name: str) -> Callable[..., Any]:
    def whole(tf: Any, value: Value, constants: Constants, names: Sequence[str], options: Options) -> Any:
        return getattr(tf, name)(value(names[0]), axis=[1, 2], keepdims=True)

    return whole


def _reduce(name: str) -> Callable[..., Any]:
    def reduce(tf: Any, value: Value, constants: Constants, names: Sequence[str], options: Options) -> Any:
        x = value(names[0])
        axes = [_axis(x, axis) for axis in options["axes"]]
        return getattr(tf, name)(x, axis=axes, keepdims=bool(options.get("keepdims", 1)))

    return reduce


def _reshape(tf: Any, value: Value, constants: Constants, names: Sequence[str], options: Options) -> Any:
    x = value(names[0])
    first = tf.transpose(x, _TO_FIRST) if len(x.shape) == 4 else x
    wanted = constants[names[1]].tolist() if len(names) > 1 else [0, -1]
    shape = [int(first.shape[at]) if size == 0 else size for at, size in enumerate(wanted)]
    y = tf.reshape(first, shape)
    return tf.transpose(y, _TO_LAST) if len(shape) == 4 else y


def _slice(tf: Any, value: Value, constants: Constants, names: Sequence[str], options: Options) -> Any:
    x = value(names[0])
    parts = [slice(None)] * len(x.shape)
    for begin, end, axis in zip(*(constants[name].tolist() for name in names[1:4]), strict=True):
        parts[_axis(x, axis)] = slice(begin, end)
    return x[tuple(parts)]


def _pad(tf: Any, value: Value, constants: Constants, names: Sequence[str], options: Options) -> Any:
    x, pads = value(names[0]), constants[names[1]].reshape(2, -1)
    pairs = [[0, 0]] * len(x.shape)
    for axis, (before, after) in enumerate(pads.T.tolist()):
        pairs[_axis(x, axis)] = [before, after]
    return tf.pad(x, pairs)


def _concat(tf: Any, value: Value, constants: Constants, names: Sequence[str], options: Options) -> Any:
    parts = [value(name) for name in names]
    return tf.concat(parts, _axis(parts[0], options["axis"]))


def _gemm(tf: Any, value: Value, constants: Constants, names: Sequence[str], options: Options) -> Any:
    return tf.matmul(value(names[0]), value(names[1]), transpose_b=bool(options.get("transB", 0))) + value(names[2])


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make an operator of a function of tf and the inputs."""
    return lambda tf, value, constants, names, options: function(tf, *map(value, names))


_OPERATORS: dict[str, Callable[..., Any]] = {
    "Conv": _convolution,
    "MaxPool": _pool("MAX"),
    "AveragePool": _pool("AVG"),
    "GlobalMaxPool": _whole("reduce_max"),
    "GlobalAveragePool": _whole("reduce_mean"),
    "ReduceMean": _reduce("reduce_mean"),
    "ReduceMax": _reduce("reduce_max"),
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Slice": _slice,
    "Pad": _pad,
    "Concat": _concat,
    "Gemm": _gemm,
    "MatMul": _plain(lambda tf, a, b: tf.matmul(a, b)),
    "Add": _plain(lambda tf, a, b: a + b),
    "Sub": _plain(lambda tf, a, b: a - b),
    "Mul": _plain(lambda tf, a, b: a * b),
    "Relu": _plain(lambda tf, a: tf.nn.relu(a)),
    "Sigmoid": _plain(lambda tf, a: tf.sigmoid(a)),
    "Sqrt": _plain(lambda tf, a: tf.sqrt(a)),
    "Log": _plain(lambda tf, a: tf.math.log(a)),
    "Softmax": _plain(lambda tf, a: tf.nn.softmax(a)),
}


def measure(content: bytes, windows: NDArray[np.float32]) -> tuple[float, float, NDArray[np.float32]]:
    """Return (median CPU-ms a window with one thread, MiB of memory added, scores), in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        model, x = Path(scratch) / LITERT_FILE, Path(scratch) / "x.npy"
        model.write_bytes(content)
        np.save(x, windows)
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, str(model), str(x)], capture_output=True, text=True, check=True
        )
    cpu_ms, mib, found = json.loads(done.stdout.splitlines()[-1])
    return round(cpu_ms, 3), round(max(0.1, mib), 1), np.array(found, np.float32)


def _beat(count: int) -> NDArray[np.int16]:
    """Return windows of a beat in noise: nothing still, which all scores would be even for."""
    random, time = np.random.default_rng(0), np.arange(WINDOW)
    beat = (np.sin(2 * np.pi * time / 11_025) > 0.5) * random.normal(0, 4_000, (count, WINDOW))
    tone = np.sin(2 * np.pi * random.uniform(0.005, 0.1, (count, 1)) * time)
    return np.asarray(beat + 6_000 * tone * (time % 22_050 < 15_000), np.int16)


def add(card: Card, target: str = "cpu") -> Card:
    """Put the LiteRT form into the model's folder and its cost into the card.

    Raises:
        GenreError: for a model without a float form, or a conversion that answers otherwise than ONNX Runtime does.
    """
    from services.inference.onnx_backend import session

    source = card.float_path()
    if source is None:
        raise GenreError(card.name, f"is {card.precision} and its float form is not here", "make it again first")
    content = convert(onnx.load(source))
    windows = Featurizer(card.recipe).features(_beat(12))
    cpu_ms, mib, found = measure(content, windows)
    engine = session(source)
    expected = np.concatenate([engine.run([OUTPUT], {INPUT: window[None]})[0] for window in windows])
    difference = float(np.abs(found - expected).max())
    if not difference <= CLOSE:
        raise GenreError(card.name, f"its LiteRT form differs by {difference:.1e} in a score", "see training/litert.py")
    spent = {
        "form": "LiteRT fp32",
        "machine": cost.machine(),
        "cpu_ms": cpu_ms,
        "memory_mib": mib,
        "command": f"genre train export --name {card.name} --litert",
    }
    values = card.model_dump(exclude={"files"})
    values["costs"] = [*(line for line in values["costs"] if line["form"] != spent["form"]), spent]
    contents = {f.path: (card.path(f.path).read_bytes(), f.purpose, f.precision) for f in card.files}
    contents[LITERT_FILE] = (content, "for LiteRT, one window at a time", "fp32")
    beside = card.path(folder.REFERENCE_FILE)
    reference = beside.read_bytes() if beside.is_file() and not card.has(folder.REFERENCE_FILE) else None
    return folder.write(card.folder.parent, values, contents, target, reference)
