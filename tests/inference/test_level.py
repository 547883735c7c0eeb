"""Loudness is no genre: between -40 and 0 dBFS the shipped models' answers stay where they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from services.contract.windows import cut
from services.featurizer.features import Featurizer
from services.inference.answer import Answer
from services.inference.card import load_card
from services.inference.decision import decide_windows
from services.inference.onnx_backend import OnnxBackend
from services.settings.schema import Inference
from tests.shared_data import shared

MODELS, DEFAULT = Path(__file__).resolve().parents[2] / "models", Inference().model
MOST = 0.01


def composed() -> NDArray[np.float32]:
    """Three windows that need no file: a chord with a beat, a gliding tone, noise in bursts."""
    t, rng = np.arange(66_000) / 22_050, np.random.default_rng(4)
    chord = sum(np.sin(2 * np.pi * hertz * t) for hertz in (220, 277, 330, 440)) * (1.2 + np.sin(2 * np.pi * 2 * t))
    glide = np.sin(2 * np.pi * (200 * t + 150 * t**2))
    bursts = rng.normal(size=66_000) * (np.sin(2 * np.pi * 3 * t) > 0)
    return np.stack([chord, glide, bursts]).astype(np.float32)


def real() -> NDArray[np.float32]:
    """Windows of real music, one of each genre at least."""
    files = sorted(shared("data", "gtzan-subset").glob("*/*.flac"))
    chosen = [files[index] for index in np.linspace(0, len(files) - 1, 12).astype(int)]
    return np.concatenate([cut(soundfile.read(path, dtype="int16")[0])[:1] for path in chosen]).astype(np.float32)


def at(windows: NDArray[np.float32], level_dbfs: float, bits: bool) -> NDArray[np.float32] | NDArray[np.int16]:
    """Return the windows at a level: where `bits` as the wire has them, as long as they fit into 16."""
    scaled = windows * (10 ** (level_dbfs / 20) / windows.std(axis=1, keepdims=True))
    return np.rint(scaled * 32_768).astype(np.int16) if bits and np.abs(scaled).max() < 1 else scaled


@pytest.mark.parametrize("name", [DEFAULT, f"{DEFAULT}-fast"])
@pytest.mark.parametrize(("source", "bits"), [(composed, False), (real, True)])
def test_an_answer_does_not_hang_on_the_level(name: str, source: Callable[[], NDArray[np.float32]], bits: bool) -> None:
    """What is digitally clean, as composed windows are, 16 bits alone change by 0.02 at -40 dBFS; recordings not."""
    windows, card = source(), load_card(MODELS, name)
    featurizer, engine = Featurizer(card.recipe), OnnxBackend(card)

    def answer(level_dbfs: float) -> Answer:
        return engine.answer(featurizer.views(at(windows, level_dbfs, bits)))

    expected = answer(-20.0)
    for level_dbfs in (-40.0, -30.0, -15.0, -10.0, 0.0):
        found = answer(level_dbfs)
        assert found.kinds is not None and expected.kinds is not None
        assert np.abs(found.scores - expected.scores).max() <= MOST, level_dbfs
        assert np.abs(found.kinds - expected.kinds).max() <= MOST, level_dbfs
        before, now = (decide_windows(each, [level_dbfs] * len(windows), card) for each in (expected, found))
        for one, other in zip(before, now, strict=True):
            assert abs(one.confidence - other.confidence) <= MOST, level_dbfs
