"""What `genre train distil` promises: one network in ONNX and Keras, work that survives a kill, one-line errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile

from services.errors import GenreError
from services.featurizer.features import Featurizer
from services.featurizer.recipe import load_recipe
from services.inference.card import load_card
from services.inference.onnx_backend import OnnxBackend
from tests.training.test_quantize import random_weights
from training import distil_card, distil_fit, distil_student
from training.distil import Plan, distil
from training.distil_front import FRAMES_OUT, Front
from training.distil_windows import Draw, Labelled, Library, Teacher, audio_files, label
from training.musicnn import BANDS, FRAMES, Trunk
from training.onnx_graph import Graph

MODELS = Path(__file__).resolve().parents[2] / "models"
CHANNELS = 8
PLAN = Plan(windows=64, own_windows=64, epochs=3, batch=16, learning_rate=0.001, seed=1)


def quiet(*_: Any) -> None:
    """Tell no progress."""


def music() -> Library:
    """Return two pieces of noise with a beat."""
    random = np.random.default_rng(0)
    beat = np.repeat([1, 0, 0.3, 0], 5_000)
    pcm = [(np.resize(beat, 100_000) * random.normal(0, 6_000, 100_000)).astype(np.int16) for _ in range(2)]
    return Library(["a", "b"], pcm, [])


def draw() -> Draw:
    """Return what windows are drawn from."""
    return Draw(music(), load_recipe("musicnn"))


def small_set() -> Labelled:
    """Return a front's output with answers, for teaching."""
    random = np.random.default_rng(1)
    return Labelled(
        random.normal(0, 1, (64, FRAMES_OUT, CHANNELS)).astype(np.float16),
        random.normal(-3, 1, (64, 50)).astype(np.float32),
        random.normal(0, 1, (64, distil_student.HIDDEN)).astype(np.float16),
    )


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    """Open the shipped teacher."""
    return Teacher(load_card(MODELS, "musicnn"))


def test_the_onnx_file_answers_what_the_keras_student_answers() -> None:
    model = onnx.load(load_card(MODELS, "musicnn").path())
    front = Front.of(model)
    student = distil_student.build(front.channels)
    distil_student.Upper(model).begin(student)
    graph = Graph()
    graph.add("Identity", distil_student.append(graph, student, front.append(graph, "features")), name="tags")
    made = graph.model({"features": [FRAMES, BANDS]}, {"tags": [50]}).SerializeToString()
    features = np.random.default_rng(0).uniform(0, 3, (3, FRAMES, BANDS)).astype(np.float32)
    (tags,) = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"]).run(None, {"features": features})
    np.testing.assert_allclose(tags, distil_fit.answers(student, front.run(features)), atol=2e-3)


def test_the_front_refuses_another_network() -> None:
    graph = Graph()
    graph.add("Identity", "features", name="tags")
    with pytest.raises(GenreError, match="not musicnn's float form"):
        Front.of(graph.model({"features": [FRAMES, BANDS]}, {"tags": [FRAMES, BANDS]}))


def test_the_front_refuses_filters_that_never_move() -> None:
    graph = Graph()
    graph.add("Softmax", Trunk(graph, random_weights()).tags, name="scores", axis=1)
    with pytest.raises(GenreError, match="genre train prune"):
        Front.of(graph.model({"features": [FRAMES, BANDS]}, {"scores": [50]}))


def test_labelling_goes_on_after_a_kill_with_the_same_windows(teacher: Teacher, tmp_path: Path) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(draw, teacher, 66, 1, tmp_path / "killed", "key", killed)
    resumed = label(draw, teacher, 66, 1, tmp_path / "killed", "key", quiet)
    features = draw().features((1, 3))
    np.testing.assert_array_equal(resumed.features[3], features.astype(np.float16))
    np.testing.assert_allclose(resumed.logits[65], teacher.answer(draw().features((1, 65))[None])[0][0], atol=1e-5)

    def never() -> Draw:
        raise AssertionError("drawn again")

    assert len(label(never, teacher, 66, 1, tmp_path / "killed", "key", quiet).features) == 66
    with pytest.raises(GenreError, match="other music or options"):
        label(draw, teacher, 66, 1, tmp_path / "killed", "another key", quiet)


