"""The broker's stages: DNS, TCP, TLS, MQTT, permissions, round trip; each names what is wrong at exactly that layer.

The last two use one topic that belongs to the doctor, genre/doctor/<user>; no service reads it. Start at `part`.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import ssl
import threading
import time
from datetime import datetime, timezone

from services.contract.messages import Message
from services.doctor.stages import Part
from services.errors import GenreError
from services.mqtt import connect_errors, tls
from services.mqtt.client import MqttClient
from services.mqtt.subscriptions import Delivery
from services.settings.schema import Broker

TIMEOUT_S = 5.0


def part(broker: Broker) -> Part:
    """Return the broker's chain of checks."""
    visit = _Visit(broker)
    stages = [("DNS", lambda: resolve(broker.host)), ("TCP", lambda: connect(broker.host, broker.port))]
    if broker.uses_tls:
        stages.append(("TLS", lambda: handshake(broker)))
    stages += [("MQTT", visit.mqtt), ("permissions", visit.permissions), ("round trip", visit.round_trip)]
    return Part("broker", stages)


def resolve(host: str) -> str:
    """Look a host up.

    Raises:
        GenreError: it has no address.
    """
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise GenreError(host, f"has no address ({error})", "check the name, /etc/hosts and the DNS server") from error
    return f"{host} is {', '.join(sorted(found))}"


def connect(host: str, port: int, start: str = "start it ('systemctl status mosquitto'), or check the port") -> str:
    """Open a TCP connection.

    Raises:
        GenreError: refused, unreachable or silent.
    """
    began = time.monotonic()
    try:
        with socket.create_connection((host, port), TIMEOUT_S):
            return f"{host}:{port} answers in {1000 * (time.monotonic() - began):.0f} ms"
    except ConnectionRefusedError as error:
        raise GenreError(f"{host}:{port}", "nobody listens there", start) from error
    except TimeoutError as error:
        raise GenreError(
            f"{host}:{port}", f"no answer in {TIMEOUT_S:g} s", "look for a firewall, check the address"
        ) from error
    except OSError as error:
        raise GenreError(
            f"{host}:{port}", f"can't be reached ({error})", "check the network and the address"
        ) from error


def handshake(broker: Broker) -> str:
    """Do a TLS handshake with the configured CA.

    Raises:
        GenreError: the certificate is not right, or there is no TLS.
    """
    context = tls.context(broker)
    try:
        with (
            socket.create_connection((broker.host, broker.port), TIMEOUT_S) as raw,
            context.wrap_socket(raw, server_hostname=broker.host) as secured,
        ):
            ends = ssl.cert_time_to_seconds(str((secured.getpeercert() or {}).get("notAfter", "")))
            until = datetime.fromtimestamp(ends, timezone.utc).date()
            return f"{secured.version()}, certificate until {until}"
    except OSError as error:
        raise connect_errors.of_socket(broker, error, connecting=True) from error


class _Visit:
    """One MQTT session for the last three stages."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        # A broker of others may have users whose names are no level of a topic.
        self._topic = f"{broker.root}/doctor/{re.sub('[+#/]', '_', broker.username or 'anonymous')}"
        self._mqtt: MqttClient | None = None

    def mqtt(self) -> str:
        """Log in."""
        client_id = f"{self._broker.root}-doctor-{os.getpid()}-{secrets.token_hex(3)}"
        self._mqtt = MqttClient(self._broker, client_id, on_problem=lambda problem: None)
        self._mqtt.start()
        try:
            self._mqtt.wait_connected(TIMEOUT_S)
        except GenreError:
            self._mqtt.stop()
            raise
        limits = self._mqtt.limits
        if not limits.shared_subscriptions:
            self._mqtt.stop()
            raise GenreError(
                connect_errors.name_of(self._broker), "has no shared subscriptions", "use Mosquitto 1.6 or later"
            )
        packet = limits.maximum_packet_bytes
        if packet is not None and packet < 1_100_000:
            self._mqtt.stop()
            raise GenreError(
                connect_errors.name_of(self._broker),
                f"takes packets of {packet} bytes at most",
                "set max_packet_size 2000000",
            )
        return f"MQTT 5 as {self._broker.username or 'anonymous'}, shared subscriptions"

    def permissions(self) -> str:
        """Publish to the doctor's own topic."""
        assert self._mqtt is not None
        receipt = self._mqtt.publish_and_wait(Message(self._topic, b"permission"), TIMEOUT_S)
        if not receipt.accepted:
            self._mqtt.stop()
            reason = f"{self._broker.username or 'anonymous'} may not publish there ({receipt.text})"
            raise GenreError(self._topic, reason, "use a service's user; 'genre broker roles' shows who may do what")
        return f"may publish to {self._topic}"

    def round_trip(self) -> str:
        """Publish and receive."""
        assert self._mqtt is not None
        word, arrived = secrets.token_bytes(16), threading.Event()

        def take(delivery: Delivery) -> None:
            assert self._mqtt is not None
            self._mqtt.ack(delivery)
            if delivery.message.payload == word:
                arrived.set()

        try:
            self._mqtt.subscribe(self._topic, take)
            deadline = time.monotonic() + TIMEOUT_S
            while time.monotonic() < deadline:
                began = time.monotonic()  # of this try: the first may be ahead of its own subscription
                self._mqtt.publish(Message(self._topic, word))
                if arrived.wait(0.5):
                    return f"{1000 * (time.monotonic() - began):.0f} ms there and back"
            reason = f"what was published did not come back within {TIMEOUT_S:g} s"
            raise GenreError(self._topic, reason, "let this user read it; look into the broker's log")
        finally:
            self._mqtt.stop()
