"""The pipeline on several hosts: broker, origin and fetcher on one, featurizers and inferences on others.

All that joins them is configuration: the broker's URL, its CA, a user and a password each, as `genre broker init` makes
them. Start at `Site`.
"""

from __future__ import annotations

import getpass
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from benchmarks.rigs.network import Network
from broker.command import broker
from services.contract.messages import Status, parse
from services.contract.topics import Topics
from services.mqtt.client import MqttClient
from services.mqtt.subscriptions import Delivery
from services.settings.schema import Broker
from services.supervisor import children
from services.supervisor.children import Plan
from services.supervisor.processes import Child, ProcessGroup
from tests.broker.mosquitto import PROGRAM, wait_for
from tests.chaos.recorder import Recorder

ROOT = Path(__file__).resolve().parents[2]
PORT, ORIGIN_PORT = 8883, 8000
HUB = "hub"
START_S = 90.0


@dataclass
class Shape:
    """What a site is made of.

    Attributes:
        playlists: paths at the origin by stream name.
        cores: CPU of each host whose name begins so, e.g. {"inference": 0.3}; others are not limited.
        fetcher: settings of its section, besides those of every site.
    """

    folder: Path
    hls: Path
    playlists: Mapping[str, str]
    models_dir: Path
    model: str
    featurizers: int = 1
    inferences: int = 2
    cores: dict[str, float] = field(default_factory=dict)
    fetcher: dict[str, float] = field(default_factory=dict)

    def hosts(self) -> list[str]:
        """Names of the hosts besides the hub; each runs one service of its name."""
        return [
            *(f"featurizer-{i + 1}" for i in range(self.featurizers)),
            *(f"inference-{i + 1}" for i in range(self.inferences)),
        ]


