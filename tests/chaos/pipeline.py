"""The whole pipeline as real processes, with a fault proxy on every link.

Its processes are those of `genre up` (services/supervisor/children.py), so that what is tried is what runs. Start at
`Pipeline`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.rigs.proxy import FaultProxy
from services.settings.schema import Broker, Inference, Settings
from services.supervisor import children
from services.supervisor.children import Plan
from services.supervisor.processes import Child, ProcessGroup
from tests.chaos.recorder import RECORDER, Recorder
from tests.chaos.wall_clock import WallClock

ROOT = Path(__file__).resolve().parents[2]
RESTART_S = 0.5
PORTS = ("broker", "origin", "triton-http", "triton", "triton-metrics")


@dataclass
class Shape:
    """What a pipeline is made of."""

    folder: Path
    playlists: Mapping[str, str]
    models_dir: Path
    model: str
    hls: Path
    featurizers: int = 2
    inferences: int = 2
    persistence: bool = False
    triton: bool = False
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def services(self) -> list[str]:
        """Names of the service processes."""
        inferences = [f"inference-{i + 1}" for i in range(self.inferences)]
        return [*inferences, *(f"featurizer-{i + 1}" for i in range(self.featurizers)), "fetcher-1"]


class Pipeline:
    """One run. Children that nobody holds down are started again when they end, as a supervisor would."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._plan = Plan(shape.folder)
        self.ports = {name: self._plan.port(name) for name in PORTS}
        self.clock = WallClock(shape.folder)
        self.held: set[str] = set()
        self._group = ProcessGroup()
        self.children: dict[str, Child] = {}
        self.proxies: dict[str, FaultProxy] = {}
        self.unasked = 0
        self.peak_broker_bytes = 0
        self._ended_at: dict[str, float] = {}
        self.recorder = Recorder(Broker(port=self.ports["broker"]))

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything."""
        shape = self.shape
        broker = children.broker(self._plan, shape.persistence)
        broker.env = self.clock.of_broker(os.environ)
        self._add(broker)
        self._add(children.origin(self._plan, shape.hls))
        if shape.triton:
            inference = Inference(model=shape.model, models_dir=shape.models_dir)
            self._add(children.triton(self._plan, Settings(inference=inference)))
            self.proxies["triton"] = FaultProxy(self.ports["triton"])
        self.proxies["origin"] = FaultProxy(self.ports["origin"])
        self.recorder.start()
        for name in shape.services():
            self.proxies[name] = FaultProxy(self.ports["broker"])
            self._add(self._service(name))

    def supervise(self) -> None:
        """Start again what ended and is not held down; note the broker's memory."""
        now = time.monotonic()
        for name, child in self.children.items():
            if name not in self.held:
                child.check()
            if child.alive or name in self.held:
                self._ended_at.pop(name, None)
            elif name not in self._ended_at:
                self._ended_at[name] = now
                self.unasked += 1
            elif now - self._ended_at[name] > RESTART_S:
                del self._ended_at[name]
                child.start()
        if (broker := self.process("broker")) is not None:
            with contextlib.suppress(psutil.Error):
                self.peak_broker_bytes = max(self.peak_broker_bytes, broker.memory_info().rss)

    def end(self) -> list[str]:
        """End everything; return what was left over: processes that name this run's folder."""
        self.recorder.mqtt.stop()
        for proxy in self.proxies.values():
            proxy.close()
        self._group.end()
        left = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if str(self.shape.folder) in line and process.pid != os.getpid():
                left.append(line)
        return left

    # --- inside ----------------------------------------------------------------------------------------------------

    def process(self, name: str) -> psutil.Process | None:
        """Return a child's process, where it runs."""
        child = self.children[name]
        if not child.alive or child.process is None:
            return None
        try:
            return psutil.Process(child.process.pid)
        except psutil.NoSuchProcess:
            return None

    def scale_out(self, name: str) -> None:
        """Start one more replica."""
        self.proxies[name] = FaultProxy(self.ports["broker"])
        self._add(self._service(name))

    def scale_in(self, name: str) -> None:
        """End a replica as a person would, with SIGTERM."""
        self.held.add(name)
        self._group.remove(self.children.pop(name))
        self.proxies.pop(name).close()

    def _add(self, child: Child) -> None:
        self.children[child.name] = self._group.add(child)

    def _service(self, name: str) -> Child:
        service, instance = name.rsplit("-", 1)
        origin = self.proxies["origin"].port
        streams = [{"name": s, "url": f"http://127.0.0.1:{origin}/{path}"} for s, path in self.shape.playlists.items()]
        retry = {"attempts": 100, "first_wait_s": 0.1, "longest_wait_s": 1.0}
        settings: dict[str, dict[str, Any]] = {
            "broker": {"port": self.proxies[name].port, "keepalive_s": 4, "session_expiry_s": 6},
            "hls": {
                "playlist_retry": retry,
                "segment_retry": retry,
                "read_timeout_s": 3.0,
                "connect_timeout_s": 3.0,
            },
            "fetcher": {"cursor_interval_s": 0.5, "ack_timeout_s": 1.0},
            "inference": {
                "model": self.shape.model,
                "models_dir": str(self.shape.models_dir),
                "backend": "triton" if self.shape.triton else "onnx",
                "wait_for_reader": f"supervisor/{RECORDER}",
            },
            "paths": {"state_dir": str(self.shape.folder / "state")},
            "log": {"level": "info"},
        }
        if self.shape.triton:
            settings["inference"]["triton_url"] = f"127.0.0.1:{self.proxies['triton'].port}"
        for section, values in self.shape.settings.items():
            settings[section] = {**settings.get(section, {}), **values}
        path = self.shape.folder / f"{name}.json"
        path.write_text(json.dumps({**settings, "streams": streams}))
        child = children.service(self._plan, service, path, instance)
        child.env = self.clock.of_service(child.env or {}, ROOT)
        child.watchdog_s = None  # a process that a fault holds still is not to be killed for it
        return child
