"""The repositories for devices: parsed with Triton's own messages, and refused where a model is too new."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from services.errors import GenreError
from services.featurizer.features import Featurizer
from services.inference import triton_repository
from services.inference.answer import outputs_of
from services.inference.card import load_card, model_names
from services.inference.onnx_backend import OnnxBackend
from services.inference.triton_backend import TritonBackend
from services.settings import schema
from services.supervisor import triton_server
from services.supervisor.processes import ProcessGroup
from tests.broker.mosquitto import free_port, wait_for
from tests.inference.hearing_model import hearing_model

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
    text = triton_repository.configuration(card, repository.DEVICES[device])
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert {each.name: tuple(each.dims) for each in config.input} == card.recipe.shapes
    assert {each.name: tuple(each.dims) for each in config.output} == {
        name: (size,) for name, size in outputs_of(card).items()
    }
    assert all(config.model_warmup[0].inputs[view].zero_data for view in card.recipe.shapes)
    assert (config.platform or config.backend) == repository.DEVICES[device].platform
    if config.platform == "onnxruntime_onnx":
        (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
        assert accelerator.parameters["precision_mode"] == card.gpu_precision.upper()


@pytest.mark.parametrize("name", model_names(ROOT / "models"))
def test_every_model_is_old_enough_for_a_tx2(name: str) -> None:
    triton_repository.check_age(load_card(ROOT / "models", name), repository.DEVICES["tx2"])


def test_a_model_that_is_too_new_is_refused() -> None:
    card = load_card(ROOT / "models", "vgg16").model_copy(update={"opset": 21})
    with pytest.raises(GenreError, match="opset 21"):
        triton_repository.check_age(card, repository.DEVICES["tx2"])


def test_a_repository_for_a_tx2_holds_the_float_form_of_each_model_that_has_one(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    folders = repository.write(ROOT / "models", tmp_path, repository.DEVICES["tx2"])
    cards = [load_card(ROOT / "models", name) for name in model_names(ROOT / "models")]
    assert [folder.name for folder in folders] == [card.name for card in cards if card.float_path()]
    assert schema.Inference().model in [folder.name for folder in folders]
    for folder in folders:
        model = onnx.load(folder / "1" / "model.onnx")
        assert not [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
        assert (folder / "config.pbtxt").read_text().startswith(f'name: "{folder.name}"')


def test_a_plan_needs_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_repository.shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(GenreError, match="trtexec: is not on this machine"):
        repository.write(ROOT / "models", tmp_path, repository.DEVICES["jetpack5"])


def test_a_repository_without_a_gpu_holds_the_deployed_model_and_its_card(tmp_path: Path) -> None:
    folder = repository.write(ROOT / "models", tmp_path, repository.DEVICES["cpu"])[0]
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert names == ["1/model.onnx", "1/model.py", "card.json", "config.pbtxt"]
    assert not any(path.is_symlink() for path in folder.rglob("*"))


@pytest.mark.parametrize("shipped", ["", schema.Inference().model, "genre-sounds-fast"])
def test_a_real_triton_answers_as_onnx_runtime_does(tmp_path: Path, shipped: str) -> None:
    try:
        bundle = triton_server.find()
    except GenreError as error:
        pytest.skip(str(error))
    models = ROOT / "models" if shipped else tmp_path / "models"
    card = load_card(models, shipped) if shipped else hearing_model(models)
    ports = (free_port(), free_port(), free_port())
    child = triton_server.child(bundle, models, card.name, tmp_path, ports, tmp_path / "log")
    group = ProcessGroup()
    group.add(child)
    noise = np.random.default_rng(1).normal(0, 3_000, (3, 66_000)).astype(np.int16)
    views = Featurizer(card.recipe).views(noise)
    remote = TritonBackend(card, f"127.0.0.1:{ports[1]}", 10.0)
    try:
        remote.wait_ready(60)
        theirs = remote.answer(views)
        with pytest.raises(ValueError, match="are not"):
            remote.answer(dict(list(views.items())[1:]))
    finally:
        remote.close()
        group.end()
    ours = OnnxBackend(card).answer(views)
    for name in outputs_of(card):
        assert np.abs(getattr(theirs, name) - getattr(ours, name)).max() < 1e-5, name


def test_a_triton_whose_model_lacks_a_view_says_so(tmp_path: Path) -> None:
    try:
        bundle = triton_server.find()
    except GenreError as error:
        pytest.skip(str(error))
    card = hearing_model(tmp_path / "models", views=["mel96"])
    ports = (free_port(), free_port(), free_port())
    group = ProcessGroup()
    group.add(triton_server.child(bundle, tmp_path / "models", card.name, tmp_path, ports, tmp_path / "log"))
    try:
        wait_for(lambda: "card.json says" in (tmp_path / "log").read_text(), "Triton says what is wrong", 60)
    finally:
        group.end()
    assert "mel64" in (tmp_path / "log").read_text()
