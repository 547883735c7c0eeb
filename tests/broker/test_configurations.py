"""Each configuration under a real Mosquitto: who can reach it, what it refuses, what survives a crash."""

from __future__ import annotations

import getpass
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker.command import broker as broker_command
from broker.folder import BrokerFolder
from broker.mosquitto_conf import bridge_config, local_config, ready_to_copy
from services.contract.messages import Message
from services.process.lifecycle import ServiceProcess
from services.settings.schema import Broker
from tests.broker.mosquitto import Client, Mosquitto, free_port, stay_this_user, wait_for

ROOT = Path(__file__).parents[2]
Start = Callable[[Path, int], Mosquitto]


def local(tmp_path: Path, brokers: Start, extra: str = "", persistence: bool = False) -> Mosquitto:
    port = free_port()
    config = tmp_path / "local.conf"
    config.write_text(local_config(port, tmp_path, persistence, getpass.getuser()) + extra)
    return brokers(config, port)


def test_the_files_to_copy_are_those_that_run() -> None:
    for name, text in ready_to_copy().items():
        assert (ROOT / "broker" / "conf" / name).read_text() == text, (
            f"python -m broker.mosquitto_conf broker/conf ({name})"
        )


def test_local_listens_on_loopback_alone(tmp_path: Path, brokers: Start) -> None:
    broker = local(tmp_path, brokers)
    with socket.socket(socket.AF_INET) as probe:
        assert probe.connect_ex(("127.0.0.2", broker.port)) != 0


def test_an_oversize_message_is_refused_and_a_full_chunk_is_not(
    tmp_path: Path, brokers: Start, clients: Callable[..., Client]
) -> None:
    broker = local(tmp_path, brokers)
    client = clients("anyone", broker.port)
    assert client.publish("genre/pcm/x", bytes(1_000_000)) < 128
    client.client.publish("genre/pcm/x", bytes(2_100_000), 1)
    wait_for(lambda: client.disconnects, "the refusal")
    # 128 where the reset of the connection, with the rest of the message unread, overtakes the DISCONNECT.
    assert client.disconnects[0] in (149, 128)


def test_a_durable_subscriber_loses_nothing_when_the_broker_is_killed(
    tmp_path: Path, brokers: Start, clients: Callable[..., Client]
) -> None:
    broker = local(tmp_path, brokers, persistence=True)
    durable = clients("reader", broker.port, client_id="reader", clean=False)
    durable.subscribe("genre/results")
    durable.close()
    source = clients("source", broker.port)
    for number in range(100):
        assert source.publish("genre/results", str(number).encode()) == 0
    store = tmp_path / "mosquitto.db"
    before = store.stat().st_mtime_ns if store.exists() else 0
    wait_for(lambda: store.exists() and store.stat().st_mtime_ns > before, "the store is written")
    broker.kill()
    broker.start()
    back = clients("reader", broker.port, client_id="reader", clean=False)
    wait_for(lambda: len(back.received) == 100, "100 results")
    assert [int(message.payload) for message in back.received] == list(range(100))


@pytest.fixture
def lan(tmp_path: Path, brokers: Start) -> tuple[Path, Mosquitto, int]:
    folder, state = tmp_path / "broker", tmp_path / "state"
    state.mkdir()
    port, websockets = free_port(), free_port()
    BrokerFolder(folder).set_up(["localhost", "127.0.0.1"], port, websockets, state, False)
    stay_this_user(folder / "mosquitto.conf")
    return folder, brokers(folder / "mosquitto.conf", port), websockets


def test_lan_speaks_tls_1_2_or_later_and_shows_the_certificate_of_its_ca(lan: tuple[Path, Mosquitto, int]) -> None:
    folder, broker, _ = lan
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    for name in ("localhost", "127.0.0.1"):
        with (
            socket.create_connection(("127.0.0.1", broker.port), 5) as raw,
            context.wrap_socket(raw, server_hostname=name) as tls,
        ):
            assert tls.version() in ("TLSv1.2", "TLSv1.3")
    with (
        socket.create_connection(("127.0.0.1", broker.port), 5) as raw,
        pytest.raises(ssl.SSLCertVerificationError),
        ssl.create_default_context().wrap_socket(raw, server_hostname="localhost"),
    ):
        pass


