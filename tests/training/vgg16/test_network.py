"""The network is VGG16 on one channel, its training is the paper's, and a kill costs at most one epoch."""

import ast
import json
import os
from pathlib import Path

import numpy as np
import pytest

from services.errors import GenreError
from tests.shared_data import shared

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
keras = pytest.importorskip("keras")

from training.data.gtzan import GENRES, Clip  # noqa: E402
from training.resumable import Progress  # noqa: E402
from training.vgg16 import arrays, fit, network  # noqa: E402

QUIET = lambda what, done, of: None  # noqa: E731


THIN = ((2, 8), (2, 8), (3, 16), (3, 16), (3, 16))
"""VGG16's blocks with fewer filters, where their number does not matter."""


def random_weights(seed: int = 1) -> network.Weights:
    keras.utils.set_random_seed(seed)
    return network.read_weights(network.network())


def spectrograms(n: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(-80, 0, (n, *network.INPUT)).astype(np.float32)


@pytest.fixture(scope="module")
def notop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "notop.h5"
    keras.applications.VGG16(include_top=False, weights=None, input_shape=(129, 128, 3)).save_weights(
        path.with_suffix(".weights.h5")
    )
    return path.with_suffix(".weights.h5")


def test_the_network_has_vgg16s_parameters_and_ten_probabilities() -> None:
    whole = network.network()
    convolutions = sum(kernel.size + bias.size for name, (kernel, bias) in random_weights().items() if "conv" in name)
    assert convolutions == 14_714_688 - 2 * 9 * 64  # ImageNet's VGG16 less two of its first kernel's three channels.
    scores = whole.predict(spectrograms(2), verbose=0)
    assert scores.shape == (2, 10)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_one_channel_gives_what_three_grey_ones_give_divided_by_the_scale(notop: Path) -> None:
    original = keras.applications.VGG16(include_top=False, weights=None, input_shape=(129, 128, 3))
    original.load_weights(notop)
    # Random weights have no biases; the claim is about biases too.
    for layer in original.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, np.random.default_rng(2).normal(0, 5, bias.shape).astype(np.float32)])
    three = notop.with_name("biased.weights.h5")
    original.save_weights(three)
    trunk = network.trunk(5)
    network.write_weights(trunk, network.imagenet(three))
    features = spectrograms(2)
    grey = np.repeat((features / 80 + 1) * 255 - network.GREY, 3, axis=-1)
    expected = original.predict(grey, verbose=0) / network.SCALE
    np.testing.assert_allclose(trunk.predict(features, verbose=0), expected, rtol=1e-3, atol=1e-3 * expected.max())


@pytest.mark.parametrize("frozen", [1, 3, 5])
def test_trunk_and_tail_together_are_the_network(frozen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "BLOCKS", THIN)
    weights, features = random_weights(), spectrograms(2)
    whole, trunk, tail = network.network(), network.trunk(frozen), network.tail(frozen)
    for model in (whole, trunk, tail):
        network.write_weights(model, weights)
    scores = tail.predict(trunk.predict(features, verbose=0), verbose=0)
    np.testing.assert_allclose(scores, whole.predict(features, verbose=0), rtol=1e-4, atol=1e-6)


def test_without_frozen_blocks_the_tail_is_the_network_and_takes_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "BLOCKS", THIN)
    weights, features = random_weights(), spectrograms(2)
    whole, tail = network.network(), network.tail(0)
    for model in (whole, tail):
        network.write_weights(model, weights)
    np.testing.assert_array_equal(tail.predict(features, verbose=0), whole.predict(features, verbose=0))


@pytest.mark.parametrize("precision", [network.FLOAT16, network.BFLOAT16])
@pytest.mark.parametrize("frozen", [0, 3])
def test_mixed_precision_keeps_weights_and_answers_in_float32(
    frozen: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "BLOCKS", THIN)
    weights = random_weights()
    exact, mixed = network.tail(frozen), network.tail(frozen, precision=precision)
    for model in (exact, mixed):
        network.write_weights(model, weights)
    computed = {layer.name: layer.compute_dtype for layer in mixed.layers if layer.weights}
    assert computed.pop("genres") == "float32"
    assert set(computed.values()) == {precision.removeprefix("mixed_")}
    assert {str(variable.dtype) for variable in mixed.weights} == {"float32"}
    inputs = np.random.default_rng(2).uniform(-80 if not frozen else 0, 1, (2, *mixed.input_shape[1:]))
    found, expected = (model.predict(inputs.astype(np.float32), verbose=0) for model in (mixed, exact))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.02)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_float16_scales_the_loss_and_resumes_with_its_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "BLOCKS", THIN)
    inputs = np.random.default_rng(3).uniform(0, 0.2, (60, *network.trunk(4).output_shape[1:])).astype(np.float32)
    labels = np.arange(60) % 3
    inputs[np.arange(60), :, :, labels] += 1

    def fitted(name: str, epochs: int) -> tuple[keras.Model, list[fit.Epoch]]:
        plan = fit.Plan(epochs, 8, 0.1, precision=network.FLOAT16)
        build = lambda: network.tail(4, 3, network.FLOAT16)  # noqa: E731
        return fit.fit(build, inputs, labels, np.arange(45), np.arange(45, 60), plan, tmp_path / name, "k", QUIET)

    model, whole = fitted("whole", 5)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert {str(variable.dtype) for variable in model.weights} == {"float32"}
    assert whole[-1].train_loss < whole[0].train_loss and whole[-1].valid_accuracy > 0.6
    fitted("resumed", 2)
    again, resumed = fitted("resumed", 5)
    np.testing.assert_allclose(curve(resumed), curve(whole), rtol=1e-3, atol=1e-4)
    assert float(again.optimizer.dynamic_scale) == float(model.optimizer.dynamic_scale)


