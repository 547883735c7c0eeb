"""What reading EfficientAT's file promises: its numbers and nothing else, and a network that answers as its own."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from services.errors import GenreError
from tests.shared_data import shared
from tests.training.efficientat.invented_state import CLASSES, HIDDEN, State, state, write
from training.efficientat import network
from training.efficientat.network import LEFT_OUT, SHA256, STRIDES
from training.onnx_graph import Graph


def run(made: network.Network, features: NDArray[np.float32]) -> NDArray[np.float32]:
    graph = Graph()
    shape = (features.shape[1], features.shape[2])
    _, logits = network.append(graph, made, "features", shape)
    graph.add("Identity", logits, name="logits")
    model = graph.model({"features": shape}, {"logits": [len(made.classes[1])]})
    engine = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (value,) = engine.run(None, {"features": features})
    return value


def plainly(values: State, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """The network written down slowly from its paper: [bands, frames], batch normalisation by itself."""
    nothing = np.full((*features.shape[:2], 128 - features.shape[2]), np.log(1e-5))
    x: Any = ((np.concatenate([features, nothing], axis=2) + 4.5) / 5).transpose(0, 2, 1)[:, None]

    def convolution(x: Any, name: str, stride: int = 1, alone: bool = False) -> Any:
        kernel = values[f"{name}.0.weight"].astype(np.float64)
        size = kernel.shape[2]
        x = np.pad(x, ((0, 0), (0, 0), *[(size // 2, size // 2)] * 2))
        seen = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
        y = np.einsum("ncftij,cij->ncft" if alone else "ncftij,ocij->noft", seen, kernel[:, 0] if alone else kernel)
        gamma, beta, mean, variance = (
            values[f"{name}.1.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (y - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    def dense(x: Any, name: str) -> Any:
        return x @ values[f"{name}.weight"].T + values[f"{name}.bias"]

    def swish(x: Any) -> Any:
        return x * np.clip(x / 6 + 0.5, 0, 1)

    x = swish(convolution(x, "features.0", 2))
    for number, stride in enumerate(STRIDES):
        before, prefix, place = x, f"features.{number + 1}.block", 0
        active = swish if number >= 6 else lambda value: np.maximum(value, 0)
        if values[f"{prefix}.0.0.weight"].shape[2] == 1:
            x, place = active(convolution(x, f"{prefix}.0")), 1
        x = active(convolution(x, f"{prefix}.{place}", stride, alone=True))
        if f"{prefix}.{place + 1}.conc_se_layers.0.fc1.weight" in values:
            inside = f"{prefix}.{place + 1}.conc_se_layers.0"
            weights = dense(np.maximum(dense(x.mean(axis=(2, 3)), f"{inside}.fc1"), 0), f"{inside}.fc2")
            x, place = x / (1 + np.exp(-weights[:, :, None, None])), place + 1
        x = convolution(x, f"{prefix}.{place + 1}")
        x = x + before if stride == 1 and x.shape == before.shape else x
    x = swish(convolution(x, f"features.{len(STRIDES) + 1}")).mean(axis=(2, 3))
    return np.delete(dense(swish(dense(x, "classifier.2")), "classifier.5"), LEFT_OUT, axis=1)


def test_the_onnx_network_answers_as_the_one_written_down_plainly() -> None:
    values = state()
    features = np.random.default_rng(1).normal(-5, 3, (2, 40, 32)).astype(np.float32)
    made = network.network_of(values)
    assert made.hidden[0].shape[0] == HIDDEN and len(made.classes[1]) == CLASSES - len(LEFT_OUT)
    np.testing.assert_allclose(run(made, features), plainly(values, features), atol=1e-4, rtol=1e-3)


def test_a_file_of_pytorchs_is_read_without_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "mn.pt", state())
    monkeypatch.setattr(network, "SHA256", _digest(path))
    made, plain = network.read(path), network.network_of(state())
    np.testing.assert_array_equal(made.blocks[4].around[0], plain.blocks[4].around[0])
    np.testing.assert_array_equal(made.classes[0], plain.classes[0])


def test_a_pickle_that_asks_for_more_than_numbers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "mn.pt", state(), also=os.getcwd)
    monkeypatch.setattr(network, "SHA256", _digest(path))
    with pytest.raises(GenreError, match=r"it asks for posix\.getcwd"):
        network.read(path)


@pytest.mark.parametrize("damage", ["another file", "a layer is missing", "no archive"])
def test_a_damaged_file_is_one_clear_line(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = state()
    if damage == "a layer is missing":
        del values["features.7.block.0.0.weight"]
    path = write(tmp_path / "mn.pt", values)
    if damage == "no archive":
        path.write_bytes(b"PK")
    if damage != "another file":
        monkeypatch.setattr(network, "SHA256", _digest(path))
    with pytest.raises(GenreError, match=r"mn\.pt.*give mn04"):
        network.read(path)


def test_the_real_file_is_the_one_that_is_meant() -> None:
    made = network.read(shared("weights", "mn04_as_mAP_432.pt"))
    assert len(SHA256) == 64 and len(made.classes[1]) == 521
    silence = np.full((1, network.FRAMES, network.BANDS), np.log(1e-5), np.float32)
    logits = run(made, silence)[0]
    assert logits.argmax() == 494, "AudioSet's class Silence"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
