"""The page and the notebook for Python run as they are printed, beside folders whose names are our rooms', too."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import genre_edge
from services.contract.windows import WINDOW

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(400)
NOTEBOOK = ROOT / "docs" / "notebooks" / "features-and-genres.ipynb"


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where somebody works who has folders called services and training."""
    folder = tmp_path_factory.mktemp("work")
    for name in ("services", "training"):
        (folder / name).mkdir()
    (folder / "training" / "__init__.py").write_text("")
    (folder / "services" / "__init__.py").write_text("raise SystemExit('another package')\n")
    return folder


def python(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    # The folder comes first, as it does for a notebook; the project behind it, as when it is installed.
    env = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "MPLBACKEND": "Agg"}
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=300, cwd=folder, env=env
    )


def test_the_notebook_and_the_page_run(beside: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(code) > 5 and len(blocks) == 3
    song = 'import shutil\nshutil.copy(path, "song.wav")'  # the page's, of which the notebook's beat is one
    done = python("\n".join([*code, song, *blocks]), beside)
    assert done.returncode == 0, done.stderr
    first, *_ = done.stdout.splitlines()
    assert first.startswith(("music", "unsure", "other")) and "(6, 66000) (6, 129, 128)" in done.stdout


def test_the_notebook_is_committed_without_output() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert notebook["nbformat"] == 4
    assert all(
        not cell["outputs"] and cell["execution_count"] is None for cell in notebook["cells"] if "outputs" in cell
    )


def test_another_package_of_a_rooms_name_that_came_first_is_named(beside: Path) -> None:
    (beside / "services" / "__init__.py").write_text("")
    done = python("import services, genre_edge", beside)
    assert done.returncode == 1 and "import genre_edge first" in done.stderr.splitlines()[-1]


def test_paths_may_be_text_and_errors_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(genre_edge.GenreError, match="is not there"):
        genre_edge.windows(str(tmp_path / "absent.wav"))
    with pytest.raises(genre_edge.GenreError, match="is not known"):
        genre_edge.load_recipe("nosuch")
    with pytest.raises(genre_edge.GenreError, match="nosuch"):
        genre_edge.Model("nosuch")
    answer = genre_edge.Model("vgg16", str(ROOT / "models")).answer(np.zeros((2, WINDOW), np.int16))
    assert answer.scores.shape == (2, 10) and answer.kinds is None
