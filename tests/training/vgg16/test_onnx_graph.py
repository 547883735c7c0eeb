"""The edge form of VGG16 answers as Keras does, and its int8 form nearly always the same."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from services.errors import GenreError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
keras = pytest.importorskip("keras")

from services.inference import triton_repository  # noqa: E402
from services.inference.card import load_card  # noqa: E402
from training import cost  # noqa: E402
from training.data.gtzan import GENRES  # noqa: E402
from training.vgg16 import export, network, onnx_graph  # noqa: E402

N = 24
THIN = ((2, 8), (1, 8), (2, 16), (1, 16), (1, 16))
"""VGG16's blocks with fewer filters: the same graph, at a hundredth of the work."""
CONVOLUTIONS = sum(count for count, _ in THIN)


@pytest.fixture(scope="module", autouse=True)
def thin_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (network, onnx_graph):
            patch.setattr(module, "BLOCKS", THIN)
        yield


@pytest.fixture(scope="module")
def model(thin_blocks: None) -> keras.Model:
    keras.utils.set_random_seed(1)
    made = network.network()
    # Random weights of this depth give nearly one answer; a louder last layer tells windows apart.
    kernel, bias = made.get_layer("genres").get_weights()
    made.get_layer("genres").set_weights([kernel * 30, bias + np.linspace(-1, 1, 10, dtype=np.float32)])
    return made


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    rng = np.random.default_rng(1)
    shape = rng.uniform(-1, 1, (N, 1, 128)) + rng.uniform(-1, 1, (N, 129, 1)) + rng.normal(0, 0.3, (N, 129, 128))
    return np.clip(-40 + 20 * shape, -80, 0).astype(np.float32)


def test_the_onnx_graph_gives_what_keras_gives(model: keras.Model, features: np.ndarray) -> None:
    expected = model.predict(features[..., None], verbose=0)
    model = onnx_graph.float_model(network.read_weights(model))
    assert model.opset_import[0].version <= 13
    np.testing.assert_allclose(onnx_graph.scores(model, features), expected, rtol=1e-3, atol=1e-5)


def test_winograds_convolutions_answer_as_plain_ones_do(model: keras.Model, features: np.ndarray) -> None:
    weights = network.read_weights(model)
    plain = onnx_graph.scores(onnx_graph.float_model(weights), features)
    fewer = onnx_graph.float_model(weights, winograd=True)
    assert fewer.opset_import[0].version <= 13
    np.testing.assert_allclose(onnx_graph.scores(fewer, features), plain, rtol=1e-3, atol=1e-5)


def test_temperature_divides_the_logits(model: keras.Model, features: np.ndarray) -> None:
    weights = network.read_weights(model)
    plain = onnx_graph.scores(onnx_graph.float_model(weights), features[:4])
    softer = onnx_graph.scores(onnx_graph.float_model(weights, 2.0), features[:4])
    expected = np.sqrt(plain) / np.sqrt(plain).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softer, expected, rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="module")
