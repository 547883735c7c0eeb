"""The bus against a real broker: every reason code, acks of the right connection, callbacks that can't kill it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.contract.messages import Message
from services.errors import GenreError
from services.mqtt.client import MqttClient
from services.mqtt.receipts import Receipt
from services.mqtt.subscriptions import Delivery
from services.settings.schema import Broker
from tests.broker.mosquitto import Client, Mosquitto, free_port, wait_for
from tests.conftest import start_mosquitto
from tests.mqtt.connack_server import ConnackServer

Buses = Callable[..., MqttClient]


class Inbox:
    """A handler that keeps what comes."""

    def __init__(self, mqtt: MqttClient, *, ack: bool = True) -> None:
        self.mqtt, self.ack = mqtt, ack
        self.deliveries: list[Delivery] = []

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if self.ack:
            self.mqtt.ack(delivery)

    @property
    def payloads(self) -> list[bytes]:
        return [delivery.message.payload for delivery in self.deliveries]


def subscribed(mqtt: MqttClient, topic_filter: str, inbox: Inbox) -> Inbox:
    """Subscribe and wait until the broker has taken it."""
    mqtt.subscribe(topic_filter, inbox)
    topic = topic_filter.split("/", 2)[2] if topic_filter.startswith("$share/") else topic_filter
    topic = topic.replace("+", "x").replace("#", "x")
    wait_for(lambda: mqtt.publish_and_wait(Message(topic, b"hello"), 5).reached_someone, "the subscription")
    wait_for(lambda: inbox.deliveries, "the first message")
    inbox.deliveries.clear()
    return inbox


def test_a_message_arrives_with_everything_it_carries(broker: Broker, buses: Buses) -> None:
    mqtt = buses(broker, "a")
    inbox = subscribed(mqtt, f"{broker.root}/x", Inbox(mqtt))
    message = Message(
        f"{broker.root}/x", b"\0\xff", False, "text/plain", "reply/to", b"\0id", (("a", "1"), ("a", "2"), ("ü", "é"))
    )
    assert mqtt.publish_and_wait(message, 5) == Receipt(0, "Success")
    wait_for(lambda: inbox.deliveries, "the message")
    assert inbox.deliveries[0].message == message


def test_nobody_listening_is_told_from_someone_listening(broker: Broker, buses: Buses) -> None:
    mqtt = buses(broker, "a")
    receipt = mqtt.publish_and_wait(Message(f"{broker.root}/nobody"), 5)
    assert receipt.code == 16 and receipt.accepted and not receipt.reached_someone


def test_the_byte_order_mark_in_a_property_arrives(broker: Broker, buses: Buses) -> None:
    """MQTT allows U+FEFF; paho's own reader ends the connection, the broker delivers it again, for ever."""
    mqtt, sender = buses(broker, "a", durable=True), buses(broker, "b")
    inbox = subscribed(mqtt, f"$share/g/{broker.root}/x", Inbox(mqtt))
    generation = mqtt.generation
    message = Message(f"{broker.root}/x", b"0", properties=(("key", "a\ufeffb"),))
    sender.publish(message)
    sender.publish(Message(f"{broker.root}/x", b"1"))
    wait_for(lambda: len(inbox.payloads) == 2, "both messages")
    assert inbox.deliveries[0].message == message and inbox.payloads == [b"0", b"1"]
    assert mqtt.generation == generation, "the connection must not have been lost"


def test_a_message_that_cannot_be_read_is_acknowledged_and_passed_over(buses: Buses) -> None:
    """Unacknowledged it would come again, for ever. No Mosquitto lets one pass, so the broker is one of our own."""
    server = ConnackServer()
    try:
        mqtt = buses(Broker(port=server.port), "a")
        inbox = Inbox(mqtt)
        mqtt.subscribe("t", inbox)
        generation = mqtt.generation
        server.deliver(b"\0\1t\0\1\7\x26\0\1a\0\1\xff" + b"text that is not UTF-8")
        server.deliver(b"\0\1t\0\2\x05\x26" + b"cut short")
        server.deliver(b"\0\1t\x09", qos=0)
        server.deliver(b"\0\1t\0\3\0" + b"good")
        wait_for(lambda: server.acknowledged == [1, 2, 3], "the acks")
        assert inbox.payloads == [b"good"] and mqtt._client.unreadable == 3
        assert mqtt.generation == generation and server.connections == 1
    finally:
        server.close()


def test_an_exception_in_a_handler_leaves_the_bus_alive(broker: Broker, buses: Buses) -> None:
    mqtt = buses(broker, "a")
    seen: list[bytes] = []

    def handler(delivery: Delivery) -> None:
        seen.append(delivery.message.payload)
        mqtt.ack(delivery)
        raise RuntimeError("a defect")

    mqtt.subscribe(f"{broker.root}/x", handler)
    wait_for(lambda: mqtt.publish_and_wait(Message(f"{broker.root}/x", b"1"), 5).reached_someone, "subscription")
    mqtt.publish(Message(f"{broker.root}/x", b"2"), lambda receipt: 1 / 0)  # type: ignore[arg-type,return-value]
    mqtt.publish(Message(f"{broker.root}/x", b"3"))
    wait_for(lambda: b"3" in seen, "messages after the exception")
    assert mqtt.loop_age_s < 5


