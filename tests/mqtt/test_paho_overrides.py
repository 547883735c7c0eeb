"""What paho_client.py overrides is paho's as it was read: each private step has the source that the override was made
against, so that a new paho makes a person look before it runs."""

from __future__ import annotations

import hashlib
import inspect
from importlib.metadata import requires, version

import paho.mqtt.client as mqtt
import pytest

from services.mqtt.paho_client import PahoClient

SOURCES = {
    "_do_on_publish": "5bbcad6f9447107a",
    "_handle_connack": "39267140212c8b5f",
    "_handle_pubackcomp": "04d39ba283b1f3be",
    "_handle_publish": "1bbaa3ef0e3afc6d",
    "_messages_reconnect_reset": "9350b1f0d6302c56",
    "_packet_handle": "ac4c129ed409db42",
    "_send_publish": "4edd21dd50f58a28",
    "_sock_recv": "c3b9043a46dd81b7",
    "loop_forever": "4b19e7ecf7fe0463",
    "loop_misc": "e9c8f0e45281062e",
    "publish": "5c00cd3dcebceaae",
    "reconnect": "3ecdf1a8299e8c8a",
}
"""SHA-256 of each overridden step in paho 2.2.0, and of those whose inner state the overrides rely on."""
RELIED_ON = {"_messages_reconnect_reset", "_do_on_publish", "publish", "_packet_handle", "loop_forever"}
OURS = {"keep_to"}


def digest(name: str) -> str:
    return hashlib.sha256(inspect.getsource(getattr(mqtt.Client, name)).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_step_that_is_overridden_or_relied_on_is_as_it_was_read(name: str) -> None:
    assert digest(name) == SOURCES[name], f"paho's {name} changed: read it, and paho_client.py beside it, anew"


def test_every_override_is_among_them() -> None:
    methods = {name for name, value in vars(PahoClient).items() if inspect.isfunction(value)}
    assert methods - OURS == set(SOURCES) - RELIED_ON


def test_paho_is_pinned_exactly() -> None:
    wanted = next(line for line in requires("genre-edge") or [] if line.startswith("paho-mqtt"))
    assert wanted == f"paho-mqtt=={version('paho-mqtt')}"
