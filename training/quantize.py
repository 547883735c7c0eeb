"""`genre train quantize`: the widest convolutions of a network that pools right after them, in int8; the rest is
float.

Plain static quantisation of musicnn's loses 5 % of the genres, because the channels' ranges differ; here each channel
is first stretched to the same range, which is undone after the pooling, where there are 59 times fewer numbers. It pays
for the network as published; once pruned (training/prune.py), int8 takes longer than float on a processor without
VNNI. Start at `int8_front`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import helper, numpy_helper

from services.errors import GenreError
from services.inference.card import MODEL_FILE, load_card
from training import cost, folder
from training.calibration import halves
from training.musicnn_graph import Features, branches, ranges, scores

OPSET = 13
"""The first with a scale for each channel."""
ROOM = 0.03
"""Share of a channel's range that is left free above and below what calibration met."""
WEIGHT_LEVELS = 63
"""Weights use seven of their eight bits: without VNNI, x86 adds two products in 16 bits, and 2 x 255 x 127 overflows
without a word: on such a machine 5 % of the genres change, and none elsewhere."""
LEAST_AGREEMENT = 0.985
PRECISION = "int8 front convolutions (QDQ), else fp32"


def int8_front(model: onnx.ModelProto, calibration: Features, count: int = 2) -> onnx.ModelProto:
    """Return the network with its first `count` convolutions that are pooled right away in int8.

    Args:
        model: front branches Conv -> MaxPool -> Slice -> Mul (sign) -> Relu, as training/musicnn.py writes them.
        calibration: real windows, shape [n, frames, bands], from which ranges are taken.

    Raises:
        GenreError: the network has no such branches.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.opset_import[0].version = OPSET
    graph = made.graph
    found = [(chain[0], chain[1], chain[3].input[1]) for chain in branches(graph)][:count]
    if not found:
        raise GenreError("the network", "has no convolution that is pooled right away", "quantise musicnn's")
    entry = found[0][0].input[0]
    low, high = ranges(model, [entry], calibration)[entry]
    step = np.float32((max(high.max(), 0) - min(low.min(), 0)) * (1 + 2 * ROOM) / 255)
    zero = np.uint8(np.clip(round(-min(low.min(), 0) * (1 + ROOM) / step), 0, 255))
    met = ranges(model, [pool.output[0] for _, pool, _ in found], calibration)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    write = _Writer(graph)
    small = write.there_and_back(entry, step, zero)
    replaced: dict[str, list[Any]] = {}
    for convolution, pool, sign in found:
        nodes = _in_int8(write, small, convolution, pool, sign, weights, met[pool.output[0]], step)
        replaced[convolution.output[0]], replaced[pool.output[0]] = [], nodes
    first = next(place for place, node in enumerate(graph.node) if entry in node.input)
    old = list(graph.node)
    del graph.node[:]
    for place, node in enumerate(old):
        if place == first:
            graph.node.extend(write.entry)
        graph.node.extend(replaced.get(node.output[0], [node]))
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.checker.check_model(made, full_check=True)
    return made


def _in_int8(
    write: _Writer, x: str, convolution: Any, pool: Any, sign_name: str, weights: dict[str, Features],
    met: tuple[Features, Features], step: np.float32,
) -> list[Any]:  # fmt: skip
    """Return one branch's nodes: y = (convolution - low) / (high - low) in 0..1, pooled, stretched back.

    After the pooling only sign * y above zero counts (a ReLU follows), so the other side of zero needs no range.
    """
    sign = weights[sign_name].reshape(-1)
    sign = np.concatenate([sign, np.ones(len(met[0]) - len(sign), np.float32)])
    low = np.where(sign > 0, np.maximum(met[0], 0), met[0])
    high = np.maximum(np.where(sign < 0, np.minimum(met[1], 0), met[1]), low + 1e-3)
    room = ROOM * (high - low)
    low, high = np.where(sign > 0, low, low - room), np.where(sign < 0, high, high + room)
    width = (high - low).astype(np.float32)
    kernel = weights[convolution.input[1]] / width[:, None, None, None]
    scales = np.maximum(np.abs(kernel).max(axis=(1, 2, 3)), 1e-9).astype(np.float32) / WEIGHT_LEVELS
    whole = np.rint(kernel / scales[:, None, None, None]).astype(np.int8)
    shift = (weights[convolution.input[2]] - low) / width
    bias = np.clip(np.rint(shift / (scales * step)), -(2**30), 2**30).astype(np.int32)
    nodes: list[Any] = []
    names = [
        write.node(
            nodes,
            "DequantizeLinear",
            [write.keep(values), write.keep(scale), write.keep(np.zeros(len(scale), values.dtype))],
            axis=0,
        )
        for values, scale in ((whole, scales), (bias, scales * step))
    ]
    y = write.node(nodes, "Conv", [x, *names], like=convolution)
    y = write.quantized(nodes, y)
    y = write.node(nodes, "MaxPool", [y], like=pool)
    y = write.quantized(nodes, y)
    y = write.node(nodes, "Mul", [y, write.keep(width.reshape(1, -1, 1, 1))])
    nodes.append(
        helper.make_node("Add", [y, write.keep(low.astype(np.float32).reshape(1, -1, 1, 1))], [pool.output[0]])
    )
    return nodes


class _Writer:
    """Names and constants of the new nodes."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._count = 0
        self.entry: list[Any] = []
        self._unit = self.keep(np.float32(1 / 255)), self.keep(np.uint8(0))

    def keep(self, values: Any) -> str:
        """Keep a constant and return its name."""
        self._count += 1
        name = f"int8_{self._count}"
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, nodes: list[Any], operator: str, inputs: Sequence[str], like: Any = None, **attributes: Any) -> str:
        """Append a node, with the attributes of another one where `like` is given; return its output."""
        self._count += 1
        made = helper.make_node(operator, list(inputs), [f"int8_{self._count}"], **attributes)
        if like is not None:
            made.attribute.extend(like.attribute)
        nodes.append(made)
        return str(made.output[0])

    def quantized(self, nodes: list[Any], x: str) -> str:
        """Append a trip of values in 0..1 through uint8, which tells the engine to compute in it."""
        return self.node(nodes, "DequantizeLinear", [self.node(nodes, "QuantizeLinear", [x, *self._unit]), *self._unit])

    def there_and_back(self, x: str, step: np.float32, zero: np.uint8) -> str:
        """Make the nodes of the common input's trip through uint8; return its output."""
        scale = self.keep(step), self.keep(zero)
        down = self.node(self.entry, "QuantizeLinear", [x, *scale])
        return self.node(self.entry, "DequantizeLinear", [down, *scale])


