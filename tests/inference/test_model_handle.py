"""A model is exchanged while the service runs: whole, in either engine, and never for one that does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from services.contract.recipe import load_recipe
from services.errors import GenreError
from services.inference.model_handle import ModelHandle
from services.settings.schema import Inference
from tests.broker.mosquitto import free_port, wait_for
from training import folder
from training.onnx_graph import Graph

SHIPPED = Path(__file__).resolve().parents[2] / "models"
FEATURES = {"features": np.zeros((1, 187, 96), np.float32)}


def always(label: int) -> bytes:
    """A model that is sure of one label whatever it hears."""
    graph = Graph()
    column = graph.reshape(graph.add("ReduceMean", "features", axes=[1, 2], keepdims=0), [-1, 1])
    logits = graph.add("Gemm", column, graph.weight(np.zeros((1, 10))), graph.weight(9.0 * np.eye(10)[label]))
    graph.add("Softmax", logits, name="scores", axis=1)
    content: bytes = graph.model({"features": [187, 96]}, {"scores": [10]}).SerializeToString()
    return content


def write(models: Path, version: str, label: int, **changes: Any) -> None:
    from services.inference.card import load_card

    card = load_card(SHIPPED, "vgg16").model_dump(exclude={"files"})
    recipe = load_recipe("musicnn")
    own = {"recipe": recipe, "recipe_digest": recipe.digest}
    values = {**card, **own, "name": "tiny", "version": version, "precision": "fp32", **changes}
    folder.write(models, values, {"1/model.onnx": (always(label), "answers in the service", "fp32")})


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write(tmp_path / "models", "1", 3)
    return tmp_path / "models"


def answer(served: ModelHandle) -> tuple[str, int]:
    card, engine = served.now
    scores: NDArray[np.float32] = engine.answer(FEATURES).scores
    return card.version, int(scores.argmax())


def test_a_new_version_answers_once_its_folder_is_there(models: Path) -> None:
    served = ModelHandle(Inference(model="tiny", backend="onnx", models_dir=models))
    assert not served.refresh() and answer(served) == ("1", 3)
    write(models, "2", 7)
    assert served.refresh() and answer(served) == ("2", 7)
    assert not served.refresh()


def test_what_is_in_hand_ends_with_the_engine_it_began_with(models: Path) -> None:
    served = ModelHandle(Inference(model="tiny", backend="onnx", models_dir=models))
    card, engine = served.now
    write(models, "2", 7)
    served.refresh()
    assert (card.version, int(engine.answer(FEATURES).scores.argmax())) == ("1", 3)


@pytest.mark.parametrize("damage", ["half copied", "other labels", "gone"])
def test_a_folder_that_does_not_fit_is_told_of_once_and_the_old_model_goes_on(
    models: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    served = ModelHandle(Inference(model="tiny", backend="onnx", models_dir=models))
    if damage == "half copied":
        (models / "tiny" / "1" / "model.onnx").write_bytes(always(7)[:100])
    elif damage == "other labels":
        write(models, "2", 7, labels=tuple("abcdefghij"))
    else:
        shutil.rmtree(models / "tiny")
    for _ in range(3):
        assert not served.refresh() and answer(served) == ("1", 3)
    told = [line for line in caplog.messages if "version 1 goes on answering" in line]
    assert len(told) == (0 if damage == "gone" else 1)  # A folder on its way back is nothing to tell of.
    write(models, "3", 5)
    assert served.refresh() and answer(served) == ("3", 5)


def test_a_running_triton_takes_the_new_version_too(models: Path, tmp_path: Path) -> None:
    from services.supervisor import triton_server
    from services.supervisor.processes import ProcessGroup

    try:
        bundle = triton_server.find()
    except GenreError as error:
        pytest.skip(str(error))
    ports = (free_port(), free_port(), free_port())
    group = ProcessGroup()
    group.add(triton_server.child(bundle, models, "tiny", tmp_path, ports, tmp_path / "log"))
    try:
        wait_for(lambda: triton_server._answers(ports[0], "health/live"), "Triton is live", 60)
        url = f"127.0.0.1:{ports[1]}"
        served = ModelHandle(Inference(model="tiny", backend="triton", models_dir=models, triton_url=url))
        assert answer(served) == ("1", 3)
        write(models, "2", 7)
        assert served.refresh() and answer(served) == ("2", 7)
    finally:
        group.end()
