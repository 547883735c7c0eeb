"""One life of a service: signals, status messages with a will, systemd's watchdog, metrics, an orderly end.

Every service's `main` is: build, `ServiceProcess(...)`, `run(...)`. Not here: what the service does. Start at
`ServiceProcess.run`.
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

from services.contract.messages import Message, Status
from services.contract.topics import Service, Topics
from services.errors import GenreError, UsageError
from services.mqtt.client import MqttClient
from services.mqtt.receipts import Receipt
from services.process import http_endpoint, systemd_notify
from services.process.turns import Turns
from services.settings.schema import Broker, Metrics
from services.text import utc

log = logging.getLogger(__name__)

INFO = Gauge("genre_service_info", "Which service this is", ["service", "instance", "version", "model"])
LOOP_STUCK_S = 20.0
"""The network loop turns every second; connecting and waiting to reconnect take under 10 s together."""
LEAVE_S = 1.0
"""For the broker to take the last status; where it does not, the will says the same."""
MOST_INSTANCE = 64


def product_version() -> str:
    """Return the version of genre-edge that is installed."""
    try:
        return version("genre-edge")
    except PackageNotFoundError:
        return "0+unknown"


class ServiceProcess:
    """Status, signals and watchdog of one service process.

    Args:
        service, instance: who this is; the pair names the MQTT client id and the status topic.
        details: what a person wants to know of it, e.g. {"model": "genre-sounds"}.
        writes: publish status messages and a will; a service with a read-only account does not.

    Raises:
        UsageError: the instance can't be a level of a topic.
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
        _check_instance(instance)
        self.service, self.instance = service, instance
        self.topics = Topics(root)
        self.stop = threading.Event()
        self._boot_id, self._since = uuid.uuid4().hex[:12], time.time()
        self._details, self._notes = details or {}, dict[str, str]()
        INFO.labels(service, instance, product_version(), self._details.get("model", "")).set(1)
        self._writes = writes
        self._state: str = "online"
        self._broker = broker
        self._announced: Message | None = None
        self.mqtt: MqttClient | None = None

    @property
    def client_id(self) -> str:
        """Stable for a worker slot, so that its session survives a restart."""
        return f"{self.topics.root}-{self.service}-{self.instance}"

    def connect(self, *, durable: bool, receive_maximum: int = 64, least_payload_bytes: int = 0) -> MqttClient:
        """Return this service's client, not yet started; its will says offline and every connect says online."""
        self.mqtt = MqttClient(
            self._broker,
            self.client_id,
            durable=durable,
            receive_maximum=receive_maximum,
            will=self._status("offline") if self._writes else None,
            on_connected=self._announce,
            least_payload_bytes=least_payload_bytes,
        )
        return self.mqtt

    def _status(self, state: str) -> Message:
        status = Status.model_validate(
            {
                "service": self.service,
                "instance": self.instance,
                "state": state,
                "boot_id": self._boot_id,
                "version": product_version(),
                "since": utc(self._since),
                "details": {**self._details, **self._notes},
            }
        )
        return Message(self.topics.status(self.service, self.instance), status.to_json(), retain=True)

    def tell(self, details: dict[str, str]) -> None:
        """Say something else of this service from now on, in its status message."""
        self._details = details
        self._announce_now()

    def note(self, name: str, value: str | None) -> None:
        """Add one detail to the status message, or take it back (None)."""
        notes = {key: old for key, old in self._notes.items() if key != name}
        self._notes = notes if value is None else {**notes, name: value}
        self._announce_now()

    def _announce_now(self) -> None:
        if self.mqtt is not None and self.mqtt.connected:
            self._announce()

    def _announce(self) -> None:
        """Publish the state; one that waits for its PUBACK is sent again by the client itself after a reconnect."""
        assert self.mqtt is not None
        status = self._status(self._state)
        if not self._writes or status == self._announced:
            return
        self._announced = status

        def taken(receipt: Receipt) -> None:
            if self._announced is status:
                self._announced = None
            if not receipt.accepted:
                log.error(
                    "the broker did not take the status: %s; let this user write to %s", receipt.text, status.topic
                )

        self.mqtt.publish(status, taken)

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
            turn: called about every second, for periodic work, in a thread of its own: what takes long there (a model
                exchange, a file system that stands still) holds no watchdog beat up.

        Raises:
            GenreError: where the broker says that going on is useless.
        """
        assert self.mqtt is not None
        turns = Turns(turn or (lambda: None), self.stop)

        def alive() -> bool:
            return self._alive(healthy) and turns.healthy()

        systemd_notify.notify("READY=1")
        http_endpoint.answer_for(alive, self._ready)
        every = systemd_notify.watchdog_interval_s()
        next_beat = 0.0
        turns.start()
        while not self.stop.wait(min(1.0, every or 1.0)):
            if self.mqtt.fatal is not None:
                raise self.mqtt.fatal
            turns.check()
            if every is not None and time.monotonic() >= next_beat and alive():
                systemd_notify.notify("WATCHDOG=1")
                next_beat = time.monotonic() + every
        systemd_notify.notify("STOPPING=1")
        self._state = "draining"
        self._announce()
        turns.end()
        drain()
        self._leave(self.mqtt)

    def _leave(self, mqtt: MqttClient) -> None:
        """Say offline, or have the broker say it by the will where it does not take that in time."""
        self._state = "offline"
        said = self._writes and mqtt.connected and mqtt.publish_and_wait(self._status("offline"), LEAVE_S).accepted
        mqtt.stop(with_will=self._writes and not said)

    def _ready(self) -> bool:
        return self.mqtt is not None and self.mqtt.connected and self.mqtt.fatal is None and self._state == "online"

    def _alive(self, healthy: Callable[[], bool]) -> bool:
        if self.mqtt is not None and self.mqtt.loop_age_s > LOOP_STUCK_S:
            log.error("the network loop has not turned for %.0f s; no watchdog beat is sent", self.mqtt.loop_age_s)
            return False
        return healthy()


def _check_instance(instance: str) -> None:
    if not 0 < len(instance) <= MOST_INSTANCE or not instance.isprintable() or set(instance) & set("+#/ "):
        raise UsageError(
            f"--instance {instance!r}",
            f"can't be a level of a topic: 1 to {MOST_INSTANCE} characters without '/', '+', '#' and spaces",
            "use letters, digits, '_', '.', '-', e.g. --instance 2",
        )


def serve_metrics(metrics: Metrics) -> None:
    """Open the Prometheus endpoint, where one is configured.

    Raises:
        GenreError: where the port is taken.
    """
    if metrics.port == 0:
        return
    try:
        http_endpoint.serve(metrics.host, metrics.port)
    except (OSError, socket.gaierror) as error:
        raise GenreError(
            f"metrics endpoint {metrics.host}:{metrics.port}",
            f"can't be opened ({error})",
            "set metrics.port to a free port",
        ) from error
