"""Which children one `genre up` has, with which ports and settings; all of them on loopback.

Functions from settings to children; `processes.py` runs them, `up.py` decides what is wanted. Start at `Plan`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from broker.mosquitto_conf import local_config
from services import files
from services.errors import GenreError
from services.settings.schema import Settings
from services.supervisor import triton_server
from services.supervisor.processes import Child

PORT_NAMES = ("broker", "origin", "triton-http", "triton", "triton-metrics", "dashboard")
REPLICATED = ("featurizer", "inference")
LEAN = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
"""As in deploy/systemd: a heap for each thread costs an inference replica up to 90 MiB (measured, VGG16 int8)."""
WATCHDOG_S = 30.0
"""A service that gives no sign of life for so long is killed and started again; as in deploy/systemd."""


@dataclass
class Plan:
    """What to start, and where it lies.

    Attributes:
        folder: logs, state, configuration and music of this run.
        ports: by name; those not given are free ones.
    """

    folder: Path
    ports: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("logs", "state", "broker"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def port(self, name: str) -> int:
        """Return the port of a part: the one given, which must be free, or any free one."""
        if name not in self.ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.ports[name] = probe.getsockname()[1]
        return self.ports[name]

    def check_ports(self) -> None:
        """Refuse given ports that are taken.

        Raises:
            GenreError: naming the port and the option.
        """
        for name, port in self.ports.items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    raise GenreError(
                        f"port {port}",
                        f"can't be used for {name} ({error.strerror})",
                        f"give --port {name}=N another one",
                    ) from error

    def log(self, name: str) -> Path:
        """Return a part's log file."""
        return self.folder / "logs" / f"{name}.log"

    def configuration(self, settings: Settings) -> Path:
        """Write the merged settings for the children and return the file."""
        path = self.folder / "genre.json"
        files.replace(path, json.dumps(settings.model_dump(mode="json", exclude_none=True), indent=1), mode=0o600)
        return path


def clean_environment() -> dict[str, str]:
    """Return the environment without GENRE_ overrides: they are merged into the written configuration already."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GENRE_")}


def broker(plan: Plan, persistence: bool = False) -> Child:
    """Return Mosquitto on loopback.

    Args:
        persistence: it keeps on disk what it holds, over its own end.

    Raises:
        GenreError: where it is not installed.
    """
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise GenreError("Mosquitto", "is not installed", "run 'make setup' or 'sudo apt install mosquitto'")
    folder = plan.folder / "broker"
    config = folder / "mosquitto.conf"
    # Started by root, Mosquitto would take on another account, and Linux then forgets to end it with its supervisor.
    user = "root" if os.geteuid() == 0 else None
    config.write_text(local_config(plan.port("broker"), folder, persistence, user), encoding="utf-8")
    return Child("broker", [program, "-c", str(config)], plan.log("broker"))


def origin(plan: Plan, music: Path) -> Child:
    """Return the HLS origin over packaged music."""
    argv = [sys.executable, "-m", "services.origin.server", str(music), "--port", str(plan.port("origin"))]
    return Child("origin", argv, plan.log("origin"))


def triton(plan: Plan, settings: Settings) -> Child:
    """Return a Triton server with the configured model.

    Raises:
        GenreError: where there is none on this machine.
    """
    ports = plan.port("triton-http"), plan.port("triton"), plan.port("triton-metrics")
    folder = plan.folder / "triton"
    inference = settings.inference
    return triton_server.child(
        triton_server.find(), inference.models_dir, inference.model, folder, ports, plan.log("triton")
    )


def service(plan: Plan, name: str, config: Path, instance: str = "1") -> Child:
    """Return one replica of one service."""
    argv = [sys.executable, "-m", "services.cli", name, "--config", str(config), "--instance", instance]
    child = f"{name}-{instance}"
    return Child(child, argv, plan.log(child), {**LEAN, **clean_environment()}, watchdog_s=WATCHDOG_S)


def dashboard_settings(plan: Plan, settings: Settings) -> dict[str, object]:
    """Return the dashboard's section for this run: the configured port where it is free, and a password to log in with.

    It writes `now`, since the broker is this run's own.
    """
    if "dashboard" not in plan.ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if probe.connect_ex(("127.0.0.1", settings.dashboard.port)) != 0:
                plan.ports["dashboard"] = settings.dashboard.port
    section: dict[str, object] = {"port": plan.port("dashboard"), "publish_now": True}
    if settings.dashboard.password_file is None:
        file = plan.folder / "dashboard-password"
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(9) + "\n", encoding="utf-8")
        section["password_file"] = str(file)
    return section


def wait_port(child: Child, port: int, timeout_s: float) -> None:
    """Wait until a child listens.

    Raises:
        GenreError: with its last words, where it ended or did not come up in time.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if not child.alive:
            break
        time.sleep(0.03)
    state = "does not listen" if child.alive else "ended at once"
    raise GenreError(
        child.name, f"{state} on port {port} ({child.last_words() or 'no output'})", f"see {child.log_file}"
    )