def test_the_learning_rate_decays_as_keras_time_based_decay_does() -> None:
    rate = network.optimizer(0.001, 0.01, 0.9)._learning_rate
    for step in (0, 1, 100, 5_000):
        assert float(rate(step)) == pytest.approx(0.001 / (1 + 0.01 * step), rel=1e-5)


def test_vgg16_needs_keras_alone_and_no_backend_by_name() -> None:
    """Networks and their training are Keras alone, so that the torch and JAX backends train them too."""
    for path in sorted(Path(network.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [node.id] if isinstance(node, ast.Name) else []
            roots = {name.split(".")[0] for name in names}
            assert not roots & {"tensorflow", "tf", "torch", "jax"}, f"{path.name}, line {node.lineno}"


def test_weights_that_are_none_or_of_another_shape_are_one_line(tmp_path: Path, notop: Path) -> None:
    other = keras.Sequential([keras.Input((129, 128, 3)), keras.layers.Conv2D(4, 3)])
    other.save_weights(tmp_path / "other.weights.h5")
    (tmp_path / "text.h5").write_text("no weights")
    (tmp_path / "torn.weights.h5").write_bytes(notop.read_bytes()[:100_000])
    for name in ("other.weights.h5", "text.h5", "torn.weights.h5", "absent.h5"):
        with pytest.raises(GenreError, match="notop") as caught:
            network.imagenet(tmp_path / name)
        assert "\n" not in str(caught.value)
    wrong = {"block1_conv1": (np.zeros((3, 3, 3, 64), np.float32), np.zeros(64, np.float32))}
    with pytest.raises(GenreError, match="block1_conv1"):
        network.write_weights(network.trunk(1), wrong)


def test_imagenets_own_weights_load() -> None:
    weights = network.imagenet(shared("weights", "vgg16_imagenet_notop.h5"))
    assert len(weights) == 13 and weights["block1_conv1"][0].shape == (3, 3, 1, 64)


# Training, on a small model: what holds for it holds for VGG16.

RNG = np.random.default_rng(3)
X = RNG.normal(0, 1, (200, 8)).astype(np.float32)
Y = X[:, :3].argmax(axis=1)
TRAIN, VALID = np.arange(150), np.arange(150, 200)


def small() -> keras.Model:
    return keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(3, "softmax")]
    )


def fitted(folder: Path, epochs: int, key: str = "k", rate: float = 0.1, progress: Progress = QUIET):  # type: ignore[no-untyped-def]
    return fit.fit(small, X, Y, TRAIN, VALID, fit.Plan(epochs, 16, rate), folder, key, progress)


def curve(history: list[fit.Epoch]) -> list[tuple[float, ...]]:
    return [(line.train_loss, line.train_accuracy, line.valid_loss, line.valid_accuracy) for line in history]


class Killed(BaseException):
    """Stands for a kill within an epoch."""


