"""Heads: what is written into ONNX is what was fitted, artists and packages are kept apart, broken input is said."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from services.errors import GenreError
from tests.training.hearing.invented import music, sounds, taggrams
from training.data.gtzan import GENRES
from training.discriminant import fit_discriminant
from training.hearing import genre_head, heads, kinds_head
from training.hearing.export import heads_model
from training.hearing.genre_head import Material
from training.hearing.heads import Heads

# Where AudioSet has the first and last class of each group.
ENDS = (0, 5, 6, 23, 24, 32, 33, 66, 67, 131, 132, 132, 133, 194, 195, 202, 203, 210, 211, 276, 277, 293, 294, 347)
ENDS = (*ENDS, 348, 494, 495, 517)
NAMES = [name for ends in kinds_head.GROUPS.values() for name in ends]
CLASSES = tuple(dict(zip(ENDS, NAMES, strict=True)).get(number, f"class {number}") for number in range(521))
CLIPS = (("a", "rock", "b"),)
TOLD = dict.fromkeys(heads.TOLD, "x")


@functools.cache
def fitted() -> Heads:
    """Heads on invented answers."""
    heard = music()
    material = Material.of(heard, taggrams(heard))
    judged = np.ones(len(heard.clips), bool)
    found = genre_head.nested(material, judged, seeds=(0,))
    assert found.clip_accuracy > 0.8
    kinds = kinds_head.fit(sounds(), CLASSES)
    return Heads(genre_head.fit(material, found), kinds, GENRES, CLASSES, CLIPS, TOLD, {"right": {}})


def run(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def test_the_onnx_heads_answer_as_the_fitted_ones_and_survive_the_disk(tmp_path: Path) -> None:
    made = fitted()
    heads.save(tmp_path / "heads.npz", made)
    again = heads.load(tmp_path / "heads.npz")
    assert (again.about, again.sounds, again.labels, again.clips) == (TOLD, CLASSES, GENRES, CLIPS)
    assert list(tmp_path.iterdir()) == [tmp_path / "heads.npz"]
    heard = music(seed=5)
    answer = run(heads_model(again), {"tags": heard.tags, "logits": heard.logits})
    logits = made.genres.logits(heard.tags, heard.logits) / made.genres.temperature
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(answer["scores"], expected / expected.sum(axis=1, keepdims=True), atol=1e-3)
    np.testing.assert_allclose(answer["kinds"], made.kinds.scores(heard.logits), atol=1e-4)
    np.testing.assert_allclose(answer["sounds"], 1 / (1 + np.exp(-heard.logits)), atol=1e-5)
    alone = run(again.genres.tag_model(), {"tags": heard.tags})["scores"]
    np.testing.assert_allclose(alone.sum(axis=1), 1, atol=1e-5)


def test_extreme_answers_of_the_networks_give_finite_probabilities() -> None:
    made = fitted()
    tags = np.stack([np.zeros(50), np.ones(50), np.eye(50)[0]]).astype(np.float32)
    logits = np.stack([np.full(521, value) for value in (-200.0, 200.0, 0.0)]).astype(np.float32)
    for values in run(heads_model(made), {"tags": tags, "logits": logits}).values():
        assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1


def test_no_artist_is_on_both_sides_of_a_fold_even_as_a_taggram() -> None:
    heard = music()
    material = Material.of(heard, taggrams(heard))
    every = np.arange(len(heard.clips)), np.arange(len(heard.clips))
    for learn, tag_learn, judge, _ in material.folds(*every, 3, 0):
        learnt = {material.groups[i] for i in learn} | {material.tag_groups[i] for i in tag_learn}
        assert not learnt & {material.groups[i] for i in judge}


def test_too_few_artists_for_folds_are_said() -> None:
    heard = music(clips_each=1, artists_each=1)
    with pytest.raises(GenreError, match="add clips of other artists"):
        genre_head.nested(Material.of(heard, taggrams(heard)), np.ones(len(heard.clips), bool), seeds=(0,))


def test_features_that_are_not_finite_are_refused() -> None:
    x = np.zeros((4, 3))
    x[2, 1] = np.nan
    with pytest.raises(GenreError, match="not finite in 1 of 4 rows"):
        fit_discriminant(x, np.array([0, 0, 1, 1]), np.ones(4), 0.1)


def test_a_class_without_examples_is_refused() -> None:
    with pytest.raises(GenreError, match="lack one of the classes"):
        fit_discriminant(np.eye(3), np.array([0, 0, 2]), np.ones(3), 0.1)


def test_kinds_are_told_of_packages_that_were_not_learnt_from() -> None:
    heard = sounds()
    assert (kinds_head.judge(heard, CLASSES).argmax(axis=1) == heard.kinds).mean() > 0.95


def test_a_kind_without_examples_is_said() -> None:
    heard = sounds()
    with pytest.raises(GenreError, match="music, other only"):
        kinds_head.fit(heard.take(heard.kinds != 1), CLASSES)


def test_classes_that_are_not_audiosets_are_refused() -> None:
    with pytest.raises(GenreError, match="are not AudioSet's"):
        kinds_head.ranges_of(["Speech", "Rain"])


@pytest.mark.parametrize("damage", ["not a file of heads", "shape", "nan", "temperature", "told"])
def test_damaged_heads_are_refused(damage: str, tmp_path: Path) -> None:
    path, made = tmp_path / "heads.npz", fitted()
    if damage == "temperature":
        made = replace(made, genres=replace(made.genres, temperature=0.0))
    if damage == "told":
        made = replace(made, about={})
    heads.save(path, made)
    if damage == "not a file of heads":
        path.write_bytes(b"PK")
    elif damage in ("shape", "nan"):
        arrays = dict(np.load(path))
        if damage == "shape":
            arrays["tag_weights"] = arrays["tag_weights"][:49]
        else:
            arrays["kind_weights"][0, 0] = np.nan
        np.savez(path, **arrays)
    with pytest.raises(GenreError, match=r"heads\.npz: holds no heads"):
        heads.load(path)
