"""The demo's recordings, for tests that need real music and no data set."""

from __future__ import annotations

import shutil
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1] / "demo"


def recordings(folder: Path, *names: str) -> list[Path]:
    """Copy recordings (all where none is named) into a folder and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [DEMO / f"{name}.m4a" for name in names] or sorted(DEMO.glob("*.m4a"))
    return [Path(shutil.copy(file, folder)) for file in chosen]
