"""What a broker can't do: said once and clearly, or done without. Real Mosquittos where their configuration can deny
it, else a small MQTT 5 server that says it in its CONNACK."""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.broker_limits import Limits
from services.bus import Bus, Receipt
from services.contract import Message
from services.errors import GenreError, UsageError
from services.fetcher.chunks import windows_that_fit
from services.settings import Broker, checked
from tests.broker.mosquitto import PROGRAM, Client, Mosquitto, free_port, wait_for
from tests.services.connack_server import ConnackServer

Buses = Callable[..., Bus]
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


def fatal(bus: Bus) -> str:
    """Wait until the bus gives up and return its one line."""
    error = wait_for(lambda: bus.fatal, "the bus gives up")
    assert isinstance(error, GenreError)
    text = str(error)
    assert "\n" not in text and bus.name in text
    return text


# --- Mosquitto ----------------------------------------------------------------------------------------------------


def test_what_mosquitto_says_is_read(limited: Limited, buses: Buses) -> None:
    mosquitto = limited("max_packet_size 200000", "max_keepalive 10", "max_inflight_messages 3", "max_qos 1")
    bus = buses(Broker(port=mosquitto.port, keepalive_s=60), "a")
    limits = bus.limits
    assert (limits.maximum_packet_bytes, limits.keep_alive_s, limits.receive_maximum) == (200_000, 10, 3)
    assert bus._client.keepalive == 10, "Mosquitto drops who is silent for 1.5 of its own keep-alives, not of ours"
    assert limits.maximum_qos == 1 and limits.shared_subscriptions and limits.retain and limits.wildcards


def test_without_retain_status_and_will_are_sent_as_plain_messages(limited: Limited, buses: Buses) -> None:
    mosquitto = limited("retain_available false")
    watcher = Client("watcher")
    watcher.connect(mosquitto.port)
    watcher.subscribe("genre/status")
    will = Message("genre/status", b"offline", retain=True)
    bus = buses(Broker(port=mosquitto.port), "a", will=will, wait=False)
    early: list[Receipt] = []
    bus.publish(Message("genre/status", b"early", retain=True), early.append)
    bus.wait_connected(15)
    assert not bus.limits.retain
    assert bus.publish_and_wait(Message("genre/status", b"online", retain=True), 5).code == 0
    wait_for(lambda: early and early[0].code == 0, "what was published before the connection")
    generation = bus.generation
    bus._client._sock_close()  # no DISCONNECT: as after kill -9
    wait_for(lambda: b"offline" in [m.payload for m in watcher.received], "the will")
    assert b"online" in [message.payload for message in watcher.received]
    assert generation > 0
    watcher.close()


def test_qos_0_only_is_refused_in_one_line(limited: Limited, buses: Buses) -> None:
    mosquitto = limited("max_qos 0")
    bus = buses(Broker(port=mosquitto.port), "a", wait=False)
    assert "QoS 0 only" in fatal(bus)
    with pytest.raises(GenreError, match="QoS 0 only"):
        bus.wait_connected(5)


def test_qos_0_only_is_refused_although_the_will_was_refused_first(limited: Limited, buses: Buses) -> None:
    mosquitto = limited("max_qos 0")
    bus = buses(Broker(port=mosquitto.port), "a", wait=False, will=Message("genre/status", b"offline", retain=True))
    assert "QoS 0 only" in fatal(bus)


@pytest.mark.parametrize("service", ["fetcher", "featurizer"])
def test_a_packet_limit_below_one_window_ends_the_service_in_one_line(
    service: str, limited: Limited, tmp_path: Path
) -> None:
    mosquitto = limited("max_packet_size 50000")
    config = tmp_path / "genre.toml"
    config.write_text(f'[broker]\nport = {mosquitto.port}\n[paths]\nstate_dir = "{tmp_path}"\n')
    argv = [sys.executable, "-m", "services.cli", service, "--config", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env={**os.environ, "OMP_NUM_THREADS": "1"})
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert "takes packets of at most 50000 bytes, but this service needs" in last and "max_packet_size" in last
    assert "Traceback" not in done.stderr


def test_what_is_under_way_when_the_limit_shrinks_is_told_as_refused_and_the_connection_stays(
    limited: Limited, buses: Buses
) -> None:
    mosquitto = limited()
    bus = buses(Broker(port=mosquitto.port), "a")
    mosquitto.process.send_signal(signal.SIGSTOP)  # takes the message and never answers
    told: list[Receipt] = []
    bus.publish(Message("genre/events", bytes(300_000)), told.append)
    mosquitto.kill()
    mosquitto.config.write_text(mosquitto.config.read_text() + "max_packet_size 150000\n")
    mosquitto.start()
    wait_for(lambda: told, "its receipt")
    assert told[0].code == 149 and "150000" in told[0].text
    generation = bus.generation
    assert bus.publish_and_wait(Message("genre/events", b"small"), 10).code in (0, 16)
    assert bus.generation == generation and bus.fatal is None


def test_many_messages_pass_a_broker_that_takes_few_at_once(limited: Limited, buses: Buses) -> None:
    mosquitto = limited("max_inflight_messages 2")
    bus = buses(Broker(port=mosquitto.port), "a", wait=False)
    receipts: list[Receipt] = []
    for i in range(300):
        bus.publish(Message("genre/x", str(i).encode()), receipts.append)
    wait_for(lambda: len(receipts) == 300, "every PUBACK")
    assert all(receipt.accepted for receipt in receipts)


# --- what no configuration of Mosquitto denies ---------------------------------------------------------------------


