"""The MQTT 5 client of every service: with paho_client.py the only module that imports paho.

It keeps what paho leaves to its user: every PUBACK reason code, acks bound to the connection they belong to,
subscriptions renewed on every connect, callbacks that can't end the network thread. Not here: what messages mean
(`contract.py`) and what to do with them (`worker.py`, the fetcher's `courier.py`). Start at `Bus`.
"""

from __future__ import annotations

import itertools
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from services import broker_limits, credentials
from services.broker_limits import PACKET_OVERHEAD_BYTES, Limits
from services.contract import Message
from services.errors import GenreError
from services.paho_client import PahoClient
from services.publish_packet import Packed
from services.settings import Broker

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
RECONNECT_MIN_S, RECONNECT_MAX_S = 0.25, 4.0
STOP_S = 2.0
BRIEF_S, MOST_BRIEF = 2.0, 8
"""So many connections in a row, each this short, mean that two processes take one session from each other."""
MAX_QUEUED = 20_000
"""Callers bound what they publish (credits, Receive Maximum); this only stops a bug from eating the memory."""


@dataclass(frozen=True)
class Receipt:
    """What the broker said to a PUBLISH.

    Attributes:
        code: MQTT 5 reason code of the PUBACK; 0 success, 16 no matching subscribers, 128 and above refused;
            -1 where the message was never queued.
    """

    code: int
    text: str

    @property
    def accepted(self) -> bool:
        """The broker took it, whether or not anyone listens."""
        return 0 <= self.code < 128

    @property
    def reached_someone(self) -> bool:
        """The broker took it and at least one session is to get it."""
        return self.code == 0


@dataclass(frozen=True)
class Delivery:
    """A message that came in, and what its ack needs."""

    message: Message
    mid: int
    generation: int
    duplicate: bool
    qos: int


Handler = Callable[[Delivery], None]
OnReceipt = Callable[[Receipt], None]


