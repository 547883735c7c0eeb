"""What `genre train distil` promises: a student of one view that answers as both networks do, from unlabelled sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from services.contract.recipe import load_recipe
from services.contract.windows import SAMPLE_RATE
from services.errors import GenreError
from services.featurizer.features import Featurizer
from tests.training.musicnn.weights import random_weights
from training.data import gtzan
from training.distil import student, teach
from training.distil.front import FRAMES_OUT, Front
from training.distil.teach import Plan, Taught
from training.distil.windows import Draw, Library, audio_files
from training.hearing.kinds_head import GROUPS
from training.hearing.networks import FAST_RECIPE, LOGITS, MUSIC, RECIPE, TAGS
from training.musicnn.network import BANDS, FRAMES, Trunk
from training.musicnn.prune import without_constants
from training.onnx_graph import Graph

SOUNDS = 12
RANGES = tuple((place % SOUNDS, place % SOUNDS) for place in range(len(GROUPS)))


def pruned() -> Front:
    """The front of a network of which few filters move."""
    weights = random_weights()
    for number in range(5):
        name = f"conv2d_{number}/bias" if number else "conv2d/bias"
        weights[name][20:] = -1e3
        weights[f"batch_normalization_{number + 1}/gamma"][20:] = 1.0
    graph = Graph()
    graph.add("Identity", Trunk(graph, weights).tags, name=TAGS)
    model = graph.model({"features": [FRAMES, BANDS]}, {TAGS: [50]})
    windows = np.random.default_rng(1).random((3, FRAMES, BANDS), np.float32) * 4
    return Front.of(without_constants(model, windows)[0])


def test_the_students_view_is_the_teachers_first_one_without_its_resampling() -> None:
    one, both = load_recipe(FAST_RECIPE), load_recipe(RECIPE)
    assert one.sample_rate == SAMPLE_RATE and one.view.shape == both.views[0].shape
    pcm = gtzan.windows(gtzan.read(Path(__file__).resolve().parents[3] / "demo" / "rock.m4a")).pcm[:4]
    own, theirs = Featurizer(one).features(pcm), Featurizer(both).views(pcm)[MUSIC]
    # The highest two bands, where the resampler's filter ends, are the ones that differ.
    own, theirs = own[..., :-2], theirs[..., :-2]
    assert np.abs(own.mean(axis=(0, 1)) - theirs.mean(axis=(0, 1))).max() < 0.1
    assert np.corrcoef(own.ravel(), theirs.ravel())[0, 1] > 0.99


def written(model: keras.Model, front: Front) -> onnx.ModelProto:
    graph = Graph()
    student.append(graph, model, "features", front.append(graph, "features"), TAGS, LOGITS)
    made: onnx.ModelProto = graph.model({"features": [FRAMES, BANDS]}, {TAGS: [50], LOGITS: [SOUNDS]})
    return made


def taught(front: NDArray[np.float16], tags: NDArray[np.float32], logits: NDArray[np.float32]) -> Taught:
    """Windows whose bands say what their front says."""
    return Taught(front, np.resize(front[:, :1, :1], (BANDS, FRAMES, len(front))).T, tags, logits)


def answers(model: keras.Model, front: NDArray[np.floating], bands: NDArray[np.floating]) -> dict[str, Any]:
    return model({"front": front.astype(np.float32), "bands": bands.astype(np.float32)}, training=False)


def test_the_onnx_student_answers_as_the_keras_one_and_the_next_one_begins_as_it() -> None:
    front = pruned()
    model = student.build(front.channels, SOUNDS)
    random = np.random.default_rng(2)
    branch = model.get_layer("sounds")
    for name in ("scale_bands", "scale_sound_0", "scale_sound_2"):
        layer = branch.get_layer(name)
        layer.set_weights([random.uniform(0.5, 2, part.shape) for part in layer.get_weights()])
    made = written(model, front)
    engine = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    window = random.random((FRAMES, BANDS), np.float32) * 3
    tags, logits = engine.run([TAGS, LOGITS], {"features": window[None]})
    inside = front.runner()(window)
    assert inside.shape == (FRAMES_OUT, front.channels)
    told = answers(model, inside[None], window[None])
    np.testing.assert_allclose(tags, 1 / (1 + np.exp(-np.asarray(told["tags"]))), atol=5e-3)
    np.testing.assert_allclose(logits, np.asarray(told["sounds"]), atol=5e-2)
    after = student.build(front.channels, SOUNDS)
    student.Earlier(made).begin(after)
    again = answers(after, inside[None], window[None])
    np.testing.assert_allclose(np.asarray(again["tags"]), np.asarray(told["tags"]), atol=1e-4)


def test_teaching_brings_the_student_nearer_to_both_teachers() -> None:
    random = np.random.default_rng(0)
    front = random.random((192, FRAMES_OUT, 8)).astype(np.float16)
    spread = random.normal(0, 1, (192, 1))
    front[:, :, 0] *= spread > 0
    tags = (1 / (1 + np.exp(-spread * np.ones(50)))).astype(np.float32)
    logits = (3 * spread * np.ones(SOUNDS)).astype(np.float32)
    for run in (teach.teach_sounds, teach.teach):
        model = student.build(8, SOUNDS)
        losses = run(model, taught(front, tags, logits), Plan(6, 32, 0.003, 1), RANGES, lambda *_: None)
        assert len(losses) == 6 and losses[-1] < 0.7 * losses[0]


def test_a_loss_that_is_no_number_is_said() -> None:
    front = np.ones((8, FRAMES_OUT, 4), np.float16)
    windows = taught(front, np.full((8, 50), np.nan, np.float32), np.ones((8, SOUNDS), np.float32))
    with pytest.raises(GenreError, match="no longer a number"):
        teach.teach(student.build(4, SOUNDS), windows, Plan(1, 4, 0.001, 1), RANGES, lambda *_: None)


def test_a_window_depends_on_its_seed_alone_and_is_whole() -> None:
    random = np.random.default_rng(0)
    pcm = [(random.normal(0, 3_000, length)).astype(np.int16) for length in (200_000, 30_000)]
    draw = Draw(Library(["a", "b"], pcm, []))
    windows = [draw.window((1, row)) for row in range(12)]
    assert all(window.shape == (66_000,) and window.dtype == np.int16 for window in windows)
    np.testing.assert_array_equal(windows[5], Draw(Library(["a", "b"], pcm, [])).window((1, 5)))
    assert not np.array_equal(windows[5], windows[6])


def test_a_folder_without_sound_is_named(tmp_path: Path) -> None:
    with pytest.raises(GenreError, match="holds no audio file"):
        audio_files([tmp_path])
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(GenreError, match="no audio that can be read"):
        Library.read(audio_files([tmp_path]), lambda *_: None)
