"""Fixtures of the fetcher's HLS tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fetcher.builders import made
from tests.fetcher.origin import ScriptedOrigin

__all__ = ["made", "origin"]


@pytest.fixture
def origin() -> Iterator[ScriptedOrigin]:
    """An origin under the test's control."""
    with ScriptedOrigin() as scripted:
        yield scripted