def test_lan_does_not_answer_without_tls(lan: tuple[Path, Mosquitto, int]) -> None:
    _, broker, _ = lan
    with socket.create_connection(("127.0.0.1", broker.port), 5) as plain:
        plain.sendall(b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x0a\x00\x00\x02ab")
        try:
            answer = plain.recv(100)
        except ConnectionError:
            answer = b""
    assert not answer.startswith(b"\x20")


def test_browsers_connect_over_websockets(lan: tuple[Path, Mosquitto, int], clients: Callable[..., Client]) -> None:
    folder, broker, websockets = lan
    broker.wait_port(websockets)
    client = clients("dashboard", websockets, folder, transport="websockets")
    assert client.connected == 0
    assert client.subscribe("genre/results") == 1


def test_the_bridge_sends_results_and_status_up_and_never_audio(
    tmp_path: Path, brokers: Start, clients: Callable[..., Client], lan: tuple[Path, Mosquitto, int]
) -> None:
    from click.testing import CliRunner

    from broker.command import broker as command

    folder, upstream, _ = lan
    done = CliRunner().invoke(command, ["user", "edge-7", "--role", "bridge", "--folder", str(folder)])
    assert done.exit_code == 0
    done = CliRunner().invoke(command, ["user", "wall", "--role", "viewer", "--folder", str(folder)])
    upstream.stop()
    upstream.start()
    password = (folder / "passwords" / "edge-7").read_text().strip()
    extra = bridge_config("edge-7", f"localhost:{upstream.port}", password, folder / "ca.crt", prefix="")
    edge = local(tmp_path, brokers, extra)
    viewer = clients("wall", upstream.port, folder, client_id="wall", clean=False)
    assert viewer.subscribe("genre/results") == viewer.subscribe("genre/status/#") == 1
    source = clients("source", edge.port)
    for topic in ("genre/pcm/r1", "genre/mel/vgg16/r1", "genre/dead", "genre/acks/e"):
        source.publish(topic)
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("contract", "1")]
    source.publish("genre/status/fetcher/1", b"online", retain=True)
    source.publish("genre/results", b"first", properties=properties)
    wait_for(lambda: any(m.topic == "genre/results" for m in viewer.received), "the result upstream", 45)
    got = {message.topic: message for message in viewer.received}
    assert set(got) == {"genre/results", "genre/status/fetcher/1"}
    assert got["genre/results"].properties.UserProperty == [("contract", "1")]

    upstream.stop()
    source.publish("genre/results", b"while it was away")
    upstream.start()
    again = wait_for(lambda: [m for m in viewer.received if m.payload == b"while it was away"], "what was queued", 45)
    assert again


def test_a_broker_that_asks_for_client_certificates_takes_every_service_with_its_own(
    tmp_path: Path, brokers: Start
) -> None:
    port, folder = free_port(), tmp_path / "b"
    words = ["init", "--folder", str(folder), "--host", "127.0.0.1", "--port", str(port), "--root", "home"]
    done = CliRunner().invoke(broker_command, [*words, "--client-certificates", "--state", str(tmp_path)])
    assert done.exit_code == 0, done.output
    stay_this_user(folder / "mosquitto.conf")
    brokers(folder / "mosquitto.conf", port)
    for service in ("fetcher", "featurizer", "inference", "dashboard"):
        lifecycle = ServiceProcess(
            service,  # type: ignore[arg-type]
            "1",
            "home",
            Broker(
                port=port,
                root="home",
                ca_file=folder / "ca.crt",
                username=service,
                password_file=folder / "passwords" / service,
                certificate_file=folder / "clients" / f"{service}.crt",
                key_file=folder / "clients" / f"{service}.key",
            ),
        )
        mqtt = lifecycle.connect(durable=True)
        mqtt.start()
        mqtt.wait_connected(10)
        assert mqtt.publish_and_wait(Message(f"home/status/{service}/1", retain=True), 5).accepted
        mqtt.stop()
