"""One box of a month: broker, fetcher, featurizer, inference and dashboard as real processes, with clocks of their own.

Children that end are started again, as systemd would. Start at `Box`.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psutil
import requests

from broker.mosquitto_conf import local_config
from services.supervisor.processes import Child, ProcessGroup
from tests.broker.mosquitto import PROGRAM, free_port
from tests.month.clocks import Calendar

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("fetcher", "featurizer", "inference", "dashboard")
STOPPED_AFTER_S = 5
DEAD_AFTER_S = 4.0
"""So that an outage of some seconds is to the box what a night is to one in a café."""


class Box:
    """The box; `config` is the one file that all its services read and follow."""

    def __init__(self, folder: Path, models_dir: Path, streams: dict[str, str]) -> None:
        folder.mkdir(parents=True)
        self.folder, self.state = folder, folder / "state"
        self.clocks = Calendar(folder)
        self.ports = {name: free_port() for name in ("broker", "dashboard")}
        self.config = folder / "genre.json"
        self._models_dir, self._streams = models_dir, dict(streams)
        self._write()
        self._group = ProcessGroup()
        self._children: dict[str, Child] = {}
        self._held: set[str] = set()
        self.lives: dict[tuple[str, int], list[tuple[float, int, int]]] = defaultdict(list)
        """By part and process id: resident MB, descriptors and threads, every half second."""
        self.polls: list[tuple[float, dict[str, str]]] = []
        """Whenever the page answered: when (monotonic), and its alarms by stream ("": of the whole box)."""
        self._keeping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything."""
        for name in ("broker", *SERVICES):
            self._children[name] = self._group.add(self._child(name))
        self._keeper.start()

    def end(self) -> list[str]:
        """End everything; return what is left over: processes that name this box's folder."""
        self._keeping.set()
        self._keeper.join(10)
        self._group.end()
        return self.processes()

    def processes(self) -> list[str]:
        """Return the command lines of this box's processes: those that name its folder."""
        lines = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if str(self.folder) in line and process.pid != os.getpid():
                lines.append(line)
        return lines

    def files(self) -> dict[str, int]:
        """Return the sizes of the files that its parts keep and of their logs, in bytes."""
        found = {}
        for path in (*self.state.rglob("*"), *self.folder.glob("*.log"), *self.folder.glob("mosquitto.db*")):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    found[str(path.relative_to(self.folder))] = path.stat().st_size
        return found

    @property
    def streams(self) -> set[str]:
        """Names of the streams in its configuration."""
        return set(self._streams)

    def pid(self, name: str) -> int:
        """Return a part's process id, as of its last start."""
        process = self._children[name].process
        return process.pid if process is not None else 0

    def log(self, name: str) -> str:
        """Return what a part has written."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    # --- what befalls it --------------------------------------------------------------------------------------------

    def reboot(self) -> None:
        """Pull the plug and put it in again."""
        self.down(*self._children)
        self.up(*self._children)

    def down(self, *names: str, number: int = signal.SIGKILL) -> None:
        """End parts and keep them down."""
        for name in names:
            self._held.add(name)
            self._children[name].signal(number)
        for name in names:
            process = self._children[name].process
            assert process is not None
            process.wait(20)

    def up(self, *names: str) -> None:
        """Start parts that were down."""
        for name in names:
            self._children[name].start()
            self._held.discard(name)

    def full_disk(self, name: str, full: bool) -> None:
        """Let a part write no more than 16 bytes into a file, or let it write again."""
        process = self._children[name].process
        if process is not None and process.poll() is None:
            most = 16 if full else resource.RLIM_INFINITY
            psutil.Process(process.pid).rlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    def add_stream(self, name: str, url: str) -> None:
        """Write a stream into the configuration file, as an editor would."""
        self._streams[name] = url
        self._write()

    def remove_stream(self, name: str) -> None:
        """Take one out of it."""
        del self._streams[name]
        self._write()

    # --- what it says -----------------------------------------------------------------------------------------------

    def ask(self, path: str, **query: Any) -> dict[str, Any]:
        """Return an answer of the page; empty while it does not answer."""
        try:
            answer = requests.get(f"http://127.0.0.1:{self.ports['dashboard']}{path}", params=query, timeout=5)
            found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        except (requests.RequestException, ValueError):
            return {}
        return found

    def metrics(self) -> str:
        """Return what the page tells Prometheus."""
        return requests.get(f"http://127.0.0.1:{self.ports['dashboard']}/metrics", timeout=5).text

    def retained(self) -> dict[str, bytes]:
        """Return what the broker keeps, by topic."""
        found: dict[str, bytes] = {}
        subscribed, quiet = threading.Event(), threading.Event()
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, "month-witness", protocol=paho.MQTTv5)

        def take(_: Any, __: Any, message: paho.MQTTMessage) -> None:
            if message.retain and message.payload:
                found[message.topic] = message.payload
                quiet.set()

        client.on_message = take
        client.on_connect = lambda *rest: client.subscribe("#")
        client.on_subscribe = lambda *rest: subscribed.set()
        client.connect("127.0.0.1", self.ports["broker"])
        client.loop_start()
        try:
            subscribed.wait(10)
            while quiet.wait(1.0):  # a broker sends what it keeps at once
                quiet.clear()
        finally:
            client.disconnect()
            client.loop_stop()
        return found

    # --- inside -----------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._keeping.wait(0.5):
            for name, child in self._children.items():
                if name not in self._held:
                    child.supervise()
                if child.alive and child.process is not None:
                    with contextlib.suppress(psutil.Error):
                        process = psutil.Process(child.process.pid)
                        rss = process.memory_info().rss / 1e6
                        sample = rss, process.num_fds(), process.num_threads()
                        self.lives[name, process.pid].append(sample)
            if board := self.ask("/api/board"):
                alarms = {each["stream"]: each["text"] for each in board["alarms"] if each["level"] == "alarm"}
                self.polls.append((time.monotonic(), alarms))

    def _write(self) -> None:
        retry = {"attempts": 3, "first_wait_s": 0.1, "longest_wait_s": 0.5}
        values = {
            "broker": {"port": self.ports["broker"], "keepalive_s": 4, "session_expiry_s": 6},
            "hls": {
                "playlist_retry": retry, "segment_retry": retry, "dead_after_s": DEAD_AFTER_S, "ended_reload_s": 5.0,
            },
            "fetcher": {"cursor_interval_s": 0.5, "ack_timeout_s": 1.0, "retry_failed_s": 1.0, "silent_after_s": 5.0},
            "inference": {"model": "tiny", "models_dir": str(self._models_dir), "backend": "onnx"},
            "dashboard": {
                "port": self.ports["dashboard"], "stopped_after_s": STOPPED_AFTER_S, "history_days": 400,
                "home_assistant": True, "publish_flat": True,
            },
            "paths": {"state_dir": str(self.state)},
            "streams": [{"name": name, "url": url} for name, url in self._streams.items()],
        }  # fmt: skip
        new = self.config.with_suffix(".new")
        new.write_text(json.dumps(values))
        new.replace(self.config)

    def _child(self, name: str) -> Child:
        log = self.folder / f"{name}.log"
        if name == "broker":
            conf = self.folder / "mosquitto.conf"
            conf.write_text(local_config(self.ports["broker"], self.folder, True, "root" if os.getuid() == 0 else None))
            assert PROGRAM is not None
            return Child(name, [PROGRAM, "-c", str(conf)], log, self.clocks.of_broker(os.environ))
        env = {**self.clocks.of_service(os.environ, ROOT), "OMP_NUM_THREADS": "1"}
        return Child(name, [sys.executable, "-m", "services.cli", name, "--config", str(self.config)], log, env)
