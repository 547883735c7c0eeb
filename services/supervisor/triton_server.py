"""A real Triton server started over our own models/, from the bundle inside the nvidia-pytriton wheel.

The bundle has one backend, Python, and no API of PyTriton's is used. What it needs is arranged here: the stub beside
its library, the model processes' Python first on PATH, loopback addresses. Start at `find`.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from services.errors import GenreError
from services.inference.card import load_card
from services.inference.triton_repository import DEVICES, lay_out
from services.process.triton_end import STOP_S, sweep
from services.supervisor.processes import Child

SHM_PREFIX = "genre_edge_triton"
ANSWER_S = 1.0
HANGS_S = 90.0
"""Loading a model takes seconds, on a small busy machine tens of them; one that was killed while it loaded can hang."""


@dataclass(frozen=True)
class Bundle:
    """A Triton server on this machine.

    Attributes:
        python: interpreter of the environment that the model processes run in (numpy < 2, onnxruntime).
        library_dir: where that interpreter's libpython is.
    """

    server: Path
    backends: Path
    stub: Path
    python: Path
    library_dir: Path


def find() -> Bundle:
    """Return the bundled server.

    It is looked for in $GENRE_TRITON_ENV, then in `.venv-triton` beside this environment.

    Raises:
        GenreError: saying what is missing.
    """
    home = Path(os.environ.get("GENRE_TRITON_ENV") or Path(sys.prefix).parent / ".venv-triton")
    python = home / "bin" / "python"
    remedy = "run 'make setup', or use --backend onnx"
    if not python.exists():
        raise GenreError("Triton", f"there is no environment at {home.name}", remedy)
    asked = subprocess.run(
        [python, "-c", _ASK], capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""}
    )
    if asked.returncode != 0:
        raise GenreError("Triton", f"its environment is broken ({asked.stderr.strip().splitlines()[-1:]})", remedy)
    root, version, library_dir, library = asked.stdout.strip().splitlines()
    bundle = Path(root) / "pytriton" / "tritonserver"
    stub = bundle / "python_backend_stubs" / version / "triton_python_backend_stub"
    server = bundle / "bin" / "tritonserver"
    for path in (server, stub):
        if not path.is_file():
            raise GenreError("Triton", f"nvidia-pytriton has no {path.name} for Python {version}", remedy)
    if not (Path(library_dir) / library).exists():
        raise GenreError(
            "Triton",
            f"its model processes need {library}, which is not here",
            f"apt install libpython{version}, or {remedy}",
        )
    links = subprocess.run(["ldd", str(server)], capture_output=True, text=True, check=False)
    missing = [line.strip() for line in (links.stdout + links.stderr).splitlines() if "not found" in line]
    if missing:
        raise GenreError("Triton", f"its server can't run on this system ({missing[0]})", "use --backend onnx")
    return Bundle(server, bundle / "backends", stub, python, Path(library_dir))


_ASK = """
import os, sys, sysconfig
version = "%d.%d" % sys.version_info[:2]
library = "libpython%s.so.1.0" % version
ask = sysconfig.get_config_var
folders = [ask("LIBDIR"), ask("LIBPL"), "/usr/lib/%s" % ask("MULTIARCH"), "/usr/lib"]
print(sysconfig.get_path("platlib"))
print(version)
print(next((f for f in folders if f and os.path.exists(os.path.join(f, library))), folders[0]))
print(library)
"""


def child(
    bundle: Bundle, models_dir: Path, model: str, folder: Path, ports: tuple[int, int, int], log_file: Path
) -> Child:
    """Return the server as a child process, on loopback.

    Args:
        folder: where the backend directory and the model repository are laid out.
        ports: HTTP, gRPC and metrics.
    """
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True, exist_ok=True)
    for source in (*(bundle.backends / "python").glob("*.*"), bundle.stub):
        link = backend / source.name
        if not link.exists():
            link.symlink_to(source)
    repository = folder / "repository"
    lay_out(load_card(models_dir, model), repository, DEVICES["cpu"], link=True)
    http, grpc, metrics = ports
    prefix = f"{SHM_PREFIX}_{grpc}_"
    argv = [
        str(bundle.server),
        f"--model-repository={repository.resolve()}",
        "--model-control-mode=explicit",
        f"--load-model={model}",
        "--exit-on-error=false",
        "--strict-readiness=false",
        f"--backend-directory={folder / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        "--http-address=127.0.0.1",
        f"--http-port={http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={metrics}",
        "--log-verbose=0",
        "--exit-timeout-secs=2",
    ]
    env = {
        **os.environ,
        # The model processes' Python is found through PATH, not PYTHONPATH.
        "PATH": f"{bundle.python.parent}:{os.environ.get('PATH', '')}",
        "LD_LIBRARY_PATH": f"{bundle.library_dir}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "PYTHONPATH": "",
        "VIRTUAL_ENV": str(bundle.python.parent.parent),
    }
    return Child(
        "triton",
        argv,
        log_file,
        env,
        stop_s=STOP_S,
        before=lambda: sweep(prefix),
        answers=lambda: is_ready(http, model),
        answer_s=HANGS_S,
    )


def is_ready(port: int, model: str) -> bool:
    """Whether a server on this machine has a model ready, in its own words.

    Not whether the model answers: Triton calls one ready whose process is dead, and inference cures that by loading it
    again. But a process that dies while it loads can leave the model "loading or unloading" for ever, deaf to every
    request to load; then only a new server helps.
    """
    return _answers(port, f"models/{model}/ready")


def _answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/{path}", timeout=ANSWER_S) as answer:
            return int(answer.status) == 200
    except OSError:
        return False


def can_run_here() -> bool:
    """Whether the bundle exists for this kind of machine at all."""
    return sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
