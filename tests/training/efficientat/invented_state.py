"""A state dict like EfficientAT's mn04, narrow and of random numbers, and its file as PyTorch writes it."""

from __future__ import annotations

import collections
import io
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from training.efficientat.network import STRIDES

WIDTHS = ((4, 4, 4), (4, 8, 8), (8, 8, 8), (8, 8, 8), *[(8, 12, 8)] * 2, (8, 16, 12), *[(12, 16, 12)] * 3,
          (12, 24, 16), (16, 24, 16), (16, 24, 20), *[(20, 32, 20)] * 2)  # fmt: skip
"""Channels in, widened and out of each block."""
KERNELS = (3, 3, 3, 5, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5)
WEIGHED = (3, 4, 5, 10, 11, 12, 13, 14)
LAST, HIDDEN, CLASSES = 40, 48, 527
State = dict[str, NDArray[Any]]


def state(seed: int = 0) -> State:
    random = np.random.default_rng(seed)
    made: State = collections.OrderedDict()

    def convolution(name: str, out: int, into: int, size: int) -> None:
        made[f"{name}.0.weight"] = random.normal(0, (2 / (into * size * size)) ** 0.5, (out, into, size, size))
        for part, value in (("weight", 0.7), ("bias", 0.1), ("running_mean", 0.05), ("running_var", 0.9)):
            made[f"{name}.1.{part}"] = value + 0.1 * random.random(out)
        made[f"{name}.1.num_batches_tracked"] = np.array(7)

    def dense(name: str, out: int, into: int) -> None:
        made[f"{name}.weight"] = random.normal(0, into**-0.5, (out, into))
        made[f"{name}.bias"] = random.normal(0, 0.1, out)

    convolution("features.0", WIDTHS[0][0], 1, 3)
    for number, ((into, wide, out), size) in enumerate(zip(WIDTHS, KERNELS, strict=True)):
        prefix, place = f"features.{number + 1}.block", 0
        if wide != into:
            convolution(f"{prefix}.0", wide, into, 1)
            place = 1
        convolution(f"{prefix}.{place}", wide, 1, size)
        if number in WEIGHED:
            dense(f"{prefix}.{place + 1}.conc_se_layers.0.fc1", 4, wide)
            dense(f"{prefix}.{place + 1}.conc_se_layers.0.fc2", wide, 4)
            place += 1
        convolution(f"{prefix}.{place + 1}", out, wide, 1)
    convolution(f"features.{len(STRIDES) + 1}", LAST, WIDTHS[-1][2], 1)
    dense("classifier.2", HIDDEN, LAST)
    dense("classifier.5", CLASSES, HIDDEN)
    return {name: value.astype(np.int64 if "tracked" in name else np.float32) for name, value in made.items()}


def write(path: Path, tensors: State, also: Any = None) -> Path:
    """Write a file as torch.save does, with the names that PyTorch gives its parts; `also` is put among the tensors."""
    buffer = io.BytesIO()
    names: dict[str, Any] = {"FloatStorage": type("FloatStorage", (), {}), "LongStorage": type("LongStorage", (), {})}
    for kind in names.values():
        kind.__module__ = "torch"

    def _rebuild_tensor_v2() -> None:
        """Stands for PyTorch's function of this name."""

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return obj if isinstance(obj, tuple) and obj and obj[0] == "storage" else None

        def reducer_override(self, obj: Any) -> Any:
            if not isinstance(obj, _Tensor):
                return NotImplemented
            storage = names["LongStorage" if obj.value.dtype == np.int64 else "FloatStorage"]
            shape = obj.value.shape
            strides = tuple(int(np.prod(shape[place + 1 :], dtype=np.int64)) for place in range(len(shape)))
            told = ("storage", storage, obj.key, "cpu", obj.value.size), 0, shape, strides, False, {}
            return _rebuild_tensor_v2, told

    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}
    vars(modules["torch"]).update(names)
    vars(modules["torch._utils"]).update(_rebuild_tensor_v2=_rebuild_tensor_v2)
    content: dict[str, Any] = {name: _Tensor(str(key), value) for key, (name, value) in enumerate(tensors.items())}
    with mock.patch.dict(sys.modules, modules):
        Pickler(buffer, 2).dump(content if also is None else {**content, "also": also})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        for key, value in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{key}", value.tobytes())
    return path


class _Tensor:
    """A tensor that is to be pickled as PyTorch does."""

    def __init__(self, key: str, value: NDArray[Any]) -> None:
        self.key, self.value = key, value
