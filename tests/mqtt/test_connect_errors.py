"""Each way in which a broker can't be reached is named, with what to do; against one real Mosquitto's listeners."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import certificates
from services.contract.messages import Message
from services.errors import GenreError
from services.mqtt.client import MqttClient
from services.settings.schema import Broker
from tests.broker.mosquitto import PROGRAM, Mosquitto, free_port, stay_this_user, wait_for

Buses = Callable[..., MqttClient]
LISTENERS = ("plain", "tls", "wrong-name", "mutual", "mutual-websockets", "password", "websockets")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates: of the broker, of another host, of a client, and of a CA that nobody knows."""
    folder = tmp_path_factory.mktemp("tls")
    for ca in ("ca", "stranger"):
        key = certificates.new_key()
        (folder / f"{ca}.key").write_bytes(key)
        (folder / f"{ca}.crt").write_bytes(certificates.authority(key, ca))
    for name, ca, hosts in (("server", "ca", ["127.0.0.1"]), ("other", "ca", ["other.example"])):
        _certify(folder, name, ca, hosts)
    for name, ca in (("client", "ca"), ("forged", "stranger")):
        key = certificates.new_key()
        issuer = (folder / f"{ca}.crt").read_bytes(), (folder / f"{ca}.key").read_bytes()
        (folder / f"{name}.key").write_bytes(key)
        (folder / f"{name}.crt").write_bytes(certificates.client_certificate(*issuer, key, "fetcher"))
    return folder


def _certify(folder: Path, name: str, ca: str, hosts: list[str]) -> None:
    key = certificates.new_key()
    issuer = (folder / f"{ca}.crt").read_bytes(), (folder / f"{ca}.key").read_bytes()
    (folder / f"{name}.key").write_bytes(key)
    (folder / f"{name}.crt").write_bytes(certificates.server_certificate(*issuer, key, hosts))


@pytest.fixture(scope="module")
def ports(folder: Path) -> Iterator[dict[str, int]]:
    if PROGRAM is None:
        pytest.skip("mosquitto is not installed")
    ports = {name: free_port() for name in LISTENERS}

    def tls(server: str) -> str:
        return f"cafile {folder}/ca.crt\ncertfile {folder}/{server}.crt\nkeyfile {folder}/{server}.key\n"

    more = {"tls": tls("server"), "wrong-name": tls("other"), "mutual": tls("server") + "require_certificate true\n"}
    more["websockets"] = "protocol websockets\n"
    more["mutual-websockets"] = more["websockets"] + more["mutual"]
    text = "per_listener_settings true\n"
    for name, port in ports.items():
        text += f"listener {port} 127.0.0.1\nallow_anonymous {str(name != 'password').lower()}\n{more.get(name, '')}"
    config = folder / "mosquitto.conf"
    config.write_text(text)
    stay_this_user(config)
    mosquitto = Mosquitto(config, ports["plain"])
    for port in ports.values():
        mosquitto.wait_port(port)
    yield ports
    mosquitto.stop()


def problem_of(broker: Broker) -> GenreError:
    """Return what a client says that can't connect."""
    said: list[GenreError] = []
    mqtt = MqttClient(broker, "a", on_problem=said.append)
    mqtt.start()
    try:
        wait_for(lambda: said, "the reason")
        with pytest.raises(GenreError) as caught:
            mqtt.wait_connected(0.2)
        assert said[0].reason in caught.value.reason and mqtt.problem is not None
    finally:
        mqtt.stop()
    return said[0]


@pytest.mark.parametrize(
    ("listener", "settings", "reason", "remedy"),
    [
        ("tls", {"tls": True}, "unknown CA", "broker.ca_file"),
        ("tls", {"ca_file": "stranger.crt"}, "unknown CA", "broker.ca_file"),
        ("wrong-name", {"ca_file": "ca.crt"}, "wrong name", "broker.host"),
        ("mutual", {"ca_file": "ca.crt"}, "asks for a client certificate", "broker.certificate_file"),
        ("mutual", {"ca_file": "ca.crt", "certificate_file": "forged.crt", "key_file": "forged.key"},
         "refuses this client's certificate", "the broker's CA signed"),
        ("tls", {}, "ends the connection before it answers MQTT", "broker.ca_file or broker.tls"),
        ("plain", {"ca_file": "ca.crt"}, "does not speak TLS there", "check broker.port"),
        ("plain", {"transport": "websockets"}, "does not speak WebSockets there", "broker.transport"),
        ("password", {}, "a client without user name", "broker.username and broker.password_file"),
        ("password", {"username": "a+b/#"}, "user 'a+b/#': wrong password", "broker.username and broker.password_file"),
    ],
)  # fmt: skip
def test_why_a_broker_does_not_let_one_in_is_named_with_its_remedy(
    folder: Path, ports: dict[str, int], listener: str, settings: dict[str, object], reason: str, remedy: str
) -> None:
    files = {key: folder / str(value) if key.endswith("_file") else value for key, value in settings.items()}
    problem = problem_of(Broker.model_validate({"port": ports[listener], **files}))
    assert reason in problem.reason and remedy in problem.remedy, problem
    assert problem.thing == f"MQTT broker 127.0.0.1:{ports[listener]}"