class Bus:
    """One connection to the broker, kept up until `stop`.

    Args:
        broker: where it is and how to log in.
        client_id: stable for a worker slot, so that its session survives a restart.
        durable: keep the session (and what is queued in it) for broker.session_expiry_s.
        receive_maximum: MQTT 5 Receive Maximum, messages in this client's hand at once. Mosquitto 2.0.11 keeps to it
            only until the first ack: then it may send as many again for each one (measured).
        will: what the broker publishes if this client dies.
        least_payload_bytes: a broker that takes no payload of this size is refused.
        on_connected: called from the network thread after each connect, before subscriptions are renewed.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        *,
        durable: bool = False,
        receive_maximum: int = 64,
        will: Message | None = None,
        on_connected: Callable[[], None] | None = None,
        least_payload_bytes: int = 0,
    ) -> None:
        self.broker, self.client_id = broker, client_id
        self.limits = Limits()
        self.fatal: GenreError | None = None
        """Set when trying again cannot help: another process uses this client id, no shared subscriptions."""
        self._durable, self._receive_maximum, self._least_payload_bytes = durable, receive_maximum, least_payload_bytes
        self._on_connected = on_connected
        self._lock = threading.Lock()
        self._connected = threading.Event()
        self._generation = 0
        self._subscriptions: dict[str, Handler] = {}
        self._leaving: dict[str, Handler] = {}
        self._subscribing: dict[int, list[str]] = {}
        self._waiting: dict[int, OnReceipt] = {}
        self._syncing: dict[int, Callable[[], object]] = {}
        self._early: dict[int, Receipt] = {}
        self._last_problem = "no answer yet"
        self._connected_at, self._brief = 0.0, 0
        self._client = self._new_client(will)

    def _new_client(self, will: Message | None) -> PahoClient:
        client = PahoClient(CallbackAPIVersion.VERSION2, self.client_id, protocol=mqtt.MQTTv5, manual_ack=True)
        client.suppress_exceptions = True
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_queued_messages_set(MAX_QUEUED)
        client.reconnect_delay_set(RECONNECT_MIN_S * random.uniform(1, 2), RECONNECT_MAX_S * random.uniform(0.75, 1))  # type: ignore[arg-type]  # seconds, floats work
        client.on_connect = self._connect
        client.on_disconnect = self._disconnect
        client.received = self._message
        client.on_publish = self._puback
        client.on_subscribe = self._suback
        client.on_unsubscribe = self._unsuback
        if self.broker.username is not None:
            client.username_pw_set(self.broker.username, credentials.password(self.broker.password_file))
        if self.broker.tls or self.broker.ca_file is not None:
            ca_file = str(self.broker.ca_file) if self.broker.ca_file is not None else None
            try:
                client.tls_set(ca_certs=ca_file, tls_version=ssl.PROTOCOL_TLS_CLIENT)
            except OSError as error:
                raise GenreError(
                    str(self.broker.ca_file), f"can't be used as CA certificate ({error})", "check broker.ca_file"
                ) from error
        self._will = will
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        return client

    # --- life ------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """host:port, for messages to a person."""
        return f"{self.broker.host}:{self.broker.port}"

    def start(self) -> None:
        """Begin to connect, in a thread of its own; it keeps trying until `stop`."""
        properties = Properties(PacketTypes.CONNECT)
        properties.ReceiveMaximum = self._receive_maximum
        if self._durable:
            properties.SessionExpiryInterval = self.broker.session_expiry_s
        self._client.connect_async(
            self.broker.host,
            self.broker.port,
            keepalive=self.broker.keepalive_s,
            clean_start=not self._durable,
            properties=properties,
        )
        self._client.last_loop = time.monotonic()
        self._client.loop_start()

    def wait_connected(self, timeout_s: float) -> None:
        """Wait for the first connection.

        Raises:
            GenreError: naming the broker and why it did not come.
        """
        deadline = time.monotonic() + timeout_s
        while not self._connected.wait(0.05):
            if self.fatal is not None:
                raise self.fatal
            if time.monotonic() > deadline:
                raise GenreError(
                    f"MQTT broker {self.name}",
                    f"no connection within {timeout_s:g} s ({self._last_problem})",
                    "start Mosquitto or mend [broker] in the configuration; 'genre doctor' looks closer",
                )
        if self.fatal is not None:
            raise self.fatal

    @property
    def connected(self) -> bool:
        """Whether the session is up right now."""
        return self._connected.is_set()

    @property
    def loop_age_s(self) -> float:
        """Seconds since the network loop last turned; large means that it hangs."""
        return time.monotonic() - self._client.last_loop

    @property
    def generation(self) -> int:
        """Number that changes with every connection made or lost."""
        with self._lock:
            return self._generation

    def stop(self) -> None:
        """Disconnect, tell the broker to drop the session at once, and end the thread."""
        properties = Properties(PacketTypes.DISCONNECT)
        if self._durable:
            properties.SessionExpiryInterval = 0
        self._client.disconnect(properties=properties)
        # A broker that stands still takes no DISCONNECT; paho's thread is a daemon, so waiting longer gains nothing.
        ender = threading.Thread(target=self._client.loop_stop, daemon=True)
        ender.start()
        ender.join(STOP_S)
        self._connected.clear()

    # --- out -------------------------------------------------------------------------------------------------------

    def publish(self, message: Message, on_receipt: OnReceipt | None = None) -> None:
        """Queue a PUBLISH of QoS 1; on_receipt gets the PUBACK's reason code, from the network thread.

        It is sent again after a reconnect until its PUBACK arrives. Callers bound how many they have under way.
        """
        on_receipt = on_receipt or _ignore
        most = self.limits.maximum_packet_bytes
        if most is not None and len(message.payload) + PACKET_OVERHEAD_BYTES > most:
            # Sent, it would make the broker end the connection, and paho send it again after each reconnect.
            on_receipt(Receipt(149, f"{len(message.payload)} bytes are more than the broker's limit of {most}"))
            return
        retain = message.retain and self.limits.retain  # where there is none, a broker ends the connection for it
        properties: Any = Packed(message)
        info = self._client.publish(message.topic, message.payload, 1, retain, properties)
        if info.rc not in (mqtt.MQTT_ERR_SUCCESS, mqtt.MQTT_ERR_NO_CONN):
            on_receipt(Receipt(-1, mqtt.error_string(info.rc)))
            return
        with self._lock:
            receipt = self._early.pop(info.mid, None)
            if receipt is None:
                self._waiting[info.mid] = on_receipt
        if receipt is not None:
            on_receipt(receipt)

    def publish_and_wait(self, message: Message, timeout_s: float) -> Receipt:
        """Publish and wait for the PUBACK; a Receipt with code -1 where none came in time."""
        done = threading.Event()
        receipts: list[Receipt] = []

        def arrived(receipt: Receipt) -> None:
            receipts.append(receipt)
            done.set()

        self.publish(message, arrived)
        done.wait(timeout_s)
        return receipts[0] if receipts else Receipt(-1, f"no PUBACK within {timeout_s:g} s")

    def _puback(
        self, client: mqtt.Client, userdata: Any, mid: int, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._answered(mid, Receipt(reason.value, str(reason)))

    def _answered(self, mid: int, receipt: Receipt) -> None:
        """Pass a receipt to whoever waits for it, or keep it for who is about to."""
        # paho holds a lock of its own here that publish() takes too: never hold self._lock around publish().
        with self._lock:
            waiting = self._waiting.pop(mid, None)
            if waiting is None:
                self._early[mid] = receipt
        if waiting is not None:
            self._guarded(waiting, receipt)

    def sync(self, on_synced: Callable[[], object]) -> None:
        """Ask the broker for an answer to nothing; on_synced is called from the network thread if it comes.

        It proves that the broker that took everything before is still the same process, on the same connection. An
        UNSUBSCRIBE of what nobody subscribed to needs no right and reaches nobody. It is dropped with the connection.
        """
        with self._lock:  # the UNSUBACK waits for this lock, so it can't come before the callback is noted
            _, mid = self._client.unsubscribe(f"{self.broker.root}/nothing")
            if mid is not None:
                self._syncing[mid] = on_synced

    def _unsuback(
        self, client: mqtt.Client, userdata: Any, mid: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        with self._lock:
            on_synced = self._syncing.pop(mid, None)
        if on_synced is not None:
            self._guarded(lambda _: on_synced(), None)

    # --- in --------------------------------------------------------------------------------------------------------

    def subscribe(self, topic_filter: str, handler: Handler) -> None:
        """Subscribe with QoS 1, now and after every connect. Handlers run in the network thread: hand over, return.

        A durable `$share` subscription is gone after a broker restart although session_present is true, hence on
        every connect.
        """
        with self._lock:
            self._subscriptions[topic_filter] = handler
        if self.connected:
            self._send_subscribe([topic_filter])

    def unsubscribe(self, topic_filter: str) -> None:
        """Take no more messages of a filter; what the broker already holds for this session still comes."""
        with self._lock:
            handler = self._subscriptions.pop(topic_filter, None)
            if handler is not None:
                self._leaving[topic_filter] = handler
        self._client.unsubscribe(topic_filter)

    def is_current(self, delivery: Delivery) -> bool:
        """Whether the connection that brought a delivery is still the one in use."""
        with self._lock:
            return delivery.generation == self._generation

    def ack(self, delivery: Delivery) -> None:
        """Send the PUBACK of a delivery, unless its connection is gone: mids start again on a new one."""
        if delivery.qos > 0 and self.is_current(delivery):
            self._client.ack(delivery.mid, delivery.qos)

    def _send_subscribe(self, filters: list[str]) -> None:
        options = SubscribeOptions(qos=1, noLocal=False)
        with self._lock:  # the SUBACK waits for this lock, so it can't come before its filters are noted
            _, mid = self._client.subscribe([(topic_filter, options) for topic_filter in filters])
            if mid is not None:
                self._subscribing[mid] = filters

    def _suback(
        self, client: mqtt.Client, userdata: Any, mid: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        with self._lock:
            filters = self._subscribing.pop(mid, [])
        for topic_filter, reason in zip(filters, reasons, strict=False):
            if reason.is_failure:
                self._last_problem = f"subscription to {topic_filter} refused: {reason}"
                log.error("broker %s: %s; give this user the right to read it", self.name, self._last_problem)
                self.fatal = self.fatal or broker_limits.final(self.name, reason.value)

    def _message(self, message: Message, mid: int, qos: int, duplicate: bool) -> None:
        delivery = Delivery(message, mid, self._generation, duplicate, qos)
        with self._lock:
            handlers = [
                handler
                for topic_filter, handler in (self._subscriptions | self._leaving).items()
                if mqtt.topic_matches_sub(_plain(topic_filter), message.topic)
            ]
        if not handlers:
            self.ack(delivery)
        for handler in handlers:
            self._guarded(handler, delivery)

    # --- connection ------------------------------------------------------------------------------------------------

    def _connect(
        self,
        client: mqtt.Client,
        userdata: Any,
        flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._refused(reason)
            return
        before, self.limits = self.limits, Limits.of(properties)
        for mid in self._client.keep_to(self.limits):
            self._answered(mid, Receipt(149, f"the broker takes {self.limits.maximum_packet_bytes} bytes at most now"))
        if before.retain and not self.limits.retain:
            log.warning(
                "broker %s keeps no retained messages: who reads later sees status only as it changes", self.name
            )
        with self._lock:
            self._generation += 1
            filters = list(self._subscriptions)
            left = [topic_filter for topic_filter in self._leaving if topic_filter not in self._subscriptions]
        self.fatal = self.fatal or self.limits.refusal(self.name, filters, self._least_payload_bytes)
        if filters:
            self._send_subscribe(filters)
        if left:  # said while there was no connection: a durable session is still a member
            self._client.unsubscribe(left)
        self._connected_at = time.monotonic()
        self._connected.set()
        log.info("connected to broker %s as %s", self.name, self.client_id)
        if self._on_connected is not None:
            self._guarded(lambda _: self._on_connected and self._on_connected(), None)

    def _refused(self, reason: ReasonCode) -> None:
        """Note why the broker refuses this client, and whether trying again can help."""
        self.fatal = self.fatal or broker_limits.final(self.name, reason.value)
        if reason.value == broker_limits.RETAIN_NOT_SUPPORTED and self._will is not None:
            # It says so before it could say RetainAvailable 0: the will is what it can't keep.
            self._client.will_set(self._will.topic, self._will.payload, qos=1, retain=False)
        elif self._last_problem != str(reason):
            log.error("broker %s refuses this client: %s; check broker.username and its password", self.name, reason)
        self._last_problem = str(reason)

    def _disconnect(
        self,
        client: mqtt.Client,
        userdata: Any,
        flags: mqtt.DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        with self._lock:
            self._generation += 1
            self._syncing.clear()
        was_connected = self._connected.is_set()
        self._connected.clear()
        if was_connected:
            self._last_problem = str(reason)
            self._brief = self._brief + 1 if time.monotonic() - self._connected_at < BRIEF_S else 0
        # Mosquitto 2.0.11 gives no reason (142) to a client whose session another took: the two would fight for ever.
        if reason.value == 142 or self._brief >= MOST_BRIEF:
            self.fatal = GenreError(
                f"MQTT client id {self.client_id}",
                "another process took this session over"
                if reason.value == 142
                else f"{MOST_BRIEF} connections in a row ended at once; another process may be using it",
                "give each replica its own --instance; the broker's log tells more",
            )
        if was_connected and reason.value != 0:
            log.warning("connection to broker %s lost (%s); trying again", self.name, reason)

    def _guarded(self, call: Callable[[Any], object], argument: object) -> None:
        """Call back; an exception is a bug to be logged, never the end of the network thread."""
        try:
            call(argument)
        except Exception:
            log.exception("a callback of the bus failed")


def _plain(topic_filter: str) -> str:
    """Return the filter of real topics inside a shared subscription."""
    return topic_filter.split("/", 2)[2] if topic_filter.startswith("$share/") else topic_filter


_refused = itertools.count(1)


def _ignore(receipt: Receipt) -> None:
    """Say that a message nobody asks after was refused: the 1st, 10th, 100th ... time, for an outage brings many."""
    if not receipt.accepted:
        count = next(_refused)
        if str(count).strip("0") == "1":
            log.error("%d messages were refused or found no room to wait, the last one: %s", count, receipt.text)