def test_unacked_messages_hold_back_more_than_receive_maximum(broker: Broker, buses: Buses) -> None:
    mqtt, sender = buses(broker, "a", receive_maximum=3), buses(broker, "b")
    inbox = subscribed(mqtt, f"{broker.root}/x", Inbox(mqtt))
    inbox.ack = False
    sent: list[Receipt] = []
    for i in range(10):
        sender.publish(Message(f"{broker.root}/x", str(i).encode()), sent.append)
    wait_for(lambda: len(sent) == 10, "every PUBACK of the broker")
    wait_for(lambda: len(inbox.deliveries) == 3, "as many as the maximum")
    answered = threading.Event()
    mqtt.sync(answered.set)
    assert answered.wait(20) and len(inbox.deliveries) == 3, "what the broker sent before its answer is here"
    mqtt.ack(inbox.deliveries[0])
    # Mosquitto 2.0.11 sends three here, not one: whoever takes messages must have room for more than the maximum.
    wait_for(lambda: len(inbox.deliveries) > 3, "more for an ack")


def test_subscriptions_and_acks_survive_a_broker_restart(
    own_mosquitto: Mosquitto, settings_for: Callable[..., Broker], buses: Buses
) -> None:
    broker = settings_for(own_mosquitto)
    mqtt, sender = buses(broker, "a", durable=True), buses(broker, "b")
    inbox = subscribed(mqtt, f"$share/g/{broker.root}/x", Inbox(mqtt, ack=False))
    inbox.deliveries.clear()
    sender.publish(Message(f"{broker.root}/x", b"old"))
    wait_for(lambda: inbox.deliveries, "the message before")
    old = inbox.deliveries[0]
    own_mosquitto.kill()
    wait_for(lambda: not mqtt.connected and not sender.connected, "the loss of the connection")
    receipts: list[Receipt] = []
    sender.publish(Message(f"{broker.root}/x", b"queued"), receipts.append)
    own_mosquitto.start()
    wait_for(lambda: mqtt.connected and sender.connected, "new connections")
    wait_for(lambda: receipts, "the PUBACK of what was queued")
    if not receipts[0].reached_someone:  # the sender may have been back before the reader
        wait_for(lambda: sender.publish_and_wait(Message(f"{broker.root}/x", b"queued"), 5).reached_someone, "a reader")
    wait_for(lambda: b"queued" in inbox.payloads[1:], "the message after the restart")
    assert not mqtt.is_current(old), "its mid belongs to another connection now"
    new = inbox.deliveries[-1]
    mqtt.ack(old)
    assert mqtt.is_current(new)


def test_a_filter_left_during_an_outage_is_left_on_the_broker_too(
    tmp_path: Path, settings_for: Callable[..., Broker], buses: Buses
) -> None:
    mosquitto = start_mosquitto(tmp_path)
    proxy_free = settings_for(mosquitto)
    mqtt, sender = buses(proxy_free, "a", durable=True), buses(proxy_free, "b")
    topic = f"{proxy_free.root}/x"
    subscribed(mqtt, topic, Inbox(mqtt))
    # Cut the connection under paho: the broker keeps the durable session and its subscription.
    mqtt._client._sock_close()
    mqtt.unsubscribe(topic)
    wait_for(lambda: sender.publish_and_wait(Message(topic, b"?"), 5).code == 16, "nobody is subscribed any more")
    mosquitto.stop()


def test_a_refused_publish_is_told_from_an_accepted_one(tmp_path: Path, buses: Buses) -> None:
    port = free_port()
    acl = tmp_path / "acl"
    acl.write_text("topic read #\ntopic write ok/#\n")
    acl.chmod(0o600)
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nacl_file {acl}\nuser root\n")
    mosquitto = Mosquitto(config, port)
    mqtt = buses(Broker(port=port, root="ok"), "a")
    try:
        assert mqtt.publish_and_wait(Message("ok/x"), 5).accepted
        refused = mqtt.publish_and_wait(Message("denied/x"), 5)
        assert refused.code == 135 and not refused.accepted
    finally:
        mqtt.stop()
        mosquitto.stop()


def test_a_message_over_the_brokers_limit_is_refused_here_and_the_connection_stays(
    tmp_path: Path, buses: Buses
) -> None:
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_packet_size 100000\n")
    mosquitto = Mosquitto(config, port)
    mqtt = buses(Broker(port=port, root="r"), "a")
    try:
        generation = mqtt.generation
        receipt = mqtt.publish_and_wait(Message("r/x", b"x" * 200_000), 5)
        assert receipt.code == 149 and "100000" in receipt.text
        assert mqtt.publish_and_wait(Message("r/x", b"x" * 1000), 5).accepted
        assert mqtt.generation == generation
    finally:
        mqtt.stop()
        mosquitto.stop()


