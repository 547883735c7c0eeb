"""The repositories for devices: parsed with Triton's own messages, and refused where a model is too new."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from services.errors import GenreError
from services.inference.card import load_card, model_names

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"triton_{name}", ROOT / "deploy" / "triton" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


repository = script("repository")


@pytest.mark.parametrize("device", list(repository.DEVICES))
@pytest.mark.parametrize("name", model_names(ROOT / "models"))
def test_a_configuration_is_what_triton_reads(device: str, name: str) -> None:
    card = load_card(ROOT / "models", name)
    text = repository.configuration(card, repository.DEVICES[device])
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert list(config.input[0].dims) == list(card.recipe.shape)
    assert list(config.output[0].dims) == [len(card.labels)]
    assert config.model_warmup[0].inputs["features"].zero_data
    assert (config.platform or config.backend) == repository.DEVICES[device].platform
    if config.platform == "onnxruntime_onnx":
        (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
        assert accelerator.parameters["precision_mode"] == card.gpu_precision.upper()


@pytest.mark.parametrize("name", model_names(ROOT / "models"))
def test_every_model_is_old_enough_for_a_tx2(name: str) -> None:
    repository.check_age(load_card(ROOT / "models", name).path(), repository.DEVICES["tx2"])


def test_a_model_that_is_too_new_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "g", [], [])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    onnx.save(model, tmp_path / "new.onnx")
    with pytest.raises(GenreError, match="opset 21"):
        repository.check_age(tmp_path / "new.onnx", repository.DEVICES["tx2"])


def test_a_repository_for_a_tx2_holds_the_float_form_of_each_model_that_has_one(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    folders = repository.write(ROOT / "models", tmp_path, repository.DEVICES["tx2"])
    cards = [load_card(ROOT / "models", name) for name in model_names(ROOT / "models")]
    assert [folder.name for folder in folders] == [card.name for card in cards if card.float_path()]
    assert "musicnn" in [folder.name for folder in folders]
    for folder in folders:
        model = onnx.load(folder / "1" / "model.onnx")
        assert not [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
        assert (folder / "config.pbtxt").read_text().startswith(f'name: "{folder.name}"')


def test_a_plan_needs_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository.shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(GenreError, match="trtexec: is not on this machine"):
        repository.write(ROOT / "models", tmp_path, repository.DEVICES["jetpack5"])


def test_a_real_triton_answers_as_the_reference_does(tmp_path: Path) -> None:
    from services.supervisor import triton_server
    from services.supervisor.processes import Household
    from tests.broker.mosquitto import free_port, wait_for

    try:
        bundle = triton_server.find()
    except GenreError as error:
        pytest.skip(str(error))
    ports = (free_port(), free_port(), free_port())
    child = triton_server.child(bundle, ROOT / "models", "musicnn", tmp_path, ports, tmp_path / "log")
    house = Household()
    house.add(child)
    try:
        wait_for(lambda: triton_server.is_live(ports[0]), "Triton is live", 60)
        card = load_card(ROOT / "models", "musicnn")
        difference, agreement = script("check").compare(card, f"127.0.0.1:{ports[1]}", 10.0, 24)
    finally:
        house.end()
    assert difference <= 1e-4
    assert agreement == 1.0
