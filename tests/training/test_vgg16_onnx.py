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

from services.inference.card import load_card  # noqa: E402
from training import vgg16, vgg16_export, vgg16_onnx  # noqa: E402
from training.gtzan import GENRES  # noqa: E402

N = 24
THIN = ((2, 8), (1, 8), (2, 16), (1, 16), (1, 16))
"""VGG16's blocks with fewer filters: the same graph, at a hundredth of the work."""
CONVOLUTIONS = sum(count for count, _ in THIN)


@pytest.fixture(scope="module", autouse=True)
def thin_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (vgg16, vgg16_onnx):
            patch.setattr(module, "BLOCKS", THIN)
        yield


@pytest.fixture(scope="module")
def network(thin_blocks: None) -> keras.Model:
    keras.utils.set_random_seed(1)
    network = vgg16.network()
    # Random weights of this depth give nearly one answer; a louder last layer tells windows apart.
    kernel, bias = network.get_layer("genres").get_weights()
    network.get_layer("genres").set_weights([kernel * 30, bias + np.linspace(-1, 1, 10, dtype=np.float32)])
    return network


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    rng = np.random.default_rng(1)
    shape = rng.uniform(-1, 1, (N, 1, 128)) + rng.uniform(-1, 1, (N, 129, 1)) + rng.normal(0, 0.3, (N, 129, 128))
    return np.clip(-40 + 20 * shape, -80, 0).astype(np.float32)


def test_the_onnx_graph_gives_what_keras_gives(network: keras.Model, features: np.ndarray) -> None:
    expected = network.predict(features[..., None], verbose=0)
    model = vgg16_onnx.float_model(vgg16.read_weights(network))
    assert model.opset_import[0].version <= 13
    np.testing.assert_allclose(vgg16_onnx.scores(model, features), expected, rtol=1e-3, atol=1e-5)


def test_winograds_convolutions_answer_as_plain_ones_do(network: keras.Model, features: np.ndarray) -> None:
    weights = vgg16.read_weights(network)
    plain = vgg16_onnx.scores(vgg16_onnx.float_model(weights), features)
    fewer = vgg16_onnx.float_model(weights, winograd=True)
    assert fewer.opset_import[0].version <= 13
    np.testing.assert_allclose(vgg16_onnx.scores(fewer, features), plain, rtol=1e-3, atol=1e-5)


def test_temperature_divides_the_logits(network: keras.Model, features: np.ndarray) -> None:
    weights = vgg16.read_weights(network)
    plain = vgg16_onnx.scores(vgg16_onnx.float_model(weights), features[:4])
    softer = vgg16_onnx.scores(vgg16_onnx.float_model(weights, 2.0), features[:4])
    expected = np.sqrt(plain) / np.sqrt(plain).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softer, expected, rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="module")
def reproduced(network: keras.Model, features: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `genre train reproduce` leaves it, with the network's own answers as labels."""
    folder = tmp_path_factory.mktemp("reproduce")
    (folder / "work" / "artist").mkdir(parents=True)
    network.save(folder / "vgg16-artist.keras")
    features.tofile(folder / "work" / "features.f32")
    labels = network.predict(features[..., None], verbose=0).argmax(axis=1)
    split = {"train": np.arange(16), "valid": np.arange(16, N), "labels": labels, "clip": np.arange(N) // 2}
    np.savez(folder / "work" / "artist" / "windows.npz", **split)
    settings = dict.fromkeys(("train_blocks", "learning_rate", "decay", "momentum", "batch", "seed"), 1)
    result = {
        "whole_set": False,
        "data": {"shape": [N, *vgg16.INPUT], "features": "work/features.f32"},
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
    monkeypatch.setattr(vgg16_export, "LEAST_AGREEMENT", 0.5)  # A random network's answers are close to each other.
    arguments = ["--reproduced", str(reproduced), "--models", str(tmp_path), "--calibration", "16"]
    done = CliRunner().invoke(vgg16_export.export_vgg16, arguments)
    assert done.exit_code == 0, done.exception
    card = load_card(tmp_path, "vgg16")
    assert card.labels == GENRES and card.recipe.shape == (129, 128) and card.opset <= 13
    int8, fp32 = card.costs
    assert int8.agreement is not None and int8.agreement_windows == 8 and fp32.agreement is None
    assert {line.precision for line in card.evaluations} == {"int8", "fp32"}
    # By type, not by size: a network this thin weighs less than what int8 adds to its graph.
    assert convolutions(tmp_path / "vgg16" / "fp32.onnx") == {onnx.TensorProto.FLOAT: CONVOLUTIONS}
    assert convolutions(card.path()) == {onnx.TensorProto.FLOAT: 1, onnx.TensorProto.INT8: CONVOLUTIONS - 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vgg16"]


def test_float32_for_a_cpu_is_winograds_and_for_a_gpu_plain(reproduced: Path, tmp_path: Path) -> None:
    found = vgg16_export.read(reproduced)
    card = vgg16_export.write(found, tmp_path, "1", 16, precision="fp32")
    operators = Counter(node.op_type for node in onnx.load(card.path()).graph.node)
    plain = onnx.load(tmp_path / "vgg16" / "fp32.onnx").graph.node
    assert card.precision == "fp32 Winograd" and card.costs[0].agreement == 1
    assert operators["DepthToSpace"] == operators["MatMul"] == THIN[2][0] + THIN[3][0]
    assert not any(node.op_type == "DepthToSpace" for node in plain)
    card = vgg16_export.write(found, tmp_path, "2", 16, "jetson-onnxruntime", "fp32")
    assert (card.folder / "1" / "fp32.onnx").read_bytes() == (card.folder / "fp32.onnx").read_bytes()
    assert 'default_model_filename: "fp32.onnx"' in (card.folder / "config.pbtxt").read_text()


def test_int8_that_disagrees_is_refused_and_nothing_is_written(
    reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vgg16_export, "LEAST_AGREEMENT", 1.1)
    with pytest.raises(GenreError, match="int8 gives another genre than float32"):
        vgg16_export.write(vgg16_export.read(reproduced), tmp_path, "1", 16)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_whole_run_is_one_line(reproduced: Path, tmp_path: Path) -> None:
    with pytest.raises(GenreError, match="holds no whole run"):
        vgg16_export.read(tmp_path)
    result = json.loads((reproduced / "reproduce.json").read_text())
    result["data"]["shape"][0] = N - 1
    (tmp_path / "work" / "artist").mkdir(parents=True)
    for name in ("vgg16-artist.keras", "work/features.f32", "work/artist/windows.npz"):
        (tmp_path / name).symlink_to(reproduced / name)
    (tmp_path / "reproduce.json").write_text(json.dumps(result))
    with pytest.raises(GenreError, match="holds no whole run") as caught:
        vgg16_export.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_shipped_vgg16_is_int8_small_and_agrees_with_float32() -> None:
    models = Path(__file__).parents[2] / "models"
    if not (models / "vgg16").is_dir():
        pytest.skip("models/vgg16 is not here; 'genre train export-vgg16' makes it")
    card = load_card(models, "vgg16")
    told = next(line for line in card.costs if line.agreement is not None)
    assert told.agreement is not None and told.agreement >= 0.99
    assert (told.agreement_windows or 0) >= 200
    assert sum(file.bytes for file in card.files) < 17_000_000