def test_a_second_process_with_the_same_client_id_ends_the_first_with_a_reason(broker: Broker, buses: Buses) -> None:
    first = buses(broker, "slot")
    second = buses(broker, "slot")
    # Mosquitto 2.0.11 ends the first without a word, and each takes the session back: a fight that must be noticed.
    said = wait_for(lambda: first.fatal or second.fatal, "the takeover")
    assert "--instance" in str(said) and "broker.root" in str(said)


def test_no_broker_is_an_error_that_names_it() -> None:
    mqtt = MqttClient(Broker(port=free_port()), "a")
    mqtt.start()
    try:
        with pytest.raises(
            GenreError, match=r"MQTT broker 127\.0\.0\.1:\d+: refused: nobody listens there \(tried for 0\.3 s\)"
        ):
            mqtt.wait_connected(0.3)
    finally:
        mqtt.stop()


def test_a_wrong_password_names_the_setting(tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous false\n")
    mosquitto = Mosquitto(config, port)
    mqtt = MqttClient(Broker(port=port), "a")
    mqtt.start()
    try:
        with pytest.raises(GenreError, match="Not authorized"):
            mqtt.wait_connected(1)
    finally:
        mqtt.stop()
        mosquitto.stop()


def test_stop_ends_in_bounded_time_although_the_broker_stands_still(
    own_mosquitto: Mosquitto, settings_for: Callable[..., Broker], buses: Buses
) -> None:
    mqtt = buses(settings_for(own_mosquitto), "a", durable=True)
    own_mosquitto.process.send_signal(19)
    stopped = threading.Thread(target=mqtt.stop)
    stopped.start()
    stopped.join(5)
    own_mosquitto.process.send_signal(18)
    assert not stopped.is_alive()


def test_receipts_of_many_messages_at_once_are_all_told_once(broker: Broker, buses: Buses) -> None:
    mqtt = buses(broker, "a")
    receipts: list[int] = []
    for _ in range(3000):
        mqtt.publish(Message(f"{broker.root}/x"), lambda receipt: receipts.append(receipt.code))
    wait_for(lambda: len(receipts) == 3000, "every PUBACK")
    assert set(receipts) == {16} and not len(mqtt._receipts)


def test_a_retained_will_says_offline_when_the_process_dies(broker: Broker, buses: Buses) -> None:
    topic = f"{broker.root}/status"
    dying = buses(broker, "dying", will=Message(topic, b"offline", retain=True))
    watcher = Client(f"{broker.root}-watch")
    watcher.connect(broker.port)
    watcher.subscribe(topic)
    dying._client._sock_close()  # no DISCONNECT: as after kill -9
    wait_for(lambda: watcher.received, "the will")
    assert watcher.received[0].payload == b"offline"
    watcher.close()


def test_a_stopped_member_holds_its_share_no_longer_than_keep_alive_and_session_expiry_say(
    shared_mosquitto: Mosquitto, settings_for: Callable[..., Broker], buses: Buses
) -> None:
    """SIGSTOP, not death: nothing closes its connection. 1.5 keep-alives until the broker does, then the expiry."""
    broker = settings_for(shared_mosquitto, keepalive_s=2, session_expiry_s=1)
    bound_s = 1.5 * 2 + 1
    topic, group = f"{broker.root}/x", f"$share/g/{broker.root}/x"
    program = f"""
import time
from services.mqtt.client import MqttClient
from services.settings.schema import Broker
broker = Broker.model_validate({broker.model_dump()!r})
bus = MqttClient(broker, "stopped-{broker.root}", durable=True, receive_maximum=4)
bus.subscribe({group!r}, bus.ack)
bus.start()
bus.wait_connected(10)
time.sleep(60)
"""
    member = subprocess.Popen([sys.executable, "-c", program])
    try:
        sender, other = buses(broker, "sender"), buses(broker, "other")
        reached = Message(topic, b"?")
        wait_for(lambda: sender.publish_and_wait(reached, 5).reached_someone, "the member to be stopped", 30)
        inbox = Inbox(other)
        other.subscribe(group, inbox)
        wait_for(lambda: sender.publish_and_wait(reached, 5).accepted and inbox.deliveries, "its share of the group")
        member.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()

        def all_to_the_other() -> bool:
            inbox.deliveries.clear()
            receipts = [sender.publish_and_wait(Message(topic, str(i).encode()), 5) for i in range(6)]
            sender.publish_and_wait(Message(f"{broker.root}/order", b""), 5)
            return all(receipt.reached_someone for receipt in receipts) and len(inbox.deliveries) == 6

        wait_for(all_to_the_other, "the other one gets everything", 30)
        # Mosquitto looks for silent clients every 5 s, and for expired sessions likewise.
        assert time.monotonic() - stopped < bound_s + 2 * 5 + 10, "and what a busy machine adds"
    finally:
        member.kill()
        member.wait(10)
