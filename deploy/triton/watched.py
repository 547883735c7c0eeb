"""Triton under systemd's watchdog: starts the server, says when it is ready, and beats only while its models answer.

    watched.py [--url 127.0.0.1:8001] -- tritonserver ...

Triton says "ready" while a model's process is dead, and a hung server says nothing at all: only an inference proves
health. When the beats stop, systemd ends server and model processes and starts them again. `genre up` judges by another
rule: services/process/triton_end.py says why. Start at `Watch.problem`.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from services.process.systemd_notify import notify, watchdog_interval_s
from services.process.triton_end import STOP_S, sweep

SHARED_MEMORY = "triton_python_backend_shm_region_"


class Watch:
    """Asks one server whether every model that it ever had ready answers.

    Args:
        url: host:port of its gRPC endpoint.
        deadline_s: longest wait for one answer.
    """

    def __init__(self, url: str, deadline_s: float) -> None:
        self._client = triton.InferenceServerClient(url)
        self._deadline_s = deadline_s
        self._models: set[str] = set()

    def live(self) -> bool:
        """Whether it answers at all; it does so once its models are loaded, or could not be."""
        try:
            return bool(self._client.is_server_live(client_timeout=self._deadline_s))
        except InferenceServerException:
            return False

    def loaded(self) -> tuple[set[str], dict[str, str]]:
        """Return the models that are ready, and why each one that did not load is not."""
        index = self._client.get_model_repository_index(client_timeout=self._deadline_s)
        ready = {model.name for model in index.models if model.state == "READY"}
        return ready, {model.name: model.reason for model in index.models if model.name not in ready and model.reason}

    def problem(self) -> str:
        """Return what is wrong, '' where every model answers; one that was ready once must go on answering."""
        name = "the server"
        try:
            self._models |= self.loaded()[0]
            for name in sorted(self._models):
                self._canary(name)
        except InferenceServerException as error:
            return f"{name} does not answer ({error.status()} {error.message()})"[:300]
        return ""

    def _canary(self, name: str) -> None:
        metadata = self._client.get_model_metadata(name, client_timeout=self._deadline_s)
        inputs = []
        for tensor in metadata.inputs:
            shape = [max(size, 1) for size in tensor.shape]
            inputs.append(triton.InferInput(tensor.name, shape, tensor.datatype))
            inputs[-1].set_data_from_numpy(np.zeros(shape, triton_to_np_dtype(tensor.datatype)))
        self._client.infer(name, inputs, client_timeout=self._deadline_s)


def explicit(command: list[str]) -> list[str]:
    """Return the command that loads every model of its repository by name.

    Services may then ask for a model again, when its process died or its folder holds another version; by default
    Triton refuses that. `--load-model=*` is not known to the Triton of JetPack 4.6.
    """
    repository = next((word.partition("=")[2] for word in command if word.startswith("--model-repository=")), None)
    if repository is None or any(word.startswith("--model-control-mode") for word in command):
        return command
    names = sorted(config.parent.name for config in Path(repository).glob("*/config.pbtxt"))
    return [*command, "--model-control-mode=explicit", *(f"--load-model={name}" for name in names)]


def run(command: list[str], url: str) -> int:
    """Run the server until it ends or a signal comes; return its exit code, 0 after a signal.

    A server that could load none of its models is ended, with what it says of each.
    """
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    sweep(SHARED_MEMORY)
    every_s = watchdog_interval_s() or 20.0
    watch = Watch(url, deadline_s=every_s / 2)
    server = subprocess.Popen(explicit(command))
    ready, no_models, said, next_look = False, False, "", 0.0
    while server.poll() is None and not stop.wait(0.2):
        if time.monotonic() < next_look:
            continue
        if not ready:
            ready = watch.live()
            next_look = time.monotonic() + (0.0 if ready else 0.5)
            if ready:
                models, missing = watch.loaded()
                for name, reason in sorted(missing.items()):
                    print(f"model {name} is not loaded: {reason}"[:500], file=sys.stderr, flush=True)
                if not models:
                    print("no model is loaded; ending", file=sys.stderr, flush=True)
                    no_models = True
                    break
                notify("READY=1")
            continue
        wrong = watch.problem()
        next_look = time.monotonic() + every_s
        if not wrong:
            notify("WATCHDOG=1")
        elif wrong != said:
            print(f"{wrong}; no watchdog beat is sent", file=sys.stderr, flush=True)
        said = wrong
    notify("STOPPING=1")
    if server.poll() is not None:
        print(f"tritonserver ended with code {server.returncode}", file=sys.stderr, flush=True)
        return server.returncode or 1
    server.terminate()
    try:
        server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    return int(no_models)


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="127.0.0.1:8001")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    return run(options.command, options.url)


if __name__ == "__main__":
    sys.exit(main())
