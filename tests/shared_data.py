"""Where tests find the shared material that lies beside the project, not in it.

`shared("data", "hls-streams")` is a path, or the test is skipped with a word on what is missing. Nothing below it is
ever copied into the project.
"""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def shared(*parts: str) -> Path:
    """Return the path of a shared file or folder; skip the test where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs ../shared/{'/'.join(parts)}, which is not here")
    return path
