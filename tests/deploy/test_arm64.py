"""The TX2's processor, emulated: segment -> decode -> mel -> ONNX model gives what it gives on x86.

A Debian for arm64 in a folder, JetPack 4.6's own lock file in it (wheels for glibc 2.27), run by qemu as a Cortex-A57.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from services.origin.packager import Packaging, package_file
from services.settings import loading
from tests.demo_recordings import recordings
from tests.deploy.conftest import ROOT, needs
from tools import locks

pytestmark = pytest.mark.timeout(900)

SYSTEM = "python3.11-minimal,libpython3.11-stdlib,libstdc++6,libgcc-s1,zlib1g"
SCRIPT = ROOT / "tests/deploy/one_segment.py"
# Emulation rounds as IEEE 754 says; what differs are the order of sums in SIMD code and the versions of the libraries.
PCM_STEPS, FEATURES, SCORES = 2, 1e-2, 2e-3


@pytest.fixture(scope="module")
def system(scratch: Path) -> Path:
    """Return a root file system for arm64 with the locked wheels laid out in it."""
    needs("mmdebstrap", "qemu-aarch64-static", "chroot")
    given = os.environ.get("GENRE_ARM64_ROOT")
    root = Path(given) if given else scratch / "arm64"
    if not (root / "usr/bin/python3.11").exists():
        command = ["mmdebstrap", "--arch=arm64", "--variant=extract", f"--include={SYSTEM}", "bookworm", str(root)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if not (root / "wheels").is_dir():
        wheels = scratch / "wheels-jetpack4"
        locks.wheelhouse("jetpack4", wheels)
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(root / "wheels")
    shutil.copy2(shutil.which("qemu-aarch64-static") or "", root / "usr/bin/qemu-aarch64-static")
    for name in ("code", "music"):
        shutil.rmtree(root / name, ignore_errors=True)
    for part in ("services", "models"):
        shutil.copytree(ROOT / part, root / "code" / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(SCRIPT, root / "code" / SCRIPT.name)
    (root / "tmp").mkdir(exist_ok=True)
    return root


@pytest.fixture(scope="module")
def playlist(system: Path) -> Path:
    """Return a media playlist of three segments of 4 s."""
    (piece,) = recordings(system / "music", "jazz")
    package_file(piece, system / "music/hls", "piece", Packaging(segment_s=4.0, coder="fast"))
    (found,) = (system / "music/hls").rglob("audio.m3u8")
    lines = found.read_text().splitlines()
    third = [index for index, line in enumerate(lines) if line.endswith(".ts")][2]
    found.write_text("\n".join([*lines[: third + 1], "#EXT-X-ENDLIST", ""]))
    return found


def test_a_segment_gives_the_same_genres_on_a_cortex_a57_as_here(system: Path, playlist: Path) -> None:
    """With the model that the package installs; VGG16 takes too long under emulation."""
    model = loading.load(ROOT / "deploy/genre.toml").inference.model
    inside = "/" + str(playlist.relative_to(system))
    emulated = ["chroot", str(system), "/usr/bin/qemu-aarch64-static", "/usr/bin/python3.11", "/code/one_segment.py"]
    environment = {
        "QEMU_CPU": "cortex-a57", "PYTHONPATH": "/code:/wheels", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
        "HOME": "/tmp", "LANG": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }  # fmt: skip
    done = subprocess.run(
        [*emulated, inside, "/code/models", model, f"/tmp/{model}.npz"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    here = system / "tmp" / f"{model}-here.npz"
    subprocess.run(
        [sys.executable, str(SCRIPT), str(playlist), str(ROOT / "models"), model, str(here)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with np.load(system / "tmp" / f"{model}.npz") as arm, np.load(here) as x86:
        assert (str(arm["machine"]), str(x86["machine"])) == ("aarch64", "x86_64")
        assert arm["pcm"].shape == x86["pcm"].shape and arm["scores"].shape == x86["scores"].shape
        steps = np.abs(arm["pcm"].astype(int) - x86["pcm"].astype(int)).max()
        features = np.abs(arm["features"] - x86["features"]).max()
        scores = np.abs(arm["scores"] - x86["scores"]).max()
        windows = len(arm["scores"])
        print(f"\n{model}, {windows} windows: PCM {steps} steps, features {features:.1e}, scores {scores:.1e} apart")
        assert windows >= 6
        assert steps <= PCM_STEPS and features <= FEATURES and scores <= SCORES
        assert (arm["scores"].argmax(1) == x86["scores"].argmax(1)).all()
