"""What the boot tests share: a Debian root file system and two packages with every wheel in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def needs(*programs: str) -> None:
    """Skip unless this is `make test-deploy`, as root, with these programs."""
    if os.environ.get("GENRE_TEST_DEPLOY") != "1":
        pytest.skip("boots a system: run 'make test-deploy'")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder for root file systems and disks, gigabytes that are gone afterwards."""
    folder = tmp_path_factory.mktemp("deploy")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def wheelhouse(scratch: Path) -> Path:
    given = os.environ.get("GENRE_WHEELHOUSE")
    folder = Path(given) if given else scratch / "wheelhouse"
    if not given:
        subprocess.run(
            [sys.executable, str(ROOT / "tools/locks.py"), "wheelhouse", "debian12", str(folder)], check=True
        )
    return folder


@pytest.fixture(scope="session")
def packages(scratch: Path, wheelhouse: Path) -> list[Path]:
    """The package, and the same as a later version."""
    made = []
    for version in ("0.1.0", "0.1.1"):
        command = [sys.executable, str(ROOT / "deploy/deb/build"), "--out", str(scratch), "--version", version]
        done = subprocess.run([*command, "--wheelhouse", str(wheelhouse)], check=True, capture_output=True, text=True)
        made.append(Path(done.stdout.strip()))
    return made
