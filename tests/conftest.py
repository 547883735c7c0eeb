"""A real Mosquitto for every test that speaks MQTT: one for the session, each test under a root topic of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.broker_config import local_config
from services.bus import Bus
from services.settings import Broker
from tests.broker.mosquitto import PROGRAM, Mosquitto, free_port, wait_for

_roots = itertools.count()


def start_mosquitto(folder: Path, port: int = 0, persistence: bool = False) -> Mosquitto:
    """Start a broker as `genre up` does, on a free port."""
    if PROGRAM is None:
        pytest.skip("mosquitto is not installed")
    port = port or free_port()
    config = folder / "mosquitto.conf"
    config.write_text(local_config(port, folder, persistence, user="root" if os.getuid() == 0 else None))
    return Mosquitto(config, port)


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
def buses() -> Iterator[Callable[..., Bus]]:
    """Connected clients, stopped at the end."""
    made: list[Bus] = []

    def bus(broker: Broker, client_id: str, *, wait: bool = True, **options: object) -> Bus:
        new = Bus(broker, f"{broker.root}-{client_id}", **options)  # type: ignore[arg-type]
        made.append(new)
        new.start()
        if wait:
            new.wait_connected(10)
        return new

    yield bus
    for old in made:
        old.stop()


__all__ = ["start_mosquitto", "wait_for"]