@pytest.mark.parametrize("early", [True, False], ids=["published-before-the-connection", "published-after"])
def test_receive_maximum_is_never_exceeded(server: Callable[..., ConnackServer], buses: Buses, early: bool) -> None:
    """The server ends the connection where it is, as MQTT 5 asks (reason 147)."""
    peer = server(hold=True, ReceiveMaximum=3)
    bus = buses(Broker(port=peer.port), "a", wait=not early)
    receipts: list[Receipt] = []
    for i in range(12):
        bus.publish(Message("genre/x", str(i).encode()), receipts.append)
    for released in range(0, 12, 2):
        wait_for(lambda left=12 - released: len(peer.held) == min(3, left), "as many as it takes")
        peer.release(2)
    wait_for(lambda: len(receipts) == 12, "every PUBACK")
    assert peer.most_held == 3 and peer.connections == 1


def test_a_smaller_receive_maximum_after_a_reconnect_is_kept_too(
    server: Callable[..., ConnackServer], buses: Buses
) -> None:
    peer = server(hold=True)
    bus = buses(Broker(port=peer.port), "a")
    receipts: list[Receipt] = []
    for i in range(15):
        bus.publish(Message("genre/x", str(i).encode()), receipts.append)
    wait_for(lambda: len(peer.held) == 15, "all of them, unacknowledged")
    peer._properties["ReceiveMaximum"] = 2
    peer.most_held = 0
    bus._client._sock_close()
    wait_for(lambda: peer.connections == 2 and len(peer.held) == 2, "the first two again")
    peer.holding = False
    peer.release(2)
    wait_for(lambda: len(receipts) == 15, "every PUBACK")
    assert peer.most_held == 2 and peer.connections == 2


def test_no_shared_subscriptions_is_refused_in_one_line(server: Callable[..., ConnackServer], buses: Buses) -> None:
    peer = server(SharedSubscriptionAvailable=0)
    bus = buses(Broker(port=peer.port), "a", wait=False)
    bus.subscribe("$share/g/genre/x", bus.ack)
    assert "no shared subscriptions" in fatal(bus)


def test_a_shared_subscription_that_is_refused_later_is_final_too(
    server: Callable[..., ConnackServer], buses: Buses
) -> None:
    peer = server(SharedSubscriptionAvailable=0)
    bus = buses(Broker(port=peer.port), "a")
    assert bus.fatal is None, "who needs none may stay"
    bus.subscribe("$share/g/genre/x", bus.ack)
    assert "no shared subscriptions" in fatal(bus)


def test_no_wildcards_is_refused_where_a_service_needs_them(server: Callable[..., ConnackServer], buses: Buses) -> None:
    peer = server(WildcardSubscriptionAvailable=0)
    plain = buses(Broker(port=peer.port), "a", wait=False)
    plain.subscribe("genre/acks/1", plain.ack)
    plain.wait_connected(10)
    assert plain.fatal is None
    plain.stop()
    bus = buses(Broker(port=peer.port), "b", wait=False)
    bus.subscribe("genre/status/+/+", bus.ack)
    assert "no wildcard subscriptions" in fatal(bus)


@pytest.mark.parametrize("says", [{"old": True}, {"code": 132}], ids=["3.1.1's CONNACK", "MQTT 5's code 132"])
def test_a_broker_without_mqtt_5_is_refused_in_one_line(
    says: dict[str, object], server: Callable[..., ConnackServer], buses: Buses
) -> None:
    bus = buses(Broker(port=server(**says).port), "a", wait=False)
    with pytest.raises(GenreError, match="does not speak MQTT 5"):
        bus.wait_connected(10)


def test_a_server_keep_alive_is_kept(server: Callable[..., ConnackServer], buses: Buses) -> None:
    peer = server(ServerKeepAlive=1)
    buses(Broker(port=peer.port, keepalive_s=60), "a")
    wait_for(lambda: peer.pings >= 2, "pings at the server's pace")


def test_without_retain_nothing_is_sent_retained(server: Callable[..., ConnackServer], buses: Buses) -> None:
    peer = server(RetainAvailable=0)
    bus = buses(Broker(port=peer.port), "a")
    assert bus.publish_and_wait(Message("genre/x", retain=True), 5).accepted
    assert peer.retained == 0 and peer.connections == 1


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "hop", "windows"),
    [(None, 33_000, 4), (2_000_000, 33_000, 4), (330_000, 33_000, 4), (329_999, 33_000, 3), (198_000, 33_000, 2),
     (132_000, 33_000, 1), (131_999, 33_000, 0), (160_000, 1_000, 2), (10, 33_000, 0)],
)  # fmt: skip
def test_chunks_are_cut_to_what_the_broker_takes(payload: int | None, hop: int, windows: int) -> None:
    assert windows_that_fit(payload, hop, 4) == windows


def test_what_a_connack_leaves_out_is_what_mqtt_5_says_of_it() -> None:
    assert Limits.of(None) == Limits()


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [("mqtts://broker.example", "broker.example", 8883, True), ("mqtt://[::1]:1884", "::1", 1884, False),
     ("mqtts://10.0.0.1:443", "10.0.0.1", 443, True)],
)  # fmt: skip
def test_a_broker_can_be_given_by_url(url: str, host: str, port: int, tls: bool) -> None:
    broker = checked({"broker": {"host": url}}, "test").broker
    assert (broker.host, broker.port, broker.tls) == (host, port, tls)
    assert Broker.model_validate(broker.model_dump()) == broker


@pytest.mark.parametrize(
    ("url", "words"),
    [("http://x", "mqtt://HOST"), ("mqtts://", "mqtt://HOST"), ("mqtt://u:p@x", "password_file"),
     ("mqtt://x/path", "host and port only"), ("mqtt://x:99999", "")],
)  # fmt: skip
def test_a_wrong_url_is_one_line(url: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked({"broker": {"host": url}}, "test")
    assert words in str(caught.value) and "\n" not in str(caught.value)
