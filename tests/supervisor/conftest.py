"""Packaged music and a cheap model for runs of `genre up`, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.streams import tiny_model, write_music


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_music(tmp_path_factory.mktemp("music"), {"long": 40.0, "brief": 2.0})


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    tiny_model(models)
    return models
