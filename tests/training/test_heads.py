"""Heads: what is written into ONNX is what was fitted, and cross-validation keeps artists apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from services.errors import GenreError
from training import fitted, heads, metrics
from training.gtzan import GENRES, Clip
from training.heads import FITTERS, Head
from training.taggrams import Taggrams


def invented(clips_each: int = 6, windows_each: int = 5, artists_each: int = 3, seed: int = 0) -> Taggrams:
    """Taggrams in which each genre raises tags of its own, and each artist some of theirs."""
    rng = np.random.default_rng(seed)
    clips, labels, clip_of, rows = [], [], [], []
    for label, genre in enumerate(GENRES):
        for number in range(clips_each):
            artist = f"{genre} artist {number % artists_each}"
            taste = np.random.default_rng(label * 100 + number % artists_each).normal(0, 0.5, 50)
            for _ in range(windows_each):
                logits = rng.normal(-3, 0.7, 50) + taste
                logits[label * 5 : label * 5 + 5] += 1.5
                rows.append(1 / (1 + np.exp(-logits)))
                labels.append(label)
                clip_of.append(len(clips))
            clips.append(Clip(f"{genre}.{number:05}", genre, Path(genre), artist))
    return Taggrams(np.array(rows, np.float32), np.array(labels, np.intp), np.array(clip_of, np.intp), clips)


@pytest.mark.parametrize("kind", sorted(FITTERS))
def test_the_onnx_head_answers_as_the_fitted_one_and_survives_the_disk(kind: str, tmp_path: Path) -> None:
    data = invented()
    head, found = heads.fit(FITTERS[kind], data.tags, data.clip_of, data.clips, seeds=(0,))
    assert found.clip_accuracy > 0.8
    fitted.save(tmp_path / "head.npz", head, {"note": "x"})
    again, about = fitted.load(tmp_path / "head.npz")
    assert about == {"note": "x"} and list(tmp_path.iterdir()) == [tmp_path / "head.npz"]
    session = onnxruntime.InferenceSession(again.model().SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"tags": data.tags})
    assert np.abs(scores - head.scores(data.tags)).max() < 1e-3
    assert np.array_equal(scores.argmax(axis=1), head.scores(data.tags).argmax(axis=1))


def test_extreme_activations_give_finite_scores() -> None:
    data = invented()
    head = Head(heads.fit_gaussians(data.tags, data.labels, data.clip_of, [c.artist for c in data.clips]), 4.0, 0.5)
    extremes = np.stack([np.zeros(50), np.ones(50), np.eye(50)[0]]).astype(np.float32)
    session = onnxruntime.InferenceSession(head.model().SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"tags": extremes})
    assert np.isfinite(scores).all() and np.abs(scores.sum(axis=1) - 1).max() < 1e-5


def test_too_few_artists_for_folds_are_said() -> None:
    data = invented(clips_each=2, artists_each=1)
    with pytest.raises(GenreError, match="one artist"):
        heads.cross_validate(FITTERS["gaussians"], data.tags, data.clip_of, data.clips)


def test_a_fit_that_ends_in_nan_is_one_clear_line() -> None:
    data = invented()

    class Broken:
        parameters = 0

        def logits(self, tags: np.ndarray) -> np.ndarray:
            return np.full((len(tags), 10), np.nan)

        def append(self, graph: object, tags: str, temperature: float) -> str:
            return tags

    with pytest.raises(GenreError, match="not finite"):
        heads.cross_validate(lambda *_: Broken(), data.tags, data.clip_of, data.clips)


@pytest.mark.parametrize("damage", ["not a head", "shape", "nan", "kind"])
def test_a_damaged_head_is_refused(damage: str, tmp_path: Path) -> None:
    data, path = invented(), tmp_path / "head.npz"
    gaussians = heads.fit_gaussians(data.tags, data.labels, data.clip_of, [c.artist for c in data.clips])
    fitted.save(path, Head(gaussians, 1.0, 1.0), {})
    if damage == "not a head":
        path.write_bytes(b"PK")
    else:
        arrays = dict(np.load(path))
        if damage == "shape":
            arrays["means"] = arrays["means"][:, :49]
        elif damage == "nan":
            arrays["whiten"][0, 0, 0] = np.nan
        else:
            arrays["about"] = np.array('{"kind": "forest", "temperature": 1, "correlation": 1}')
        np.savez(path, **arrays)
    with pytest.raises(GenreError, match=r"head\.npz"):
        fitted.load(path)


def test_temperature_and_correlation_make_confidence_honest() -> None:
    rng = np.random.default_rng(0)
    true = rng.dirichlet(np.full(10, 0.4), 4_000)
    labels = np.array([rng.choice(10, p=row) for row in true])
    too_sure = 3 * np.log(true + 1e-9)
    temperature = metrics.fit_temperature(too_sure, labels)
    assert temperature == pytest.approx(3, rel=0.1)
    assert metrics.expected_calibration_error(metrics.softmax(too_sure), labels) > 0.1
    assert metrics.expected_calibration_error(metrics.softmax(too_sure / temperature), labels) < 0.03


def test_metrics_of_known_answers() -> None:
    scores = np.full((4, 3), 0.1, np.float32)
    scores[[0, 1, 2, 3], [0, 0, 1, 2]] = 0.8
    made = metrics.measure(scores, np.array([0, 0, 1, 2]), np.array([0, 1, 1]), ("a", "b", "c"), 1.0)
    assert (made.clip_accuracy, made.window_accuracy) == (pytest.approx(2 / 3, abs=1e-3), 0.75)
    assert made.confusion == [[1, 0, 0], [0, 1, 1], [0, 0, 0]] and made.per_genre == {"a": 1.0, "b": 0.5}
    assert metrics.wilson(82, 100) == (0.7333, 0.8830)
    low, high = made.clip_interval
    assert 0 <= low < made.clip_accuracy < high <= 1


def test_chance_alone_makes_a_calibration_error_that_shrinks_with_the_number_of_clips() -> None:
    random = np.random.default_rng(0)
    scores = metrics.softmax(3 * random.normal(size=(4_000, 10)))
    few, many = (metrics.ece_if_calibrated(scores[:n], np.arange(n), n, 1.0) for n in (100, 4_000))
    assert 0.05 < few < 0.15 and many < few / 4
    labels = np.array([random.choice(10, p=row / row.sum()) for row in scores.astype(float)])
    assert metrics.expected_calibration_error(scores, labels) == pytest.approx(many, abs=0.01)
