"""What the shipped models promise, heard as the service hears: level says nothing, and kinds are told."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from services.contract.windows import SAMPLE_RATE, WINDOW
from services.featurizer.features import Featurizer
from services.inference.answer import Answer
from services.inference.card import KINDS, load_card, model_names
from services.inference.onnx_backend import OnnxBackend
from tools.sound_synthesis import SOUNDS

MODELS = Path(__file__).resolve().parents[3] / "models"
HEARING = [name for name in model_names(MODELS) if load_card(MODELS, name).kinds]
NEWEST_OPSET = 13
_TIME = np.arange(WINDOW) / SAMPLE_RATE


@functools.cache
def heard_by(name: str) -> tuple[Featurizer, OnnxBackend]:
    card = load_card(MODELS, name)
    return Featurizer(card.recipe), OnnxBackend(card)


def answer(name: str, windows: NDArray[np.int16]) -> Answer:
    featurizer, engine = heard_by(name)
    return engine.answer(featurizer.views(windows))


def band() -> NDArray[np.float64]:
    """A beat, a bass and chords, peak 1: as music is, never quite still."""
    random = np.random.default_rng(0)
    signal = 0.02 * random.standard_normal(WINDOW)
    for beat in range(6):
        start = beat * 11_025
        length = min(8_000, WINDOW - start)
        decay = np.exp(-np.arange(length) / 1_500)
        signal[start : start + length] += decay * random.standard_normal(length) * (0.5 if beat % 2 else 0.2)
        signal[start : start + length] += decay * np.sin(2 * np.pi * 60 * _TIME[:length])
    for note in (110.0, 220.0, 277.2, 329.6):
        signal += 0.15 * sum(np.sin(2 * np.pi * note * n * _TIME) / n for n in range(1, 9))
    return signal / np.abs(signal).max()


def at(signal: NDArray[np.float64], dbfs: float) -> NDArray[np.int16]:
    """One window whose peak stands at a level."""
    return np.rint(signal * 32_767 * 10 ** (dbfs / 20)).astype(np.int16)[None]


def test_the_tree_ships_models_that_tell_kinds() -> None:
    assert HEARING


@pytest.mark.parametrize("name", HEARING)
def test_an_answer_does_not_move_with_the_level(name: str) -> None:
    signal = band()
    loud = answer(name, at(signal, 0))
    assert loud.kinds is not None
    for dbfs in (-6, -12, -20, -30, -40):
        quiet = answer(name, at(signal, dbfs))
        assert quiet.kinds is not None
        assert np.abs(quiet.scores - loud.scores).max() < 0.01
        assert np.abs(quiet.kinds - loud.kinds).max() < 0.01


@pytest.mark.parametrize("name", HEARING)
def test_music_is_music_and_what_is_neither_is_other(name: str) -> None:
    assert KINDS[answer(name, at(band(), -6)).kinds.argmax()] == "music"  # type: ignore[union-attr]
    random = np.random.default_rng(3)
    windows = [at(sound(random).astype(np.float64), 0)[0] for sound in SOUNDS.values() for _ in range(3)]
    told = answer(name, np.stack(windows)).kinds
    assert told is not None and (told.argmax(axis=1) == KINDS.index("other")).mean() >= 0.9


@pytest.mark.parametrize("name", HEARING)
def test_each_answer_is_a_probability_even_of_silence_and_full_scale(name: str) -> None:
    square = np.where(_TIME * 440 % 1 < 0.5, 32_767, -32_768).astype(np.int16)
    found = answer(name, np.stack([np.zeros(WINDOW, np.int16), square, np.full(WINDOW, 32_767, np.int16)]))
    assert found.problem() == "" and found.kinds is not None
    np.testing.assert_allclose(found.scores.sum(axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(found.kinds.sum(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("name", HEARING)
def test_a_jetsons_engine_reads_the_file(name: str) -> None:
    model = onnx.load(load_card(MODELS, name).path())
    assert model.opset_import[0].version <= NEWEST_OPSET and len(model.opset_import) == 1
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input} == {"batch"}