def test_teaching_goes_on_after_a_kill_to_the_same_student(tmp_path: Path) -> None:
    def begin() -> Any:
        return distil_student.build(CHANNELS)

    def killed(what: str, done: int, of: int) -> None:
        if what.startswith("epoch 3"):
            raise KeyboardInterrupt

    whole = distil_fit.teach(begin, small_set(), PLAN, tmp_path / "whole", "key", quiet)
    with pytest.raises(KeyboardInterrupt):
        distil_fit.teach(begin, small_set(), PLAN, tmp_path / "killed", "key", killed)
    resumed = distil_fit.teach(begin, small_set(), PLAN, tmp_path / "killed", "key", quiet)
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    with pytest.raises(GenreError, match="other music or options"):
        distil_fit.teach(begin, small_set(), PLAN, tmp_path / "killed", "another key", quiet)


def test_a_loss_that_is_no_number_ends_the_teaching(tmp_path: Path) -> None:
    bad = small_set()
    bad.features[5, 0, 0] = np.nan
    with pytest.raises(GenreError, match="no longer a number"):
        distil_fit.teach(lambda: distil_student.build(CHANNELS), bad, PLAN, tmp_path / "run", "key", quiet)
    assert not (tmp_path / "run" / "state.json").exists()


def test_folders_without_music_are_one_line_each(tmp_path: Path) -> None:
    with pytest.raises(GenreError, match="is no folder"):
        audio_files([tmp_path / "missing"])
    with pytest.raises(GenreError, match="holds no audio file"):
        audio_files([tmp_path])
    (tmp_path / "broken.ogg").write_bytes(b"no music")
    with pytest.raises(GenreError, match="holds no audio that can be read"):
        Library.read(audio_files([tmp_path]), quiet)


def test_a_broken_file_is_named_and_the_others_are_used(tmp_path: Path) -> None:
    (tmp_path / "broken.ogg").write_bytes(b"no music")
    soundfile.write(tmp_path / "good.wav", np.random.default_rng(0).normal(0, 0.1, 44_100), 22_050)
    made = Library.read(audio_files([tmp_path]), quiet)
    assert len(made.pcm) == 1
    assert len(made.skipped) == 1
    assert "broken.ogg" in made.skipped[0]


def test_too_few_pieces_leave_nothing_behind(tmp_path: Path) -> None:
    pieces, models = tmp_path / "pieces" / "blues", tmp_path / "models"
    pieces.mkdir(parents=True)
    soundfile.write(pieces / "blues.00000.wav", np.zeros(44_100), 22_050)
    for part in ("train", "valid", "test"):
        (pieces.parent / f"{part}_filtered.txt").write_text(f"blues/blues.0000{len(part)}.wav\n", encoding="utf-8")
    models.mkdir()
    (models / "musicnn").symlink_to(MODELS / "musicnn")
    options = ["--music", str(tmp_path), "--pieces", str(pieces.parent), "--tags", "none.npz", "--models", str(models)]
    with pytest.raises(GenreError, match="clips of the training list"):
        distil.main([*options, "--out", str(tmp_path / "out")], standalone_mode=False)
    assert [path.name for path in models.iterdir()] == ["musicnn"]
    assert not (tmp_path / "out").exists()


def test_a_table_of_licences_needs_its_columns(tmp_path: Path) -> None:
    table = tmp_path / "licences.csv"
    table.write_text("name,licence\nsong,CC0\n", encoding="utf-8")
    with pytest.raises(GenreError, match="source"):
        distil_card.ingredients(table)
    table.write_text("name,licence,source\nsong,CC0,me\n", encoding="utf-8")
    assert distil_card.ingredients(table) == [{"name": "song", "licence": "CC0", "source": "me"}]


def test_the_shipped_student_is_small_and_unsure_of_what_does_not_move() -> None:
    card = load_card(MODELS, "musicnn-small")
    assert card.parameters <= 2_000_000
    random, time = np.random.default_rng(0), np.arange(66_000) / 22_050
    still = [random.normal(0, 0.1, 66_000), 0.2 * np.sin(2 * np.pi * 50 * time), 0.3 * np.sin(2 * np.pi * 1_000 * time)]
    scores = OnnxBackend(card).scores(Featurizer(card.recipe).features(np.stack(still).astype(np.float32)))
    assert scores.max() < card.unsure_below
