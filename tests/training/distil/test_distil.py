"""What `genre train distil` promises: a student of one view that answers as both networks do, from unlabelled sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import soundfile
from numpy.typing import NDArray

from services.contract.recipe import load_recipe
from services.contract.windows import SAMPLE_RATE, WINDOW
from services.errors import GenreError
from tests.training.efficientat.invented_state import state
from tests.training.musicnn.weights import random_weights
from training.distil import student, teach
from training.distil.student import Student
from training.distil.teach import Plan, Taught
from training.distil.teachers import SOUND_RECIPE, Teachers
from training.distil.windows import JOINED_S, Draw, Library, audio_files
from training.efficientat import network as efficientat
from training.hearing import networks
from training.hearing.kinds_head import GROUPS
from training.hearing.networks import FAST_RECIPE, FINE_RECIPE, LOGITS, MUSIC, RECIPE, SOUND, TAGS, Networks
from training.musicnn import network as musicnn
from training.onnx_graph import Graph

SOUNDS = 521
RANGES = tuple((place, place) for place in range(len(GROUPS)))
SHAPE, FEW = (40, 32), 20
FAST, FINE = load_recipe(FAST_RECIPE).shape, load_recipe(FINE_RECIPE).shape


def begun(hidden: int = 40, sounds: int = SOUNDS) -> Student:
    network = efficientat.network_of(state())
    classes = network.classes[0][:sounds], network.classes[1][:sounds]
    return student.beginning(replace(network, classes=classes), hidden)


def written(made: Student, shape: tuple[int, int]) -> bytes:
    graph = Graph()
    student.append(graph, made, "features", TAGS, LOGITS, shape)
    model = graph.model({"features": shape}, {TAGS: [50], LOGITS: [SOUNDS]})
    content: bytes = model.SerializeToString()
    return content


def engine(content: bytes) -> Any:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def layers(made: Student) -> list[NDArray[np.float32]]:
    network = made.network
    inner = [layer for block in network.blocks for layer in block.layers]
    every = [network.first, *inner, network.last, network.hidden, network.classes, made.tags]
    return [part for layer in every for part in layer]


def test_the_fine_students_view_is_the_second_one_of_both() -> None:
    one, both, fast = (load_recipe(each) for each in (FINE_RECIPE, RECIPE, FAST_RECIPE))
    assert one.level_dbfs == both.level_dbfs and one.sample_rate == both.sample_rate == SAMPLE_RATE
    assert one.view.model_dump(exclude={"name"}) == both.views[1].model_dump(exclude={"name"})
    assert fast.view.frames < one.view.frames == efficientat.FRAMES
    assert load_recipe(SOUND_RECIPE).view.shape == (efficientat.FRAMES, efficientat.BANDS)


def test_a_student_begins_with_the_hidden_values_that_weigh_most() -> None:
    whole = efficientat.network_of(state())
    weight = np.linalg.norm(whole.hidden[0], axis=1) * np.linalg.norm(whole.classes[0], axis=0)
    made = begun(hidden=30)
    least = min(weight[(whole.hidden[0] == row).all(axis=1)].item() for row in made.network.hidden[0])
    assert len(made.network.hidden[1]) == 30 and (weight > least).sum() == 29


def test_the_onnx_student_answers_as_the_keras_one() -> None:
    made = begun()
    model = student.build(made, FAST)
    random = np.random.default_rng(2)
    model.set_weights([part + random.normal(0, 0.01, part.shape) for part in model.get_weights()])
    features = random.normal(-5, 3, (2, *FAST)).astype(np.float32)
    tags, logits = engine(written(student.read(model, made), FAST)).run([TAGS, LOGITS], {"features": features})
    told = {name: np.asarray(value) for name, value in model(features, training=False).items()}
    np.testing.assert_allclose(tags, 1 / (1 + np.exp(-told["tags"])), atol=1e-5)
    np.testing.assert_allclose(logits, told["sounds"], atol=1e-4, rtol=1e-3)


def test_a_student_that_was_not_taught_is_read_back_as_it_was() -> None:
    made = begun()
    for before, after in zip(layers(made), layers(student.read(student.build(made, SHAPE), made)), strict=True):
        np.testing.assert_array_equal(before, after)


def invented(count: int = 96) -> Taught:
    """Windows whose bands, each by how loud it is, say which tags and sounds the teachers hear."""
    random = np.random.default_rng(0)
    loud = random.normal(0, 2, (count, SHAPE[1]))
    features = random.normal(-3, 0.5, (count, *SHAPE)) + loud[:, None]
    heard = loud @ random.normal(0, 0.3, (SHAPE[1], 50))
    logits = loud @ random.normal(0, 0.5, (SHAPE[1], FEW))
    tags = 1 / (1 + np.exp(-heard))
    return Taught(features.astype(np.float16), tags.astype(np.float32), logits.astype(np.float32))


def test_teaching_brings_the_student_nearer_to_both_teachers() -> None:
    taught, made = invented(), begun(sounds=FEW)
    model = student.build(made, SHAPE)
    losses = teach.teach(model, taught, Plan(5, 16, 0.01, 1), RANGES, lambda *_: None)
    assert len(losses) == 5 and losses[-1] < 0.98 * losses[0]  # mean pooling forgets in which band it was
    assert any((a != b).any() for a, b in zip(layers(made), layers(student.read(model, made)), strict=True))


def test_a_loss_that_is_no_number_is_said() -> None:
    taught = invented(16)
    taught.logits[3] = np.nan
    with pytest.raises(GenreError, match="no longer a number"):
        teach.teach(student.build(begun(sounds=FEW), SHAPE), taught, Plan(1, 8, 0.001, 1), RANGES, lambda *_: None)


def test_musicnn_and_a_students_sounds_become_one_file_that_teaches_again(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    windows = (random.random((3, musicnn.FRAMES, musicnn.BANDS)) * 4).astype(np.float32)
    alone, both = tmp_path / "alone.onnx", tmp_path / "both.onnx"
    (tmp_path / "student.onnx").write_bytes(written(begun(), FINE))
    one = networks.network(tmp_path / "student.onnx", "")
    alone.write_bytes(networks.build(random_weights(), None, windows, 0.5 * windows + 1).SerializeToString())
    both.write_bytes(networks.build(random_weights(), one, windows, 0.5 * windows + 1).SerializeToString())
    features = random.normal(-5, 3, (1, *FINE)).astype(np.float32)
    tags, logits = Networks(both).answer({MUSIC: windows[:1], SOUND: features})
    (own,) = engine(alone.read_bytes()).run([TAGS], {MUSIC: windows[:1]})
    np.testing.assert_allclose(tags, own, atol=1e-6)
    np.testing.assert_allclose(
        logits, engine(written(begun(), FINE)).run([LOGITS], {"features": features})[0], atol=1e-4
    )
    # musicnn hears its own bands: ours are scaled and shifted to them first.
    graph = Graph()
    graph.add("Identity", musicnn.Trunk(graph, random_weights(), MUSIC).tags, name=TAGS)
    plain = graph.model({MUSIC: [musicnn.FRAMES, musicnn.BANDS]}, {TAGS: [50]})
    (expected,) = engine(plain.SerializeToString()).run([TAGS], {MUSIC: 0.5 * windows[:1] + 1})
    np.testing.assert_allclose(own, expected, atol=1e-3)
    pcm = random.normal(0, 3_000, (2, WINDOW)).astype(np.int16)
    for path in (alone, both):
        told = Teachers(efficientat.network_of(state()), networks.music_trunk(path)).answer(pcm)
        assert told[0].shape == (2, 50) and told[1].shape == (2, SOUNDS)
    with pytest.raises(GenreError, match=r"student\.onnx.*holds no tags of mel96"):
        networks.music_trunk(tmp_path / "student.onnx")


def test_a_window_depends_on_its_seed_alone_and_is_whole() -> None:
    random = np.random.default_rng(0)
    folders = [[random.normal(0, 3_000, length).astype(np.int16)] for length in (200_000, 70_000)]
    draw = Draw(Library(folders))
    windows = [draw.window((1, row)) for row in range(24)]
    assert all(window.shape == (WINDOW,) and window.dtype == np.int16 for window in windows)
    np.testing.assert_array_equal(windows[5], Draw(Library(folders)).window((1, 5)))
    assert not np.array_equal(windows[5], windows[6])


def test_short_files_of_a_folder_are_heard_one_after_another(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(60):
        soundfile.write(tmp_path / f"{number:02}.wav", random.normal(0, 0.05, SAMPLE_RATE), SAMPLE_RATE)
    soundfile.write(tmp_path / "long.wav", random.normal(0, 0.05, 4 * SAMPLE_RATE), SAMPLE_RATE)
    soundfile.write(tmp_path / "tiny.wav", random.normal(0, 0.05, 1_000), SAMPLE_RATE)
    library = Library.read(audio_files([tmp_path]), lambda *_: None)
    (found,) = library.folders
    assert [round(pcm.size / SAMPLE_RATE) for pcm in found[:1]] == [4] and len(found) == 3
    assert JOINED_S <= found[1].size / SAMPLE_RATE <= JOINED_S + 2
    assert len(library.skipped) == 1 and "tiny.wav: lasts less than" in library.skipped[0]


def test_a_folder_without_sound_is_named(tmp_path: Path) -> None:
    with pytest.raises(GenreError, match="holds no audio file"):
        audio_files([tmp_path])
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(GenreError, match="no audio that can be read"):
        Library.read(audio_files([tmp_path]), lambda *_: None)