class Site:
    """One run, for as long as it is open."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.network = Network([HUB, *shape.hosts()])
        self.children: dict[str, Child] = {}
        self.online: dict[str, str] = {}
        self.limited = True
        self._plan = Plan(shape.folder, {"origin": ORIGIN_PORT})
        self._children = ProcessGroup()
        self._broker_folder = shape.folder / "broker"
        self.results_at: list[float] = []

    def __enter__(self) -> Site:
        self.network.__enter__()
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *rest: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process and take the hosts away."""
        for mqtt in (getattr(self, "_watcher", None), getattr(getattr(self, "recorder", None), "mqtt", None)):
            if mqtt is not None:
                mqtt.stop()
        self._children.end()
        self.network.__exit__(None, None, None)

    # --- start ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        shape, hub = self.shape, self.network.addresses[HUB]
        (shape.folder / "broker-state").mkdir(parents=True, exist_ok=True)
        where = ["--folder", str(self._broker_folder)]
        state = ["--state", str(shape.folder / "broker-state")]
        for words in (["init", *where, "--host", hub, *state], ["user", "keeper", "--role", "keeper", *where]):
            done = CliRunner().invoke(broker, words, catch_exceptions=False)
            assert done.exit_code == 0, done.output
        config = self._broker_folder / "mosquitto.conf"
        config.write_text(f"user {getpass.getuser()}\n{config.read_text()}")
        assert PROGRAM is not None
        self._add(HUB, Child("broker", [PROGRAM, "-c", str(config)], self._plan.log("broker"), os.environ))
        self._add(HUB, children.origin(self._plan, shape.hls))
        self.recorder = Recorder(self.broker("keeper"), writes=False)
        self.recorder.start()
        self._watcher = MqttClient(self.broker("keeper"), "watcher", receive_maximum=500)
        self._watcher.subscribe(Topics().status("+", "+"), self._status)
        self._watcher.subscribe(Topics().results, self._result)
        self._watcher.start()
        self._watcher.wait_connected(20)
        for name in shape.hosts():
            self.start(name)
        for name in shape.hosts():
            self.wait_online(name)
        self.start("fetcher-1")

    def broker(self, user: str) -> Broker:
        """Return what a user needs to reach the broker; the same from every host."""
        return Broker.model_validate(
            {
                "host": f"mqtts://{self.network.addresses[HUB]}:{PORT}",
                "ca_file": self._broker_folder / "ca.crt",
                "username": user,
                "password_file": self._broker_folder / "passwords" / user,
                "keepalive_s": 4,
                "session_expiry_s": 6,
            }
        )

    def _configuration(self, name: str) -> Path:
        """Write one host's configuration and return its path."""
        service, shape = name.rsplit("-", 1)[0], self.shape
        streams = [{"name": s, "url": f"http://127.0.0.1:{ORIGIN_PORT}/{path}"} for s, path in shape.playlists.items()]
        values: dict[str, Any] = {
            "broker": self.broker(service).model_dump(mode="json"),
            "fetcher": {"ack_timeout_s": 1.0, "cursor_interval_s": 0.5, **shape.fetcher},
            "inference": {
                "model": shape.model,
                "models_dir": str(shape.models_dir),
                "backend": "onnx",
            },
            "paths": {"state_dir": str(shape.folder / "state")},
            "streams": streams if service == "fetcher" else [],
        }
        path = shape.folder / f"{name}.json"
        path.write_text(json.dumps(values))
        return path

    def start(self, name: str) -> None:
        """Start a service on its host: one of its name, or the hub for the fetcher."""
        service, instance = name.rsplit("-", 1)
        host = name if name in self.network.addresses else HUB
        self.online.pop(name, None)
        self._add(host, children.service(self._plan, service, self._configuration(name), instance))

    def _add(self, host: str, child: Child) -> None:
        cores = next((cores for begin, cores in self.shape.cores.items() if host.startswith(begin)), None)
        group = self.network.limit(host, cores) if cores is not None else None
        self.limited = self.limited and (cores is None or group is not None)
        child.argv = [*self.network.prefix(host, group), *child.argv]
        child.env = {**(child.env or os.environ), "PYTHONPATH": str(ROOT)}
        child.stop_s, child.watchdog_s = 30.0, None
        self.children[child.name] = self._children.add(child)

    # --- while it runs ----------------------------------------------------------------------------------------------

    def wait_online(self, name: str) -> None:
        """Wait until a service says that it is online."""

        def there() -> bool:
            assert self.children[name].alive, f"{name} ended: {self.children[name].last_words()}"
            return name in self.online

        wait_for(there, f"{name} is online", START_S)

    def upgrade(self, name: str) -> float:
        """Replace a service's process as an upgrade does: SIGTERM, drained to its end, a new one; return seconds."""
        began, old = time.monotonic(), self.children[name]
        assert old.process is not None
        old.signal(signal.SIGTERM)
        code = old.process.wait(40)
        assert code == 0, f"{name} ended with {code}: {old.last_words()}"
        self.start(name)
        self.wait_online(name)
        return time.monotonic() - began

    def wait_ended(self, timeout_s: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until every stream is over and accounted for, and every counted result is here."""

        def over() -> bool:
            for name, child in self.children.items():
                assert child.alive, f"{name} ended: {child.last_words()}"
            meanwhile()
            windows = sum(ledger.windows for ledger in self.recorder.ledgers.values())
            return self.ended and len(self.recorder.results) >= windows

        wait_for(over, "the streams' end", timeout_s)

    @property
    def ended(self) -> bool:
        """Whether every stream is over and accounted for."""
        return self.recorder.all_ended(len(self.shape.playlists))

    def _status(self, delivery: Delivery) -> None:
        self._watcher.ack(delivery)
        status = parse(Status, delivery.message.payload)
        key = f"{status.service}-{status.instance}"
        if status.state == "online":
            self.online[key] = status.boot_id
        else:
            self.online.pop(key, None)

    def _result(self, delivery: Delivery) -> None:
        self._watcher.ack(delivery)
        self.results_at.append(time.monotonic())
