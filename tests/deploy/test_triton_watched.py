"""Triton under the watchdog, with a real server and a real notify socket: ready, beats, a hang, a crash, an end."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from services.errors import GenreError
from services.settings import schema
from services.supervisor import triton_server
from tests.broker.mosquitto import free_port, wait_for
from tests.deploy.conftest import ROOT

BEAT_S = 0.5
MODEL = schema.Inference().model


class Watched:
    """The wrapper with its server, and what it tells systemd."""

    def __init__(self, folder: Path, models: Path = ROOT / "models", *, spoilt: bool = False) -> None:
        try:
            bundle = triton_server.find()
        except GenreError as error:
            pytest.skip(str(error))
        ports = (free_port(), free_port(), free_port())
        child = triton_server.child(bundle, models, MODEL, folder, ports, folder / "log")
        if spoilt:  # after its card was checked, as a disk does it
            (models / MODEL / "1" / "model.onnx").write_bytes(b"nonsense")
        assert child.env is not None
        server_env = [f"{name}={child.env[name]}" for name in ("PATH", "LD_LIBRARY_PATH")]
        self.words: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        script = [sys.executable, str(ROOT / "deploy/triton/watched.py"), "--url", f"127.0.0.1:{ports[1]}", "--"]
        environment = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify"), "PYTHONPATH": str(ROOT)}
        environment["WATCHDOG_USEC"] = str(int(3 * BEAT_S * 1e6))
        self.log = folder / "watched.log"
        with self.log.open("wb") as log:
            command = [*script, "/usr/bin/env", *server_env, *child.argv]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while word := self._socket.recv(100):
                self.words.append(word.decode())

    def beats(self) -> int:
        return self.words.count("WATCHDOG=1")

    def more_beats(self) -> None:
        before = self.beats()
        wait_for(lambda: self.beats() >= before + 2, "beats", 60)

    def server(self) -> psutil.Process:
        (found,) = (p for p in psutil.Process(self.process.pid).children() if p.name() == "tritonserver")
        return found

    def end(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [*psutil.Process(self.process.pid).children(recursive=True)]:
                process.kill()
        self.process.kill()
        self.process.wait()
        self._socket.close()


def watched_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("watched", ROOT / "deploy/triton/watched.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    under_watch = Watched(tmp_path)
    yield under_watch
    under_watch.end()


def test_a_hung_server_gets_no_beat_and_a_healthy_one_does(watched: Watched) -> None:
    wait_for(lambda: "READY=1" in watched.words, "READY=1", 60)
    watched.more_beats()
    os.kill(watched.server().pid, signal.SIGSTOP)
    wait_for(lambda: "no watchdog beat" in watched.log.read_text(), "the hang to be noticed", 60)
    silent = watched.beats()
    # Twice the time in which a healthy one would have beaten: nothing may come.
    looks = threading.Event()
    looks.wait(4 * BEAT_S)
    assert watched.beats() == silent
    os.kill(watched.server().pid, signal.SIGCONT)
    watched.more_beats()
    watched.process.send_signal(signal.SIGTERM)
    assert watched.process.wait(60) == 0
    assert watched.words[-1] == "STOPPING=1"


def test_a_dead_model_process_behind_a_ready_server_gets_no_beat(watched: Watched) -> None:
    wait_for(lambda: "READY=1" in watched.words, "READY=1", 60)
    watched.more_beats()
    stubs = [p for p in watched.server().children(recursive=True) if "stub" in p.name()]
    assert stubs
    for stub in stubs:
        stub.kill()
    wait_for(lambda: f"{MODEL} does not answer" in watched.log.read_text(), "the dead model to be noticed", 60)


def test_when_the_server_dies_so_does_the_unit_with_a_failure(watched: Watched) -> None:
    wait_for(lambda: "READY=1" in watched.words, "READY=1", 60)
    watched.server().kill()
    assert watched.process.wait(30) not in (0, None)


def test_a_server_that_could_load_no_model_says_why_and_never_that_it_is_ready(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "models" / MODEL, tmp_path / "models" / MODEL)
    under_watch = Watched(tmp_path, tmp_path / "models", spoilt=True)
    try:
        assert under_watch.process.wait(60) == 1
    finally:
        under_watch.end()
    said = under_watch.log.read_text()
    assert f"model {MODEL} is not loaded: " in said and "no model is loaded; ending" in said
    assert "READY=1" not in under_watch.words


def test_every_model_of_the_repository_is_loaded_by_name(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").touch()
    (tmp_path / "no-model").mkdir()
    command = ["tritonserver", f"--model-repository={tmp_path}", "--grpc-port=1"]
    assert watched_module().explicit(command) == [
        *command, "--model-control-mode=explicit", "--load-model=a", "--load-model=b"
    ]  # fmt: skip
    chosen = [*command, "--model-control-mode=none"]
    assert watched_module().explicit(chosen) == chosen
