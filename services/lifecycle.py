"""One life of a service: signals, status messages with a will, systemd's watchdog, metrics, an orderly end.

Every service's `main` is: build, `Life(...)`, `run(...)`. Not here: what the service does. Start at `Life.run`.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from types import FrameType

from prometheus_client import Gauge

from services import endpoint, systemd
from services.bus import Bus
from services.contract import Message, Service, Status, Topics, utc
from services.errors import GenreError
from services.settings import Broker, Metrics

log = logging.getLogger(__name__)

INFO = Gauge("genre_service_info", "Which service this is", ["service", "instance", "version", "model"])
LOOP_STUCK_S = 20.0
"""The bus's loop turns every second; connecting and waiting to reconnect take under 10 s together."""


def product_version() -> str:
    """Return the version of genre-edge that is installed."""
    try:
        return version("genre-edge")
    except PackageNotFoundError:
        return "0+unknown"


class Life:
    """Status, signals and watchdog of one service process.

    Args:
        service, instance: who this is; the pair names the MQTT client id and the status topic.
        details: what a person wants to know of it, e.g. {"model": "musicnn"}.
        writes: publish status messages and a will; a service with a read-only account does not.
    """

    def __init__(
        self,
        service: Service,
        instance: str,
        root: str,
        broker: Broker,
        details: dict[str, str] | None = None,
        *,
        writes: bool = True,
    ) -> None:
        self.service, self.instance = service, instance
        self.topics = Topics(root)
        self.stop = threading.Event()
        self._boot_id, self._since = uuid.uuid4().hex[:12], time.time()
        self._details = details or {}
        INFO.labels(service, instance, product_version(), self._details.get("model", "")).set(1)
        self._writes = writes
        self._state: str = "online"
        self._broker = broker
        self.bus: Bus | None = None

    @property
    def client_id(self) -> str:
        """Stable for a worker slot, so that its session survives a restart."""
        return f"{self.topics.root}-{self.service}-{self.instance}"

    def connect(self, *, durable: bool, receive_maximum: int = 64, least_payload_bytes: int = 0) -> Bus:
        """Return this service's bus, not yet started; its will says offline and every connect says online."""
        self.bus = Bus(
            self._broker,
            self.client_id,
            durable=durable,
            receive_maximum=receive_maximum,
            will=self._status("offline") if self._writes else None,
            on_connected=self._announce,
            least_payload_bytes=least_payload_bytes,
        )
        return self.bus

    def _status(self, state: str) -> Message:
        status = Status.model_validate(
            {
                "service": self.service,
                "instance": self.instance,
                "state": state,
                "boot_id": self._boot_id,
                "version": product_version(),
                "since": utc(self._since),
                "details": self._details,
            }
        )
        return Message(self.topics.status(self.service, self.instance), status.to_json(), retain=True)

    def tell(self, details: dict[str, str]) -> None:
        """Say something else of this service from now on, in its status message."""
        self._details = details
        if self.bus is not None and self.bus.connected:
            self._announce()

    def _announce(self) -> None:
        assert self.bus is not None
        if self._writes:
            self.bus.publish(self._status(self._state))

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Turn SIGTERM and SIGINT into `stop`."""

        def asked(number: int, frame: FrameType | None) -> None:
            self.stop.set()

        before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(
        self, healthy: Callable[[], bool], drain: Callable[[], None], turn: Callable[[], None] | None = None
    ) -> None:
        """Say ready, wait for a signal while the service works in its threads, then drain and say offline.

        Args:
            healthy: whether the real work loop turned lately; False lets systemd's watchdog end the process.
            drain: finish or hand back what is in hand, within the service's own limit.
            turn: called about every second, for periodic work.

        Raises:
            GenreError: where the bus says that going on is useless.
        """
        assert self.bus is not None
        systemd.notify("READY=1")
        endpoint.answer_for(lambda: self._alive(healthy), self._ready)
        every = systemd.watchdog_interval_s()
        next_beat = 0.0
        while not self.stop.wait(min(1.0, every or 1.0)):
            if self.bus.fatal is not None:
                raise self.bus.fatal
            if turn is not None:
                turn()
            if every is not None and time.monotonic() >= next_beat and self._alive(healthy):
                systemd.notify("WATCHDOG=1")
                next_beat = time.monotonic() + every
        systemd.notify("STOPPING=1")
        self._state = "draining"
        self._announce()
        drain()
        if self.bus.connected and self._writes:
            self.bus.publish_and_wait(self._status("offline"), timeout_s=1.0)
        self.bus.stop()

    def _ready(self) -> bool:
        return self.bus is not None and self.bus.connected and self.bus.fatal is None and self._state == "online"

    def _alive(self, healthy: Callable[[], bool]) -> bool:
        if self.bus is not None and self.bus.loop_age_s > LOOP_STUCK_S:
            log.error("the network loop has not turned for %.0f s; no watchdog beat is sent", self.bus.loop_age_s)
            return False
        return healthy()


def serve_metrics(metrics: Metrics) -> None:
    """Open the Prometheus endpoint, where one is configured.

    Raises:
        GenreError: where the port is taken.
    """
    if metrics.port == 0:
        return
    try:
        endpoint.serve(metrics.host, metrics.port)
    except (OSError, socket.gaierror) as error:
        raise GenreError(
            f"metrics endpoint {metrics.host}:{metrics.port}",
            f"can't be opened ({error})",
            "set metrics.port to a free port",
        ) from error
