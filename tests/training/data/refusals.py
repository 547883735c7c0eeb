"""What a refusal has to look like."""

from __future__ import annotations

import pytest

from services.errors import GenreError


def refused(call: object, *words: str) -> None:
    """Check that a call is refused in one line that holds these words."""
    with pytest.raises(GenreError) as caught:
        call()  # type: ignore[operator]
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text
