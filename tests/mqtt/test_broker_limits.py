"""What a broker can't do: said once and clearly, or done without. Real Mosquittos where their configuration can deny
it, else a small MQTT 5 server that says it in its CONNACK."""

from __future__ import annotations

import getpass
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from services.contract.chunks import Chunk, ChunkHeader
from services.contract.messages import Message
from services.contract.topics import Topics
from services.errors import GenreError
from services.fetcher.delivery.windower import windows_that_fit
from services.mqtt.broker_limits import Limits
from services.mqtt.client import MqttClient
from services.mqtt.receipts import Receipt
from services.process.lifecycle import ServiceProcess
from services.settings.loading import checked
from services.settings.schema import Broker
from tests.broker.mosquitto import PROGRAM, Client, Mosquitto, free_port, wait_for
from tests.mqtt.connack_server import ConnackServer

Buses = Callable[..., MqttClient]
Limited = Callable[..., Mosquitto]


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Limited]:
    """A Mosquitto with further lines in its configuration."""
    if PROGRAM is None:
        pytest.skip("mosquitto is not installed")
    running: list[Mosquitto] = []

    def start(*lines: str) -> Mosquitto:
        port = free_port()
        config = tmp_path / f"{port}.conf"
        first = f"user {getpass.getuser()}\nlistener {port} 127.0.0.1\nallow_anonymous true\n"
        config.write_text(first + "".join(f"{line}\n" for line in lines))
        running.append(Mosquitto(config, port))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture
def server() -> Iterator[Callable[..., ConnackServer]]:
    made: list[ConnackServer] = []

    def start(**says: object) -> ConnackServer:
        made.append(ConnackServer(**says))  # type: ignore[arg-type]
        return made[-1]

    yield start
    for one in made:
        one.close()


def fatal(mqtt: MqttClient) -> str:
    """Wait until the bus gives up and return its one line."""
    error = wait_for(lambda: mqtt.fatal, "the bus gives up")
    assert isinstance(error, GenreError)
    text = str(error)
    assert "\n" not in text and mqtt.name in text
    return text


# --- Mosquitto ----------------------------------------------------------------------------------------------------


def test_what_mosquitto_says_is_read(limited: Limited, buses: Buses) -> None:
    mosquitto = limited("max_packet_size 200000", "max_keepalive 10", "max_inflight_messages 3", "max_qos 1")
    mqtt = buses(Broker(port=mosquitto.port, keepalive_s=60), "a")
    limits = mqtt.limits
    assert (limits.maximum_packet_bytes, limits.receive_maximum) == (200_000, 3)
    assert mqtt._client.keepalive == 10, "Mosquitto drops who is silent for 1.5 of its own keep-alives, not of ours"
    assert limits.maximum_qos == 1 and limits.shared_subscriptions and limits.retain and limits.wildcards


def test_without_retain_status_and_will_are_sent_as_plain_messages(limited: Limited, buses: Buses) -> None:
    mosquitto = limited("retain_available false")
    watcher = Client("watcher")
    watcher.connect(mosquitto.port)
    watcher.subscribe("genre/status")
    will = Message("genre/status", b"offline", retain=True)
    mqtt = buses(Broker(port=mosquitto.port), "a", will=will, wait=False)
    early: list[Receipt] = []
    mqtt.publish(Message("genre/status", b"early", retain=True), early.append)
    mqtt.wait_connected(15)
    assert not mqtt.limits.retain
    assert mqtt.publish_and_wait(Message("genre/status", b"online", retain=True), 5).code == 0
    wait_for(lambda: early and early[0].code == 0, "what was published before the connection")
    generation = mqtt.generation
    mqtt._client._sock_close()  # no DISCONNECT: as after kill -9
    wait_for(lambda: b"offline" in [m.payload for m in watcher.received], "the will")
    assert b"online" in [message.payload for message in watcher.received]
    assert generation > 0
    watcher.close()


def test_qos_0_only_is_refused_in_one_line(limited: Limited, buses: Buses) -> None:
    mosquitto = limited("max_qos 0")
    mqtt = buses(Broker(port=mosquitto.port), "a", wait=False)
    assert "QoS 0 only" in fatal(mqtt)
    with pytest.raises(GenreError, match="QoS 0 only"):
        mqtt.wait_connected(5)


def test_qos_0_only_is_refused_although_the_will_was_refused_first(limited: Limited, buses: Buses) -> None:
    mosquitto = limited("max_qos 0")
    mqtt = buses(Broker(port=mosquitto.port), "a", wait=False, will=Message("genre/status", b"offline", retain=True))
    assert "QoS 0 only" in fatal(mqtt)


