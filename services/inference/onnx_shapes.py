"""Reads the inputs and outputs of an ONNX file without ONNX or a runtime: three nested protobuf messages.

Not a parser of graphs: weights and nodes are stepped over and never read, for they can be 100 MB. A card is checked by
this in services that never load the model themselves (Triton does). Start at `read_shapes`; field numbers are those of
onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from services.errors import GenreError

Shape = tuple[int, ...]
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_NAME = 65_536


def read_shapes(path: Path) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Return name -> shape of a model's inputs and of its outputs; an axis without a number is -1.

    Raises:
        GenreError: for a file that is not an ONNX model.
    """
    inputs: dict[str, Shape] = {}
    outputs: dict[str, Shape] = {}
    try:
        with path.open("rb") as file:
            graph = _first(file, _whole(file), 7)
            for number, value in _fields(file, graph):
                if number in (11, 12) and isinstance(value, range):
                    name, shape = _value_info(file, value)
                    (inputs if number == 11 else outputs)[name] = shape
    except OSError as error:
        raise GenreError(str(path), f"can't be read ({error.strerror})", "export the model again") from error
    except (ValueError, IndexError) as error:  # text that is not UTF-8 among them
        raise GenreError(str(path), f"is not an ONNX model ({error})", "export the model again") from error
    return inputs, outputs


def read_versions(path: Path) -> tuple[int, int]:
    """Return a model's version of the standard operator set, and its IR version: what old runtimes can't read.

    Raises:
        GenreError: for a file that is not an ONNX model.
    """
    opset = ir = 0
    try:
        with path.open("rb") as file:
            for number, value in _fields(file, _whole(file)):
                if number == 1 and isinstance(value, int):
                    ir = value
                elif number == 8 and isinstance(value, range):
                    entry = dict(_fields(file, value))
                    version = entry.get(2)
                    if not entry.get(1) and isinstance(version, int):
                        opset = version
    except (OSError, ValueError, IndexError) as error:
        raise GenreError(str(path), f"can't be read as an ONNX model ({error})", "export the model again") from error
    return opset, ir


def _value_info(file: BinaryIO, message: range) -> tuple[str, Shape]:
    """Read ValueInfoProto: name = 1, type = 2 -> tensor_type = 1 -> shape = 2 -> dim = 1 -> dim_value = 1."""
    place = _first(file, message, 1)
    if len(place) > _MOST_NAME:
        raise ValueError("a name is too long")
    file.seek(place.start)
    name = file.read(len(place)).decode()
    shape = _first(file, _first(file, _first(file, message, 2), 1), 2)
    axes = [value for number, value in _fields(file, shape) if number == 1 and isinstance(value, range)]
    return name, tuple(next((v for n, v in _fields(file, axis) if n == 1 and isinstance(v, int)), -1) for axis in axes)


def _whole(file: BinaryIO) -> range:
    """Return the place of all of a file."""
    return range(file.seek(0, 2))


def _first(file: BinaryIO, message: range, wanted: int) -> range:
    """Return the place of the first embedded message with a field number."""
    for number, value in _fields(file, message):
        if number == wanted and isinstance(value, range):
            return value
    raise ValueError(f"field {wanted} is missing")


def _fields(file: BinaryIO, message: range) -> Iterator[tuple[int, int | range]]:
    """Yield (field number, value) of the protobuf message at a place of a file: a number, or the place of its bytes."""
    at = message.start
    while at < message.stop:
        file.seek(at)
        head = file.read(20)  # key and size, of ten bytes each at most
        key, used = _varint(head, 0)
        kind, size = key & 7, 0
        value: int | range
        if kind == _VARINT:
            value, used = _varint(head, used)
        elif kind == _BYTES:
            size, used = _varint(head, used)
            value = range(at + used, at + used + size)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            value = range(at + used, at + used + size)
        else:
            raise ValueError(f"wire type {kind}")
        at += used + size
        if at > message.stop:
            raise ValueError("it ends too early")
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read one variable-length integer; return it and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number is too long")
