"""A real Mosquitto for each test that asks for one, and clients that log in as genre broker made them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.broker.mosquitto import Client


@pytest.fixture
def clients() -> Iterator[Callable[..., Client]]:
    """Connected clients: name, port, and the folder of `genre broker init` where the broker asks for a password."""
    made: list[Client] = []

    def client(
        name: str, port: int, folder: Path | None = None, client_id: str | None = None, **options: Any
    ) -> Client:
        new = Client(client_id or f"{name}-{len(made)}", **options)
        made.append(new)
        if folder is not None:
            new.client.tls_set(ca_certs=str(folder / "ca.crt"))
            new.client.username_pw_set(name, (folder / "passwords" / name).read_text().strip())
        new.connect(port)
        return new

    yield client
    for old in made:
        old.close()
