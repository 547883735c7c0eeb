"""The LiteRT form answers as the ONNX file does, or there is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from services.errors import GenreError
from services.inference.card import load_card
from training import litert
from training.export import export
from training.onnx_graph import Graph

pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")
MODELS = Path(__file__).resolve().parents[2] / "models"


def small() -> onnx.ModelProto:
    """Every kind of layer whose axes TensorFlow counts otherwise."""
    random, graph = np.random.default_rng(0), Graph()
    x = graph.reshape("features", [0, 1, 20, 12])
    x = graph.add(
        "Conv", x, graph.weight(random.normal(size=(4, 1, 3, 5))), graph.weight(random.normal(size=4)),
        kernel_shape=[3, 5], pads=[1, 0, 1, 0],
    )  # fmt: skip
    x = graph.affine(graph.add("Relu", x), random.normal(size=4), random.normal(size=4), [1, -1, 1, 1])
    pooled = graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = graph.add("Concat", pooled, graph.add("Sigmoid", pooled), axis=1)
    x = graph.reshape(x, [0, -1])
    x = graph.add("Gemm", x, graph.weight(random.normal(size=(8 * 10 * 4, 10)) / 9), graph.weight(np.zeros(10)))
    graph.add("Softmax", x, name="scores", axis=1)
    return graph.model({"features": [20, 12]}, {"scores": [10]})


def test_each_layer_gives_what_onnx_runtime_gives() -> None:
    import onnxruntime

    model = small()
    x = np.random.default_rng(1).normal(size=(5, 20, 12)).astype(np.float32)
    engine = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    _, _, found = litert.measure(litert.convert(model), x)
    expected = engine.run(["scores"], {"features": x})[0]
    assert np.ptp(expected, axis=0).max() > 0.05  # windows differ, so equal answers say something
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_default_model_is_given_its_litert_form(tmp_path: Path) -> None:
    shutil.copytree(MODELS / "musicnn", tmp_path / "musicnn")
    done = CliRunner().invoke(export, ["--models", str(tmp_path), "--name", "musicnn", "--litert"])
    assert done.exit_code == 0, done.exception
    card = load_card(tmp_path, "musicnn")
    assert card.has("model.tflite") and card.path("model.tflite").read_bytes()[4:8] == b"TFL3"
    (spent,) = (line for line in card.costs if line.form == "LiteRT fp32")
    assert spent.cpu_ms > 0 and (spent.memory_mib or 0) > 0


def test_an_operator_that_is_not_known_is_one_line() -> None:
    graph = Graph()
    graph.add("Softplus", "features", name="scores")
    with pytest.raises(GenreError, match="Softplus is not known"):
        litert.convert(graph.model({"features": [10]}, {"scores": [10]}))


def contents(folder: Path) -> dict[Path, bytes]:
    """Return every file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_form_that_answers_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(MODELS / "musicnn", tmp_path / "musicnn")
    before = contents(tmp_path)
    wrong = (1.0, 1.0, np.full((12, 10), 0.1, np.float32))
    monkeypatch.setattr(litert, "convert", lambda model: b"")
    monkeypatch.setattr(litert, "measure", lambda content, windows: wrong)
    with pytest.raises(GenreError, match="differs by"):
        litert.add(load_card(tmp_path, "musicnn"))
    assert contents(tmp_path) == before
