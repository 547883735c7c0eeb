"""The broker's stages: DNS, TCP, TLS, MQTT, permissions, round trip; each names what is wrong at exactly that layer.

The last two use one topic that belongs to the doctor, genre/doctor/<user>; no service reads it. Start at `part`.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import threading
import time
from datetime import datetime, timezone

from services.bus import Bus, Delivery
from services.contract import Message
from services.doctor.stages import Part
from services.errors import GenreError
from services.settings import Broker

TIMEOUT_S = 5.0


def part(broker: Broker) -> Part:
    """Return the broker's chain of checks."""
    visit = _Visit(broker)
    stages = [("DNS", lambda: resolve(broker.host)), ("TCP", lambda: connect(broker.host, broker.port))]
    if broker.tls or broker.ca_file is not None:
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
    thing = f"{broker.host}:{broker.port}"
    try:
        context = ssl.create_default_context(cafile=str(broker.ca_file) if broker.ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise GenreError(
            str(broker.ca_file), f"can't be used as CA ({error})", "copy the broker's ca.crt there"
        ) from error
    try:
        with (
            socket.create_connection((broker.host, broker.port), TIMEOUT_S) as raw,
            context.wrap_socket(raw, server_hostname=broker.host) as tls,
        ):
            ends = ssl.cert_time_to_seconds(str((tls.getpeercert() or {}).get("notAfter", "")))
            until = datetime.fromtimestamp(ends, timezone.utc).date()
            return f"{tls.version()}, certificate until {until}"
    except ssl.SSLCertVerificationError as error:
        remedies = {
            9: "set this machine's clock",
            10: "'genre broker renew' on the broker, or set this machine's clock",
            62: "use a name that 'genre broker init --host' was given",
        }
        remedy = remedies.get(error.verify_code, "copy the broker's ca.crt to broker.ca_file")
        raise GenreError(thing, f"its certificate is not accepted ({error.verify_message})", remedy) from error
    except OSError as error:
        raise GenreError(
            thing, f"no TLS there ({error})", "check the port; without TLS remove broker.ca_file"
        ) from error


class _Visit:
    """One MQTT session for the last three stages."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._topic = f"{broker.root}/doctor/{broker.username or 'anonymous'}"
        self._bus: Bus | None = None

    def mqtt(self) -> str:
        """Log in."""
        self._bus = Bus(self._broker, f"{self._broker.root}-doctor-{os.getpid()}-{secrets.token_hex(3)}")
        self._bus.start()
        try:
            self._bus.wait_connected(TIMEOUT_S)
        except GenreError as error:
            self._bus.stop()
            remedy = "check broker.username and its password file; 'genre broker user' makes users"
            raise GenreError(error.thing, error.reason, remedy) from error
        limits = self._bus.limits
        if not limits.shared_subscriptions:
            self._bus.stop()
            raise GenreError(error_name(self._broker), "has no shared subscriptions", "use Mosquitto 1.6 or later")
        packet = limits.maximum_packet_bytes
        if packet is not None and packet < 1_100_000:
            self._bus.stop()
            raise GenreError(
                error_name(self._broker), f"takes packets of {packet} bytes at most", "set max_packet_size 2000000"
            )
        return f"MQTT 5 as {self._broker.username or 'anonymous'}, shared subscriptions"

    def permissions(self) -> str:
        """Publish to the doctor's own topic."""
        assert self._bus is not None
        receipt = self._bus.publish_and_wait(Message(self._topic, b"permission"), TIMEOUT_S)
        if not receipt.accepted:
            self._bus.stop()
            reason = f"{self._broker.username or 'anonymous'} may not publish there ({receipt.text})"
            raise GenreError(self._topic, reason, "use a service's user; 'genre broker roles' shows who may do what")
        return f"may publish to {self._topic}"

    def round_trip(self) -> str:
        """Publish and receive."""
        assert self._bus is not None
        word, arrived = secrets.token_bytes(16), threading.Event()

        def take(delivery: Delivery) -> None:
            assert self._bus is not None
            self._bus.ack(delivery)
            if delivery.message.payload == word:
                arrived.set()

        try:
            self._bus.subscribe(self._topic, take)
            began = time.monotonic()
            while not arrived.wait(0.5):
                if time.monotonic() - began > TIMEOUT_S:
                    reason = f"what was published did not come back within {TIMEOUT_S:g} s"
                    raise GenreError(self._topic, reason, "let this user read it; look into the broker's log")
                self._bus.publish_and_wait(Message(self._topic, word), TIMEOUT_S)
            return f"{1000 * (time.monotonic() - began):.0f} ms there and back"
        finally:
            self._bus.stop()


def error_name(broker: Broker) -> str:
    """Return how a person calls this broker."""
    return f"MQTT broker {broker.host}:{broker.port}"
