"""Reads the inputs and outputs of an ONNX file without ONNX or a runtime: three nested protobuf messages.

Not a parser of graphs: weights and nodes are stepped over. A card is checked by this in services that never load the
model themselves (Triton does). Start at `read_shapes`; field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from services.errors import GenreError

Shape = tuple[int, ...]
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_shapes(path: Path) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Return name -> shape of a model's inputs and of its outputs; an axis without a number is -1.

    Raises:
        GenreError: for a file that is not an ONNX model.
    """
    inputs: dict[str, Shape] = {}
    outputs: dict[str, Shape] = {}
    try:
        graph = _first(memoryview(path.read_bytes()), 7)
        for number, value in _fields(graph):
            if number in (11, 12) and isinstance(value, memoryview):
                name, shape = _value_info(value)
                (inputs if number == 11 else outputs)[name] = shape
    except OSError as error:
        raise GenreError(str(path), f"can't be read ({error.strerror})", "export the model again") from error
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise GenreError(str(path), f"is not an ONNX model ({error})", "export the model again") from error
    return inputs, outputs


def read_versions(path: Path) -> tuple[int, int]:
    """Return a model's version of the standard operator set, and its IR version: what old runtimes can't read.

    Raises:
        GenreError: for a file that is not an ONNX model.
    """
    opset = ir = 0
    try:
        for number, value in _fields(memoryview(path.read_bytes())):
            if number == 1 and isinstance(value, int):
                ir = value
            elif number == 8 and isinstance(value, memoryview):
                entry = dict(_fields(value))
                version = entry.get(2)
                if not entry.get(1) and isinstance(version, int):
                    opset = version
    except (OSError, ValueError, IndexError) as error:
        raise GenreError(str(path), f"can't be read as an ONNX model ({error})", "export the model again") from error
    return opset, ir


def _value_info(message: memoryview) -> tuple[str, Shape]:
    """Read ValueInfoProto: name = 1, type = 2 -> tensor_type = 1 -> shape = 2 -> dim = 1 -> dim_value = 1."""
    name = bytes(_first(message, 1)).decode()
    shape = _first(_first(_first(message, 2), 1), 2)
    axes = [value for number, value in _fields(shape) if number == 1 and isinstance(value, memoryview)]
    return name, tuple(next((v for n, v in _fields(axis) if n == 1 and isinstance(v, int)), -1) for axis in axes)


def _first(message: memoryview, wanted: int) -> memoryview:
    """Return the first embedded message with a field number."""
    for number, value in _fields(message):
        if number == wanted and isinstance(value, memoryview):
            return value
    raise ValueError(f"field {wanted} is missing")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of one protobuf message; the bytes of nested ones are not copied."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(message):
            raise ValueError("it ends too early")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Read one variable-length integer; return it and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number is too long")