def reproduced(model: keras.Model, features: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `genre train reproduce` leaves it, with the network's own answers as labels."""
    folder = tmp_path_factory.mktemp("reproduce")
    (folder / "work" / "artist").mkdir(parents=True)
    model.save(folder / "vgg16-artist.keras")
    features.tofile(folder / "work" / "features.f32")
    labels = model.predict(features[..., None], verbose=0).argmax(axis=1)
    split = {"train": np.arange(16), "valid": np.arange(16, N), "labels": labels, "clip": np.arange(N) // 2}
    np.savez(folder / "work" / "artist" / "windows.npz", **split)
    settings = dict.fromkeys(("train_blocks", "learning_rate", "decay", "momentum", "batch", "seed"), 1)
    result = {
        "whole_set": False,
        "data": {"shape": [N, *network.INPUT], "features": "work/features.f32"},
        "settings": {**settings, "parameters": 15_000_000},
        "protocols": {"artist": {"protocol": "test", "n_train_windows": 16, "history": [], "seconds": 1.0}},
    }
    (folder / "reproduce.json").write_text(json.dumps(result))
    return folder


def convolutions(path: Path) -> dict[int, int]:
    """Count the kernels of an ONNX file by their element type."""
    return dict(
        Counter(
            tensor.data_type
            for tensor in onnx.load(path).graph.initializer
            if len(tensor.dims) == 4 and max(tensor.dims) > 1
        )
    )


def test_the_export_is_an_int8_model_folder_that_its_card_describes(
    reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LEAST_AGREEMENT", 0.5)  # A random network's answers are close to each other.
    arguments = ["--reproduced", str(reproduced), "--models", str(tmp_path), "--calibration", "16"]
    done = CliRunner().invoke(export.export_vgg16, arguments)
    assert done.exit_code == 0, done.exception
    card = load_card(tmp_path, "vgg16")
    assert card.labels == GENRES and card.recipe.shape == (129, 128) and card.opset <= 13
    int8, fp32 = card.costs
    assert int8.agreement is not None and int8.agreement_windows == 8 and fp32.agreement is None
    assert {line.precision for line in card.evaluations} == {"int8", "fp32"}
    # Measured again by the command that the card names, what else is known of a form stays.
    assert {line.command for line in card.costs} == {"genre train cost --model vgg16"}
    done = CliRunner().invoke(cost.cost, ["--model", "vgg16", "--models", str(tmp_path), "--write"])
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 2, done.exception
    card = load_card(tmp_path, "vgg16")
    assert [(line.form, line.agreement) for line in card.costs] == [(int8.form, int8.agreement), (fp32.form, None)]
    # By type, not by size: a network this thin weighs less than what int8 adds to its graph.
    assert convolutions(tmp_path / "vgg16" / "fp32.onnx") == {onnx.TensorProto.FLOAT: CONVOLUTIONS}
    assert convolutions(card.path()) == {onnx.TensorProto.FLOAT: 1, onnx.TensorProto.INT8: CONVOLUTIONS - 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vgg16"]


def test_float32_for_a_cpu_is_winograds_and_for_a_gpu_plain(reproduced: Path, tmp_path: Path) -> None:
    found = export.read(reproduced)
    card = export.write(found, tmp_path, "vgg16", "1", 16, precision="fp32")
    operators = Counter(node.op_type for node in onnx.load(card.path()).graph.node)
    plain = onnx.load(tmp_path / "vgg16" / "fp32.onnx").graph.node
    assert card.precision == "fp32 Winograd" and card.costs[0].agreement == 1
    assert operators["DepthToSpace"] == operators["MatMul"] == THIN[2][0] + THIN[3][0]
    assert not any(node.op_type == "DepthToSpace" for node in plain)
    folder = triton_repository.lay_out(card, tmp_path / "repository", triton_repository.DEVICES["jetpack6"])
    assert folder is not None
    assert (folder / "1" / "model.onnx").read_bytes() == (card.folder / "fp32.onnx").read_bytes()


def test_int8_that_disagrees_is_refused_and_nothing_is_written(
    reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LEAST_AGREEMENT", 1.1)
    with pytest.raises(GenreError, match=r"int8 gives another genre than float32 in \d of 8 windows.*--precision fp32"):
        export.write(export.read(reproduced), tmp_path, "vgg16", "1", 16)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_whole_run_is_one_line(reproduced: Path, tmp_path: Path) -> None:
    with pytest.raises(GenreError, match="holds no whole run"):
        export.read(tmp_path)
    result = json.loads((reproduced / "reproduce.json").read_text())
    result["data"]["shape"][0] = N - 1
    (tmp_path / "work" / "artist").mkdir(parents=True)
    for name in ("vgg16-artist.keras", "work/features.f32", "work/artist/windows.npz"):
        (tmp_path / name).symlink_to(reproduced / name)
    (tmp_path / "reproduce.json").write_text(json.dumps(result))
    with pytest.raises(GenreError, match="holds no whole run") as caught:
        export.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_shipped_vgg16_is_int8_small_and_agrees_with_float32() -> None:
    models = Path(__file__).parents[3] / "models"
    if not (models / "vgg16").is_dir():
        pytest.skip("models/vgg16 is not here; 'genre train export-vgg16' makes it")
    card = load_card(models, "vgg16")
    told = next(line for line in card.costs if line.agreement is not None)
    assert told.agreement is not None and told.agreement >= 0.99
    assert (told.agreement_windows or 0) >= 200
    assert sum(file.bytes for file in card.files) < 17_000_000