@pytest.mark.parametrize("then", ["alert", "reset", "close"])
def test_an_alert_that_a_reset_overtook_is_asked_for_again(folder: Path, then: str) -> None:
    """The first connection is reset right after the handshake, as one is whose alert got lost; others get the alert."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_judge, args=(server, folder, then), daemon=True).start()
        problem = problem_of(Broker(port=server.getsockname()[1], ca_file=folder / "ca.crt"))
    assert ("asks for a client certificate" if then == "alert" else "ends the connection before") in problem.reason


def _judge(server: socket.socket, folder: Path, then: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    with contextlib.suppress(OSError):
        while True:
            raw, _ = server.accept()
            with contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as secured:
                secured.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if then == "close":
                server.accept()[0].close()
            elif then == "alert":
                context.load_verify_locations(folder / "ca.crt")
                context.verify_mode = ssl.CERT_REQUIRED


def test_a_port_where_nobody_listens_is_refused() -> None:
    assert "refused" in problem_of(Broker(port=free_port())).reason


@pytest.mark.parametrize("host", ["broker.invalid", "a" * 64 + ".example"])
def test_a_host_that_there_is_not_is_named(host: str) -> None:
    problem = problem_of(Broker(host=host))
    assert f"the name {host!r} is not known here" in problem.reason and "broker.host" in problem.remedy


def test_a_server_that_answers_nothing_is_told_from_one_that_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mqtt = MqttClient(Broker(port=silent.getsockname()[1]), "a")
        mqtt.start()
        with pytest.raises(GenreError, match="no answer in time"):
            mqtt.wait_connected(0.3)
        mqtt.stop()


def test_a_reason_that_lasts_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    mqtt = MqttClient(Broker(port=free_port()), "a")
    tries: list[int] = []
    failed = mqtt._client.on_connect_fail
    assert failed is not None
    mqtt._client.on_connect_fail = lambda client, userdata: (tries.append(1), failed(client, userdata))  # type: ignore[func-returns-value]
    with caplog.at_level(logging.ERROR):
        mqtt.start()
        wait_for(lambda: len(tries) >= 3, "three tries")
        mqtt.stop()
    assert [record.getMessage().count("refused: nobody listens there") for record in caplog.records] == [1]


@pytest.mark.parametrize(
    ("listener", "settings"),
    [
        ("mutual", {"ca_file": "ca.crt", "certificate_file": "client.crt", "key_file": "client.key"}),
        ("websockets", {"transport": "websockets"}),
        ("mutual-websockets", {"host": "wss://127.0.0.1/mqtt", "ca_file": "ca.crt", "certificate_file": "client.crt",
                               "key_file": "client.key"}),
    ],
)  # fmt: skip
def test_client_certificates_and_websockets_carry_messages(
    folder: Path, ports: dict[str, int], buses: Buses, listener: str, settings: dict[str, object]
) -> None:
    files = {key: folder / str(value) if key.endswith("_file") else value for key, value in settings.items()}
    mqtt = buses(Broker.model_validate({"port": ports[listener], "root": "r", **files}), listener)
    seen: list[bytes] = []
    mqtt.subscribe("r/x", lambda delivery: (seen.append(delivery.message.payload), mqtt.ack(delivery))[1])
    payload = b"x" * 10_000  # Mosquitto 2.0.11 takes 4 kB of WebSockets each 0.1 s
    wait_for(lambda: mqtt.publish_and_wait(Message("r/x", payload), 5).reached_someone and seen, "the message")
    assert seen[0] == payload and mqtt.problem is None


def test_a_certificate_and_key_may_stand_in_one_file(folder: Path, ports: dict[str, int], buses: Buses) -> None:
    both = folder / "both.pem"
    both.write_bytes((folder / "client.crt").read_bytes() + (folder / "client.key").read_bytes())
    broker = Broker(port=ports["mutual"], ca_file=folder / "ca.crt", certificate_file=both)
    assert buses(broker, "a").connected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ca_file": "nothing.crt"}, "broker.ca_file"),
        ({"ca_file": "client.key"}, "broker.ca_file"),
        ({"certificate_file": "nothing.crt", "key_file": "client.key"}, "broker.certificate_file"),
        ({"certificate_file": "client.crt", "key_file": "nothing.key"}, "broker.key_file"),
        ({"certificate_file": "client.crt"}, "client certificate"),
        ({"certificate_file": "client.crt", "key_file": "forged.key"}, "PEM pair"),
        ({"certificate_file": "client.crt", "key_file": "locked.key"}, "passphrase"),
    ],
)  # fmt: skip
def test_files_that_make_no_tls_are_named_with_their_key(folder: Path, settings: dict[str, str], words: str) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((folder / "client.key").read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    (folder / "locked.key").write_bytes(pem)
    with pytest.raises(GenreError, match=words):
        MqttClient(Broker.model_validate({name: folder / file for name, file in settings.items()}), "a")
