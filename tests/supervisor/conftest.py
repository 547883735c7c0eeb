"""Packaged music and a cheap model for runs of `genre up`, made once a session."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from tests.chaos.streams import tiny_model


def write_music(folder: Path, pieces: dict[str, float]) -> Path:
    """Write pieces of music: chords that change, with a little noise, so that every window differs."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, seconds) in enumerate(pieces.items()):
        draw = np.random.default_rng(number)
        t = np.arange(int(44_100 * seconds)) / 44_100
        notes = 110 * 2 ** (draw.integers(0, 24, size=int(seconds) + 1) / 12)
        pitch = notes[t.astype(int)]
        sound = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in (1, 2, 3)) + draw.normal(0, 0.05, t.size)
        pcm = (np.clip(sound / 3, -1, 1) * 20_000).astype("<i2")
        with wave.open(str(folder / f"{name}.wav"), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(44_100)
            out.writeframes(pcm.tobytes())
    return folder


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_music(tmp_path_factory.mktemp("music"), {"long": 40.0, "brief": 2.0})


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    tiny_model(models)
    return models
