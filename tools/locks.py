"""Which lock file belongs to which machine, the wheelhouse for a machine, and the proof that each lock is wheels only.

Nothing is ever built on a device. Lock files are made by `make lock`; JetPack 4.6's glibc 2.27 needs older wheels than
everyone else, so it has a lock of its own, made here. Start at PLATFORMS.

    python tools/locks.py check                       every lock against its platforms
    python tools/locks.py wheelhouse jetpack6 DIR     download what an offline install needs
    python tools/locks.py lock jetpack4               make requirements/jetpack4.txt again
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Platform:
    """A kind of machine: its Pythons, processor, glibc (2.x) and lock file."""

    pythons: tuple[str, ...]
    machine: str
    glibc: int
    lock: str


PLATFORMS = {
    "jetpack4": Platform(("3.11",), "aarch64", 27, "jetpack4.txt"),
    "jetpack5": Platform(("3.12",), "aarch64", 31, "run.txt"),
    "jetpack6": Platform(("3.10", "3.12"), "aarch64", 35, "run.txt"),
    "jetpack7": Platform(("3.12",), "aarch64", 39, "run.txt"),
    "debian12": Platform(("3.11",), "x86_64", 36, "run.txt"),
    "ubuntu2204": Platform(("3.10",), "x86_64", 35, "run.txt"),
    "ubuntu2404": Platform(("3.12",), "x86_64", 39, "run.txt"),
}


def pip_options(platform: Platform, python: str) -> list[str]:
    """Return pip's words for that machine; pip needs every manylinux_2_NN named, down to 17."""
    tags = [f"manylinux_2_{minor}_{platform.machine}" for minor in range(platform.glibc, 16, -1)]
    tags += [f"manylinux2014_{platform.machine}"]
    abi = f"cp{python.replace('.', '')}"
    return [
        "--only-binary=:all:", "--implementation=cp", f"--python-version={python}",
        *(f"--abi={name}" for name in (abi, "abi3", "none")), *(f"--platform={tag}" for tag in tags),
    ]  # fmt: skip


def wheelhouse(name: str, folder: Path, python: str | None = None) -> None:
    """Download every wheel of a platform's lock, hashes checked."""
    platform = PLATFORMS[name]
    lock = ROOT / "requirements" / platform.lock
    options = pip_options(platform, python or platform.pythons[0])
    _pip("download", "--no-deps", "--require-hashes", *options, "-r", str(lock), "-d", str(folder))


def lock_from_wheels(name: str) -> Path:
    """Resolve for a platform with pip, wheels only, and write its lock with hashes."""
    platform = PLATFORMS[name]
    with tempfile.TemporaryDirectory() as folder:
        _pip("download", *pip_options(platform, platform.pythons[0]), *_wanted(), "-d", folder)
        lines = []
        for wheel in sorted(Path(folder).glob("*.whl"), key=lambda path: path.name.lower()):
            project, version = wheel.name.split("-")[:2]
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            lines.append(f"{project.replace('_', '-').lower()}=={version} \\\n    --hash=sha256:{digest}\n")
    target = ROOT / "requirements" / platform.lock
    target.write_text("".join(lines), encoding="utf-8")
    return target


def _wanted() -> list[str]:
    """Return the requirements of the `run` extra, from pyproject.toml, without other machines' markers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    names = re.search(r"\[(.*)\]", extras["run"][0])
    assert names is not None
    wanted = [*project["dependencies"], *(line for extra in names[1].split(",") for line in extras[extra])]
    return [line for line in wanted if "python_version" not in line]


def check(name: str, python: str) -> str | None:
    """Return what is wrong with a platform's lock; None where every entry has a wheel with a known hash."""
    platform = PLATFORMS[name]
    lock = ROOT / "requirements" / platform.lock
    if platform.glibc < 28:  # uv knows no glibc below 2.28 but 2.17
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
            command += [*pip_options(platform, python), "-r", str(lock), "-d", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
    else:
        uv = shutil.which("uv")
        if uv is None:
            return "uv is not installed; 'pip install uv' first"
        with tempfile.TemporaryDirectory() as folder:
            command = [uv, "pip", "install", "--dry-run", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
            command += ["--python-platform", f"{platform.machine}-manylinux_2_{platform.glibc}"]
            command += ["--python-version", python, "--target", folder, "-r", str(lock)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip()


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments, "-q", "--disable-pip-version-check"], check=True)


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands above; return the exit code."""
    match arguments:
        case ["check", *names]:
            failed = 0
            for name in names or PLATFORMS:
                for python in PLATFORMS[name].pythons:
                    problem = check(name, python)
                    print(f"{name:12}Python {python:5}{PLATFORMS[name].lock:14}{problem or 'wheels only'}")
                    failed += problem is not None
            return 1 if failed else 0
        case ["wheelhouse", name, folder, *python] if name in PLATFORMS:
            wheelhouse(name, Path(folder), *python)
            return 0
        case ["lock", name] if name in PLATFORMS:
            print(lock_from_wheels(name))
            return 0
        case _:
            print(__doc__, f"\nplatforms: {', '.join(PLATFORMS)}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