@click.command()
@click.option("--name", default="musicnn", show_default=True, help="Model to quantise, in place.")
@click.option("--models", type=click.Path(path_type=Path), default=Path("models"), show_default=True)
@click.option(
    "--audio", type=click.Path(path_type=Path), required=True, help="Folder of real clips, one folder a genre."
)
@click.option("--windows", type=click.IntRange(2, 20), default=4, show_default=True, help="Most windows of a clip.")
@click.option("--version", "model_version", required=True, help="Version written into the card.")
def quantize(name: str, models: Path, audio: Path, windows: int, model_version: str) -> None:
    """Replace models/NAME by itself with its widest convolutions in int8.

    Every second clip calibrates, the others tell how often both agree; below 98.5 % nothing is changed. A pruned
    musicnn takes longer so on x86 without VNNI: look at the CPU-ms it prints.

    \b
    Example: genre train quantize --audio gtzan --version 5
    """
    card = load_card(models, name)
    if card.precision != "fp32":
        raise GenreError(name, f"is {card.precision} already", "make it again with 'genre train export' first")
    content = card.path(MODEL_FILE).read_bytes()
    calibration, test = halves(audio, card.recipe, windows)
    small = int8_front(onnx.load_from_string(content), calibration).SerializeToString()
    before, after = scores(content, test), scores(small, test)
    agreement = float((before.argmax(axis=1) == after.argmax(axis=1)).mean())
    if agreement < LEAST_AGREEMENT:
        raise GenreError(name, f"agrees with its fp32 form on {agreement:.1%} of windows only", "leave it in fp32")
    cpu_ms, mib = cost.of(small, card.recipe.shape)
    spent = {
        "form": "ONNX Runtime, int8 front",
        "machine": cost.machine(),
        "cpu_ms": cpu_ms,
        "memory_mib": mib,
        "agreement": round(agreement, 4),
        "agreement_windows": len(test),
        "command": "genre train quantize",
    }
    contents = {f.path: (card.path(f.path).read_bytes(), f.purpose, f.precision) for f in card.files}
    contents[MODEL_FILE] = (small, "answers in the service", PRECISION)
    contents[folder.REFERENCE_FILE] = (content, "the float form: for GPUs, and to compare with", "fp32")
    values = card.model_dump(exclude={"files"})
    values.update(precision=PRECISION, opset=OPSET, costs=[*values["costs"], spent], version=model_version)
    folder.write(models, values, contents)
    click.echo(
        f"{name}: {cpu_ms} CPU-ms a window; {agreement:.2%} of {len(test)} windows get the same genre as in fp32"
    )
