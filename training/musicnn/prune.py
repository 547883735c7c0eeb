"""Leaves the filters out of a musicnn's front that give one value whatever is heard.

497 of MSD_musicnn's 561 front filters are of no use: their largest value over the bands never passes the ReLU, or the
normalisation behind it multiplies by next to nothing. Each is a constant, so the layers that read them can know it
beforehand, and the answers stay the same (to 4e-5 in scores) for a sixth of the time. Start at `without_constants`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from services.errors import GenreError
from training.musicnn.graph import Features, branches, ranges

LEAST_RANGE = 1e-3
"""A filter that moves less than this is constant. Of MSD_musicnn's, the last of these moves 2e-4, the next one 0.2."""
BLOCK = 8
"""Channels are filled up to a multiple of this, ONNX Runtime's block on AVX2 and NEON: else it reorders each layer."""
Numbers = NDArray[np.float64]


def without_constants(model: onnx.ModelProto, windows: Features) -> tuple[onnx.ModelProto, int, int]:
    """Return the network without the filters that `windows` do not move, and how many were kept of how many.

    One filter is added that always gives 1: it carries what the constant ones gave to the first middle layer, whose
    zero padding at a window's two ends keeps that from being a plain bias.

    Args:
        model: a float musicnn as training/musicnn/network.py writes it.
        windows: features of real and of odd sounds, [n, frames, bands].

    Raises:
        GenreError: the network is no such musicnn.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    chains = branches(made.graph)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    pad, middle, pooled_scale, pooled_shift, dense = _readers(made.graph, chains)
    low, high = ranges(model, [pad.input[0]], windows)[pad.input[0]]
    kept, constant = high - low > LEAST_RANGE, (high.astype(np.float64) + low) / 2
    first, places = 0, []
    for chain in chains:
        size = weights[chain[-1].input[1]].size
        rows = np.flatnonzero(kept[first : first + size])
        _keep(weights, chain, rows, one_more=chain is chains[-1])
        places.append(first + rows)
        first += size
    used, gone = np.concatenate(places), np.flatnonzero(~kept)
    _first_middle_layer(weights, pad, middle, used, gone, constant)
    _dense_layer(weights, (pooled_scale, pooled_shift, dense), used, gone, constant)
    for tensor in made.graph.initializer:
        value = weights[tensor.name]
        dtype = np.int64 if value.dtype == np.int64 else np.float32
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, dtype), tensor.name))
    onnx.checker.check_model(made, full_check=True)
    return made, len(used), len(kept)


def _readers(graph: Any, chains: list[list[Any]]) -> tuple[Any, ...]:
    """Return the nodes that read the filters: Pad and Conv of the middle, scale, shift and Gemm behind the pooling."""
    made = {node.output[0]: node for node in graph.node}
    after = {name: node for node in graph.node for name in node.input}
    try:
        joined = next(node for node in graph.node if chains[-1][-1].output[0] in node.input)
        pad = next(node for node in graph.node if node.op_type == "Pad" and node.input[0] == joined.output[0])
        dense = next(node for node in graph.node if node.op_type == "Gemm")
        shift = made[dense.input[0]]
        found = [pad, after[pad.output[0]], made[shift.input[0]], shift, dense]
    except (IndexError, StopIteration, KeyError):
        found = []
    if [node.op_type for node in found] != ["Pad", "Conv", "Mul", "Add", "Gemm"]:
        raise GenreError("the network", "is not musicnn's float form", "take the one that 'genre train export' writes")
    return tuple(found)


def _keep(weights: dict[str, Any], chain: list[Any], rows: NDArray[np.intp], one_more: bool) -> None:
    """Cut one branch down to some of its filters; `one_more` adds the one that always gives 1."""
    convolution, _, cut_off, sign, _, scale, shift = chain
    kernel, bias = (weights[name][rows] for name in convolution.input[1:3])
    others = [weights[node.input[1]].reshape(-1)[rows] for node in (sign, scale, shift)]
    if one_more:
        kernel = np.concatenate([kernel, np.zeros_like(kernel[:1])]) if len(kernel) else kernel
        bias = np.append(bias, 1)
        others = [np.append(values, value) for values, value in zip(others, (1, 1, 0), strict=True)]
    more = -len(bias) % BLOCK
    weights[convolution.input[1]] = np.pad(kernel, ((0, more), (0, 0), (0, 0), (0, 0)))
    weights[convolution.input[2]] = np.pad(bias, (0, more))
    weights[cut_off.input[2]] = np.array([len(bias)], np.int64)
    for node, values in zip((sign, scale, shift), others, strict=True):
        weights[node.input[1]] = values.reshape(1, -1, 1, 1)


def _first_middle_layer(
    weights: dict[str, Any], pad: Any, middle: Any, used: NDArray[np.intp], gone: NDArray[np.intp], constant: Numbers
) -> None:
    """Let the first middle layer read the filters that are left, and the constants from the one that gives 1."""
    kernel = weights[middle.input[1]].astype(np.float64)
    carried = (kernel[:, gone] * constant[gone][:, None, None]).sum(axis=1, keepdims=True)
    kernel = np.concatenate([kernel[:, used], carried], axis=1)
    more = -kernel.shape[1] % BLOCK
    weights[middle.input[1]] = np.pad(kernel, ((0, 0), (0, more), (0, 0), (0, 0)))
    weights[pad.input[1]] = np.array([0, 0, 0, 0, 0, more, 0, 0], np.int64)


def _dense_layer(
    weights: dict[str, Any], nodes: tuple[Any, Any, Any], used: NDArray[np.intp], gone: NDArray[np.intp],
    constant: Numbers,
) -> None:  # fmt: skip
    """Let the dense layer read what is left; musicnn's order is the maximum and the mean of each channel in turn."""
    scale, shift, dense = (node.input[1] for node in nodes)
    bias = nodes[2].input[2]
    before = {name: weights[name].astype(np.float64) for name in (scale, shift, dense)}
    channels = before[dense].shape[0] // 2
    behind = np.arange(len(used) + len(gone), channels)
    both = [2 * gone, 2 * gone + 1]
    known = sum(
        (constant[gone] * before[scale].reshape(-1)[rows] + before[shift].reshape(-1)[rows]) @ before[dense][rows]
        for rows in both
    )
    rows = (2 * np.concatenate([used, behind])[:, None] + [0, 1]).reshape(-1)
    place = 2 * len(used)  # of the filter that gives 1, which the constants of `known` leave without a say here
    weights[scale] = np.insert(before[scale].reshape(-1)[rows], place, [1, 1]).reshape(1, -1)
    weights[shift] = np.insert(before[shift].reshape(-1)[rows], place, [0, 0]).reshape(1, -1)
    weights[dense] = np.insert(before[dense][rows], place, np.zeros((2, before[dense].shape[1])), axis=0)
    weights[bias] = weights[bias] + known


def odd_sounds(shape: tuple[int, int]) -> Features:
    """Return features of what music hardly is: silence, noise, full level, single bands, single beats, [n, *shape]."""
    random = np.random.default_rng(0)
    made = [np.zeros(shape), np.full(shape, 4.0), np.full(shape, 8.0), random.random(shape) * 8, random.random(shape)]
    for band in range(0, shape[1], 6):
        made.append(np.zeros(shape))
        made[-1][:, band : band + 2] = 7
    for frame in range(0, shape[0], 20):
        made += [np.zeros(shape), np.full(shape, 6.0)]
        made[-2][frame : frame + 3], made[-1][frame : frame + 9] = 7, 0
    return np.array(made, np.float32)