@pytest.mark.parametrize("service", ["fetcher", "featurizer"])
def test_a_packet_limit_below_one_window_ends_the_service_in_one_line(
    service: str, limited: Limited, tmp_path: Path
) -> None:
    mosquitto = limited("max_packet_size 30000")
    config = tmp_path / "genre.toml"
    config.write_text(f'[broker]\nport = {mosquitto.port}\n[paths]\nstate_dir = "{tmp_path}"\n')
    argv = [sys.executable, "-m", "services.cli", service, "--config", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env={**os.environ, "OMP_NUM_THREADS": "1"})
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert "takes packets of at most 30000 bytes, but this service needs" in last and "max_packet_size" in last
    assert "Traceback" not in done.stderr


def test_what_is_under_way_when_the_limit_shrinks_is_told_as_refused_and_the_connection_stays(
    limited: Limited, buses: Buses
) -> None:
    mosquitto = limited()
    mqtt = buses(Broker(port=mosquitto.port), "a")
    mosquitto.process.send_signal(signal.SIGSTOP)  # takes the message and never answers
    told: list[Receipt] = []
    mqtt.publish(Message("genre/events", bytes(300_000)), told.append)
    mosquitto.kill()
    mosquitto.config.write_text(mosquitto.config.read_text() + "max_packet_size 150000\n")
    mosquitto.start()
    wait_for(lambda: told, "its receipt")
    assert told[0].code == 149 and "150000" in told[0].text
    generation = mqtt.generation
    assert mqtt.publish_and_wait(Message("genre/events", b"small"), 10).code in (0, 16)
    assert mqtt.generation == generation and mqtt.fatal is None


def test_many_messages_pass_a_broker_that_takes_few_at_once(limited: Limited, buses: Buses) -> None:
    mosquitto = limited("max_inflight_messages 2")
    mqtt = buses(Broker(port=mosquitto.port), "a", wait=False)
    receipts: list[Receipt] = []
    for i in range(300):
        mqtt.publish(Message("genre/x", str(i).encode()), receipts.append)
    wait_for(lambda: len(receipts) == 300, "every PUBACK")
    assert all(receipt.accepted for receipt in receipts)


# --- what no configuration of Mosquitto denies ---------------------------------------------------------------------


@pytest.mark.parametrize("early", [True, False], ids=["published-before-the-connection", "published-after"])
def test_receive_maximum_is_never_exceeded(server: Callable[..., ConnackServer], buses: Buses, early: bool) -> None:
    """The server ends the connection where it is, as MQTT 5 asks (reason 147)."""
    peer = server(hold=True, ReceiveMaximum=3)
    mqtt = buses(Broker(port=peer.port), "a", wait=not early)
    receipts: list[Receipt] = []
    for i in range(12):
        mqtt.publish(Message("genre/x", str(i).encode()), receipts.append)
    for released in range(0, 12, 2):
        wait_for(lambda left=12 - released: len(peer.held) == min(3, left), "as many as it takes")
        peer.release(2)
    wait_for(lambda: len(receipts) == 12, "every PUBACK")
    assert peer.most_held == 3 and peer.connections == 1


def test_a_smaller_receive_maximum_after_a_reconnect_is_kept_too(
    server: Callable[..., ConnackServer], buses: Buses
) -> None:
    peer = server(hold=True)
    mqtt = buses(Broker(port=peer.port), "a")
    receipts: list[Receipt] = []
    for i in range(15):
        mqtt.publish(Message("genre/x", str(i).encode()), receipts.append)
    wait_for(lambda: len(peer.held) == 15, "all of them, unacknowledged")
    peer._properties["ReceiveMaximum"] = 2
    peer.most_held = 0
    mqtt._client._sock_close()
    wait_for(lambda: peer.connections == 2 and len(peer.held) == 2, "the first two again")
    peer.holding = False
    peer.release(2)
    wait_for(lambda: len(receipts) == 15, "every PUBACK")
    assert peer.most_held == 2 and peer.connections == 2


def test_no_shared_subscriptions_is_refused_in_one_line(server: Callable[..., ConnackServer], buses: Buses) -> None:
    peer = server(SharedSubscriptionAvailable=0)
    mqtt = buses(Broker(port=peer.port), "a", wait=False)
    mqtt.subscribe("$share/g/genre/x", mqtt.ack)
    assert "no shared subscriptions" in fatal(mqtt)


def test_a_shared_subscription_that_is_refused_later_is_final_too(
    server: Callable[..., ConnackServer], buses: Buses
) -> None:
    peer = server(SharedSubscriptionAvailable=0)
    mqtt = buses(Broker(port=peer.port), "a")
    assert mqtt.fatal is None, "who needs none may stay"
    mqtt.subscribe("$share/g/genre/x", mqtt.ack)
    assert "no shared subscriptions" in fatal(mqtt)


