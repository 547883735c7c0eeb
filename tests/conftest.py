"""A real Mosquitto for every test that speaks MQTT: one for the session, each test under a root topic of its own."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from broker.mosquitto_conf import local_config
from services.mqtt.client import MqttClient
from services.settings.schema import Broker
from tests.broker.mosquitto import PROGRAM, Mosquitto, free_port, wait_for

_roots = itertools.count()
# No timing is asserted in tests: by default an example that takes 0.2 s on a busy machine is a failure.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the month, which takes five minutes for one test, where others run beside it, and not alone at the end."""
    month = [item for item in items if "month" in item.path.parts]
    rest = [item for item in items if "month" not in item.path.parts]
    place = next((at for at, item in enumerate(rest) if "fetcher" in item.path.parts), 0)
    items[:] = [*rest[:place], *month, *rest[place:]]


def start_mosquitto(folder: Path, port: int = 0, persistence: bool = False) -> Mosquitto:
    """Start a broker as `genre up` does, on a free port."""
    if PROGRAM is None:
        pytest.skip("mosquitto is not installed")
    port = port or free_port()
    config = folder / "mosquitto.conf"
    config.write_text(local_config(port, folder, persistence, user="root" if os.getuid() == 0 else None))
    return Mosquitto(config, port)


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """A command run inside a test sets the level of the whole process: the next test gets the usual one back."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(scope="session")
def shared_mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """The session's broker; a test that stops or kills brokers takes `own_mosquitto`."""
    running = start_mosquitto(tmp_path_factory.mktemp("mosquitto"))
    yield running
    running.stop()


@pytest.fixture
def own_mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of the test's own, to be killed and started again."""
    running = start_mosquitto(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def settings_for() -> Callable[[Mosquitto], Broker]:
    """Settings that lead to a broker, with a root that no other test uses."""

    def settings(mosquitto: Mosquitto, **changes: object) -> Broker:
        return Broker.model_validate({"port": mosquitto.port, "root": f"t{next(_roots)}", **changes})

    return settings


@pytest.fixture
def broker(shared_mosquitto: Mosquitto, settings_for: Callable[[Mosquitto], Broker]) -> Broker:
    """Settings of the session's broker."""
    return settings_for(shared_mosquitto)


@pytest.fixture
def buses() -> Iterator[Callable[..., MqttClient]]:
    """Connected clients, stopped at the end."""
    made: list[MqttClient] = []

    def mqtt(broker: Broker, client_id: str, *, wait: bool = True, **options: object) -> MqttClient:
        new = MqttClient(broker, f"{broker.root}-{client_id}", **options)  # type: ignore[arg-type]
        made.append(new)
        new.start()
        if wait:
            new.wait_connected(10)
        return new

    yield mqtt
    for old in made:
        old.stop()


__all__ = ["start_mosquitto", "wait_for"]


@pytest.fixture
def brokers() -> Iterator[Callable[[Path, int], Mosquitto]]:
    """Start brokers with configurations of their own: the file and its port."""
    if PROGRAM is None:
        pytest.skip("mosquitto is not installed")
    running: list[Mosquitto] = []

    def start(config: Path, port: int) -> Mosquitto:
        running.append(Mosquitto(config, port))
        return running[-1]

    yield start
    for broker in running:
        broker.stop()