def test_training_learns_and_goes_on_from_the_last_whole_epoch(tmp_path: Path) -> None:
    model, whole = fitted(tmp_path / "whole", 6)
    assert whole[-1].valid_accuracy > 0.7

    def kill(what: str, done: int, of: int) -> None:
        if what == "epoch 4/6" and done == 5:
            raise Killed

    with pytest.raises(Killed):
        fitted(tmp_path / "broken", 6, progress=kill)
    assert len(json.loads((tmp_path / "broken" / "state.json").read_text())["history"]) == 3
    again, resumed = fitted(tmp_path / "broken", 6)
    np.testing.assert_allclose(curve(resumed), curve(whole), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(again.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-3, atol=1e-5)
    assert [path.name for path in (tmp_path / "broken").glob("*.keras")] == ["epoch-0006.keras"]


def test_more_epochs_go_on_and_none_are_done_twice(tmp_path: Path) -> None:
    _, first = fitted(tmp_path, 2)
    _, second = fitted(tmp_path, 3)
    _, third = fitted(tmp_path, 3)
    assert second[:2] == first and third == second


def test_patience_stops_when_the_validation_loss_no_longer_falls(tmp_path: Path) -> None:
    def stopped(epochs: int) -> list[fit.Epoch]:
        plan = fit.Plan(epochs, 16, 1.0, patience=2)
        return fit.fit(small, X, Y, TRAIN, VALID, plan, tmp_path, "k", QUIET)[1]

    history = stopped(60)
    assert 3 <= len(history) < 60 and fit.epochs_since_best(history) == 2
    losses = [line.valid_loss for line in history]
    assert min(losses) == losses[-3] and stopped(80) == history, "going on does not change that"


def test_inputs_that_are_no_numbers_teach_nothing(tmp_path: Path) -> None:
    bad = X.copy()
    bad[3, 0] = np.nan
    with pytest.raises(GenreError, match="row 3 holds values that are not finite"):
        fit.fit(small, bad, Y, TRAIN, VALID, fit.Plan(1, 16, 0.1), tmp_path, "k", QUIET)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_is_one_line_and_leaves_the_last_good_epoch(tmp_path: Path) -> None:
    with pytest.raises(GenreError, match="epoch 1: the loss is no longer a number") as caught:
        fitted(tmp_path, 3, rate=1e30)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_another_run_in_the_folder_and_broken_work_files_are_one_line(tmp_path: Path) -> None:
    fitted(tmp_path, 1)
    with pytest.raises(GenreError, match="other audio, weights or options"):
        fitted(tmp_path, 1, key="other")
    (tmp_path / "epoch-0001.keras").write_bytes(b"torn")
    with pytest.raises(GenreError, match="can't be read"):
        fitted(tmp_path, 2)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(GenreError, match="can't be read"):
        fitted(tmp_path, 2)


# Arrays.


def clips(folder: Path) -> list[Clip]:
    import soundfile

    made = []
    for at, genre in enumerate(GENRES[:3]):
        path = folder / genre / f"{genre}.00000.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, RNG.normal(0, 0.1, 22_050 * (2 + 3 * at)).astype(np.float32), 22_050)
        made.append(Clip(path.stem, genre, path))
    return made


def test_features_are_the_services_and_broken_clips_are_named(tmp_path: Path) -> None:
    from services.contract.recipe import load_recipe
    from services.featurizer.features import Featurizer
    from training.data import gtzan

    made = clips(tmp_path / "gtzan")
    bad = tmp_path / "gtzan" / "jazz" / "jazz.00054.au"
    bad.parent.mkdir()
    bad.write_bytes(b"no audio" * 1_000)
    windowed = arrays.features_of([*made, Clip(bad.stem, "jazz", bad)], tmp_path / "work", QUIET)
    assert windowed.features.shape == (1 + 2 + 4, 129, 128, 1)
    assert windowed.labels.tolist() == [0, 1, 1, 2, 2, 2, 2]
    assert windowed.padded.tolist() == [True, False, False]
    assert [(item.file, "no header" in item.reason) for item in windowed.skipped] == [("jazz/jazz.00054.au", True)]
    expected = Featurizer(load_recipe("vgg16")).features(gtzan.windows(gtzan.read(made[2].path), "dropped").pcm)
    np.testing.assert_array_equal(windowed.features[3:, :, :, 0], expected)
    with pytest.raises(GenreError, match="no clip that can be read"):
        arrays.features_of([Clip(bad.stem, "jazz", bad)], tmp_path / "work", QUIET)


def test_activations_go_on_where_they_were_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "BLOCKS", THIN)
    monkeypatch.setattr(arrays, "FORWARD_BATCH", 3)
    windowed = arrays.features_of(clips(tmp_path / "gtzan"), tmp_path / "work", QUIET)
    trunk = network.trunk(2)
    network.write_weights(trunk, random_weights())
    asked: list[int] = []

    def kill(what: str, done: int, of: int) -> None:
        asked.append(done)
        if done >= 3 and len(asked) == 2:
            raise Killed

    with pytest.raises(Killed):
        arrays.activations_of(windowed, trunk, tmp_path / "work", kill)
    asked.append(-1)
    found = arrays.activations_of(windowed, trunk, tmp_path / "work", kill)
    assert asked == [0, 3, -1, 3, 6, 7]
    expected = trunk.predict(np.asarray(windowed.features), verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file")
    with pytest.raises(GenreError, match="can't be written"):
        arrays.features_of(clips(tmp_path / "gtzan"), tmp_path / "work", QUIET)
