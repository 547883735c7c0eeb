"""Our pipeline as it runs in the field: broker, services and Triton as processes, measured from outside.

It uses the supervisor's own parts, so what is measured is what `genre up` starts. The origin is not part of the
account: it stands elsewhere in the field. Start at `Field`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.accounting import Account, Usage, usage
from services.contract.messages import Ledger, Result, Status, parse
from services.contract.topics import Topics
from services.errors import GenreError
from services.mqtt.client import MqttClient
from services.mqtt.subscriptions import Delivery
from services.settings import loading
from services.supervisor import children, triton_server
from services.supervisor.children import Plan
from services.supervisor.processes import Child, ProcessGroup

START_S = 40.0


@dataclass
class StreamEvent:
    """One result as a subscriber saw it.

    Attributes:
        latency_ms: from the last byte of the segment at the fetcher to here.
    """

    id: str
    stream: str
    start_s: float
    genre: str | None
    at: float
    latency_ms: float


@dataclass
class Seen:
    """What came over the bus while a field ran."""

    results: list[StreamEvent] = field(default_factory=list)
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


class Field:
    """Broker, services and engine as processes, for as long as it is open.

    Args:
        model, models_dir: what answers.
        backend: "onnx" or "triton".
        replicas: processes of each service; one each where it is not named.
        overrides: sections of the configuration, e.g. {"fetcher": {"window_hop": 66000}}.
        prefix: put before each service's command line by name, e.g. {"inference": ["taskset", "-c", "0"]}.
        broker_address: where the broker listens.
    """

    def __init__(
        self,
        model: str,
        models_dir: Path,
        backend: str = "onnx",
        replicas: Mapping[str, int] | None = None,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        prefix: Mapping[str, Sequence[str]] | None = None,
        broker_address: str = "127.0.0.1",
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="genre-bench-"))
        self.plan = Plan(self.folder)
        self.group = ProcessGroup()
        self.seen = Seen()
        self.start: dict[str, tuple[float, float]] = {}
        """Seconds and CPU seconds from a service's start until it was online, by name."""
        self._changed = threading.Condition()
        self._online: set[str] = set()
        self._replicas, self._prefix, self._address = replicas or {}, prefix or {}, broker_address
        sections: dict[str, Any] = {
            "inference": {"model": model, "models_dir": str(models_dir), "backend": backend},
            "paths": {"state_dir": str(self.folder / "state")},
            "fetcher": {"retry_failed_s": 0},
            "hls": {"allow_private": True},
        }
        for name, values in (overrides or {}).items():
            sections[name] = {**sections.get(name, {}), **values}
        self.config = loading.checked(sections, "benchmark")
        self.topics = Topics(self.config.broker.root)

    @property
    def look(self) -> str:
        """What to do where a run failed: its logs stay."""
        return f"look at the logs in {self.plan.folder / 'logs'}"

    # --- life -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Field:
        """Start everything and wait until every service is online; no stream is listened to yet."""
        try:
            self._start()
        except BaseException:
            self.close(keep=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(keep=error is not None)

    def close(self, keep: bool = False) -> None:
        """End every process and remove what they wrote, but for the logs of a run that failed."""
        mqtt = getattr(self, "mqtt", None)
        if mqtt is not None:
            mqtt.stop()
        self.group.end()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        broker = children.broker(self.plan)
        if self._address != "127.0.0.1":
            config = self.plan.folder / "broker" / "mosquitto.conf"
            config.write_text(config.read_text(encoding="utf-8").replace(" 127.0.0.1", ""), encoding="utf-8")
        self.group.add(broker)
        self.with_settings(broker={"host": self._address, "port": self.plan.port("broker")})
        children.wait_port(broker, self.plan.port("broker"), START_S)
        self._watch()
        if self.config.inference.backend == "triton":
            engine = children.triton(self.plan, self.config)
            self.group.add(engine)
            # Before the services start: else inference's time to be ready would be Triton's.
            port, model = self.plan.port("triton-http"), self.config.inference.model
            self.wait(lambda: triton_server.is_ready(port, model) or not engine.alive, START_S, "Triton did not start")
            self.with_settings(inference={"triton_url": f"127.0.0.1:{self.plan.port('triton')}"})
        path = self.plan.configuration(self.config)
        for name in ("inference", "featurizer", "fetcher"):
            for number in range(1, self._replicas.get(name, 1) + 1):
                self.add(name, str(number), path)

    def add(self, name: str, instance: str = "1", path: Path | None = None) -> Child:
        """Start one more service process and wait until it says that it is online."""
        child = children.service(self.plan, name, path or self.folder / "genre.json", instance)
        child.argv = [*self._prefix.get(name, ()), *child.argv]
        began = time.monotonic()
        self.group.add(child)
        key = f"{name}/{instance}"
        self.wait(lambda: key in self._online or not child.alive, START_S, f"{key} did not come online")
        if not child.alive:
            raise GenreError(key, f"ended at once ({child.last_words()})", "run the service by hand")
        self.start[child.name] = (time.monotonic() - began, self._usage_of(child).cpu_s)
        return child

    def with_settings(self, **sections: Mapping[str, Any]) -> None:
        """Merge values into the configuration."""
        merged = self.config.model_dump(mode="json", exclude_none=True)
        for name, values in sections.items():
            merged[name] = {**merged[name], **values}
        self.config = loading.checked(merged, "benchmark")

    # --- streams ----------------------------------------------------------------------------------------------------

    def listen(self, streams: Mapping[str, str]) -> None:
        """Let the fetcher listen to these streams, name -> URL; it follows its configuration within a second."""
        merged = self.config.model_dump(mode="json", exclude_none=True)
        merged["streams"] = [{"name": name, "url": url} for name, url in streams.items()]
        self.plan.configuration(loading.checked(merged, "benchmark"))

    def wait_ended(self, names: Sequence[str], timeout_s: float) -> None:
        """Wait until every stream's ledger is closed and every window of it was seen as a result.

        Raises:
            GenreError: it took longer, or a stream failed.
        """

        def over() -> bool:
            ledgers = [self.seen.ledgers.get(name) for name in names]
            windows = sum(ledger.windows for ledger in ledgers if ledger)
            return all(ledger and ledger.ended for ledger in ledgers) and 0 < windows <= len(self.seen.results)

        self.wait(lambda: bool(self.seen.errors) or over(), timeout_s, "the streams did not end in time")
        if self.seen.errors:
            raise GenreError("benchmark", self.seen.errors[0], "repair that first")

    def wait(self, condition: Callable[[], bool], timeout_s: float, problem: str) -> None:
        """Wait until a condition on what was seen holds.

        Raises:
            GenreError: it did not in time.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise GenreError("benchmark", problem, self.look)
                self._changed.wait(min(left, 0.2))

    # --- measuring --------------------------------------------------------------------------------------------------

    def account(self) -> Account:
        """Begin an account of every process, by child name."""
        return Account({child.name: child.process.pid for child in self.group.children() if child.process})

    @staticmethod
    def _usage_of(child: Child) -> Usage:
        return usage(child.process.pid) if child.process else Usage(0.0, 0.0, 0)

    def mqtt_bytes(self) -> tuple[int, int]:
        """Return the bytes that the broker received and sent on its open connections since they were opened (TCP)."""
        argv = ["ss", "-tinH", "state", "established", f"( sport = :{self.plan.port('broker')} )"]
        try:
            text = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10).stdout
        except (OSError, subprocess.TimeoutExpired):
            return 0, 0
        received = sum(int(found) for found in re.findall(r"bytes_received:(\d+)", text))
        return received, sum(int(found) for found in re.findall(r"bytes_sent:(\d+)", text))

    # --- the bus ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        self.mqtt = MqttClient(self.config.broker, f"bench-{os.getpid()}", receive_maximum=1_000)
        self.mqtt.subscribe(self.topics.results, self._take(self._result))
        self.mqtt.subscribe(self.topics.ledger("+"), self._take(self._ledger))
        self.mqtt.subscribe(self.topics.status("+", "+"), self._take(self._status))
        self.mqtt.subscribe(self.topics.events, self._take(self._event))
        self.mqtt.start()
        self.mqtt.wait_connected(START_S)

    def _take(self, note: Callable[[bytes], None]) -> Callable[[Delivery], None]:
        def handler(delivery: Delivery) -> None:
            if delivery.message.payload:
                with self._changed:
                    note(delivery.message.payload)
                    self._changed.notify_all()
            self.mqtt.ack(delivery)

        return handler

    def _result(self, payload: bytes) -> None:
        at = time.time()
        result = parse(Result, payload)
        # published_at is text in milliseconds; latency_ms is exact, so the moment of receipt follows from both.
        published = _unix(result.published_at)
        latency_ms = (at - published) * 1000 + result.latency_ms
        self.seen.results.append(
            StreamEvent(result.id, result.stream, result.start_s, result.genre, at, max(latency_ms, result.latency_ms))
        )

    def _ledger(self, payload: bytes) -> None:
        ledger = parse(Ledger, payload)
        self.seen.ledgers[ledger.stream] = ledger

    def _status(self, payload: bytes) -> None:
        status = parse(Status, payload)
        if status.state == "online":
            self._online.add(f"{status.service}/{status.instance}")

    def _event(self, payload: bytes) -> None:
        import json

        event = json.loads(payload)
        if event.get("kind") in ("error", "lost"):
            self.seen.errors.append(f"{event.get('stream')}: {event.get('kind')} {event.get('reason')}")


def _unix(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def python() -> str:
    """Return the interpreter that every process of a benchmark runs on."""
    return sys.executable