def test_no_wildcards_is_refused_where_a_service_needs_them(server: Callable[..., ConnackServer], buses: Buses) -> None:
    peer = server(WildcardSubscriptionAvailable=0)
    plain = buses(Broker(port=peer.port), "a", wait=False)
    plain.subscribe("genre/acks/1", plain.ack)
    plain.wait_connected(10)
    assert plain.fatal is None
    plain.stop()
    mqtt = buses(Broker(port=peer.port), "b", wait=False)
    mqtt.subscribe("genre/status/+/+", mqtt.ack)
    assert "no wildcard subscriptions" in fatal(mqtt)


@pytest.mark.parametrize("says", [{"old": True}, {"code": 132}], ids=["3.1.1's CONNACK", "MQTT 5's code 132"])
def test_a_broker_without_mqtt_5_is_refused_in_one_line(
    says: dict[str, object], server: Callable[..., ConnackServer], buses: Buses
) -> None:
    mqtt = buses(Broker(port=server(**says).port), "a", wait=False)
    with pytest.raises(GenreError, match="does not speak MQTT 5"):
        mqtt.wait_connected(10)


def test_a_server_keep_alive_is_kept(server: Callable[..., ConnackServer], buses: Buses) -> None:
    peer = server(ServerKeepAlive=1)
    buses(Broker(port=peer.port, keepalive_s=60), "a")
    wait_for(lambda: peer.pings >= 2, "pings at the server's pace")


def test_without_retain_nothing_is_sent_retained(server: Callable[..., ConnackServer], buses: Buses) -> None:
    peer = server(RetainAvailable=0)
    mqtt = buses(Broker(port=peer.port), "a")
    assert mqtt.publish_and_wait(Message("genre/x", retain=True), 5).accepted
    assert peer.retained == 0 and peer.connections == 1


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "hop", "windows"),
    [(None, 33_000, 4), (2_000_000, 33_000, 4), (330_000, 33_000, 4), (329_999, 33_000, 3), (198_000, 33_000, 2),
     (132_000, 33_000, 1), (131_999, 33_000, 0), (160_000, 1_000, 2), (10, 33_000, 0)],
)  # fmt: skip
def test_chunks_are_cut_to_what_the_broker_takes(payload: int | None, hop: int, windows: int) -> None:
    assert windows_that_fit(payload, hop, 4) == windows


@pytest.mark.parametrize("hop", [33_000, 48_000, 66_000])
@pytest.mark.parametrize("wanted", [1, 8, 13])
def test_every_chunk_that_the_settings_allow_is_one_that_a_featurizer_takes(hop: int, wanted: int) -> None:
    """66,000 samples apart, eight windows are over a million bytes: every chunk of them was a dead letter."""
    checked({"fetcher": {"window_hop": hop, "windows_per_chunk": wanted}}, "test")
    windows = windows_that_fit(None, hop, wanted)
    values = {"stream": "s", "epoch": 0, "first_sample": 0, "windows": windows, "hop": hop}
    header = ChunkHeader.model_validate({**values, "received_at": 1e9, "observed_at": 1e9})
    message = Chunk(header, np.zeros(header.samples, np.int16), "genre/acks/1").to_message(Topics())
    assert Chunk.from_message(message).header == header and 1 <= windows <= wanted


def test_what_a_connack_leaves_out_is_what_mqtt_5_says_of_it() -> None:
    assert Limits.of(None) == Limits()


@pytest.mark.parametrize("receive_maximum", [1, 2, 20])
def test_what_was_kept_and_the_status_at_a_reconnect_stay_within_the_brokers_receive_maximum(
    server: Callable[..., ConnackServer], receive_maximum: int
) -> None:
    """With a will and a status that is published on each connect, as every service has."""
    strict = server(hold=True, ReceiveMaximum=receive_maximum)
    life = ServiceProcess("fetcher", "1", "genre", Broker(port=strict.port))
    mqtt = life.connect(durable=True)
    mqtt.start()
    mqtt.wait_connected(10)
    wait_for(lambda: strict.held, "the first status")
    strict.release(1)
    for number in range(receive_maximum + 5):
        mqtt.publish(Message("genre/x", b"%d" % number))
    wait_for(lambda: len(strict.held) == receive_maximum, "as many as it takes")
    assert strict._peer is not None
    strict._peer.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: strict.connections == 2 and len(strict.held) == receive_maximum, "the same after a reconnect")
    strict.holding = False
    wait_for(lambda: strict.release(1) or not mqtt._client._out_messages, "every PUBACK")
    assert strict.most_held == receive_maximum and strict.connections == 2
    assert strict.received[-1][1] == b"genre/status/fetcher/1", "the status comes behind what was kept"
    mqtt.stop()
