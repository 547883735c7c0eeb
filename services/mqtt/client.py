"""The MQTT 5 client of every service: one connection, kept up, and why there is none where there is none.

It keeps what paho leaves to its user: every PUBACK reason code (receipts.py), subscriptions renewed on every connect
(subscriptions.py), acks bound to the connection they belong to, callbacks that can't end the network thread. No other
room imports paho. Not here: what messages mean (services/contract/) and what to do with them (`worker.py`, the
fetcher's `sender.py`). Start at `MqttClient`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from services.contract.messages import Message
from services.errors import GenreError
from services.mqtt import broker_limits, connect_errors, tls
from services.mqtt.broker_limits import PACKET_OVERHEAD_BYTES, Limits
from services.mqtt.paho_client import PahoClient
from services.mqtt.publish_packet import Packed
from services.mqtt.receipts import OnReceipt, Receipt, Receipts, log_refusal
from services.mqtt.subscriptions import Delivery, Handler, Subscriptions
from services.settings import credentials
from services.settings.schema import Broker

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
RECONNECT_MIN_S, RECONNECT_MAX_S = 0.25, 4.0
STOP_S = 2.0
JUDGEMENT_S = 2.0
"""How long a broker that ended a connection over TLS without a word is asked again for its alert."""
TELL_AGAIN_S = 600.0
"""A reason that lasts is logged again this often: so that a log which is read in the morning says it."""
DISCONNECT_WITH_WILL, KEEP_ALIVE_TIMEOUT = 4, 141
BRIEF_S, MOST_BRIEF = 2.0, 8
"""So many connections in a row, each this short, mean that two processes take one session from each other."""
MAX_QUEUED = 20_000
"""Callers bound what they publish (credits, Receive Maximum); this only stops a bug from eating the memory."""


class MqttClient:
    """One connection to the broker, kept up until `stop`.

    Args:
        broker: where it is and how to log in.
        client_id: stable for a worker slot, so that its session survives a restart.
        durable: keep the session (and what is queued in it) for broker.session_expiry_s.
        receive_maximum: MQTT 5 Receive Maximum, messages in this client's hand at once. Mosquitto 2.0.11 keeps to it
            only until the first ack: then it may send as many again for each one (measured).
        will: what the broker publishes if this client dies.
        least_payload_bytes: a broker that takes no payload of this size is refused.
        on_connected: called from the network thread after each connect, once subscriptions are on their way.
        on_problem: called from the network thread with why there is no connection: each new reason, and one that lasts
            every ten minutes; by default it is logged.
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
        on_problem: Callable[[GenreError], object] | None = None,
        least_payload_bytes: int = 0,
    ) -> None:
        self.broker, self.client_id = broker, client_id
        self.limits = Limits()
        self.fatal: GenreError | None = None
        """Set when trying again cannot help: another process uses this client id, no shared subscriptions."""
        self._durable, self._receive_maximum, self._least_payload_bytes = durable, receive_maximum, least_payload_bytes
        self._on_connected, self._on_problem = on_connected, on_problem or _log_problem
        self._lock = threading.Lock()
        self._connected = threading.Event()
        self._generation = 0
        self._receipts = Receipts()
        self._syncing: dict[int, Callable[[], object]] = {}
        self._problem: GenreError | None = None
        self._told_at = 0.0
        self._was_refused = False
        self._connected_at, self._brief = 0.0, 0
        self._client = self._new_client(will)
        self._subscriptions = Subscriptions(self._client)

    def _new_client(self, will: Message | None) -> PahoClient:
        client = PahoClient(
            CallbackAPIVersion.VERSION2,
            self.client_id,
            protocol=mqtt.MQTTv5,
            transport=self.broker.transport,
            manual_ack=True,
        )
        client.suppress_exceptions = True
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_queued_messages_set(MAX_QUEUED)
        client.reconnect_delay_set(RECONNECT_MIN_S * random.uniform(1, 2), RECONNECT_MAX_S * random.uniform(0.75, 1))  # type: ignore[arg-type]  # seconds, floats work
        client.on_connect = self._connect
        client.on_connect_fail = self._connect_failed
        client.on_disconnect = self._disconnect
        client.received = self._message
        client.on_publish = self._puback
        client.on_subscribe = self._suback
        client.on_unsubscribe = self._unsuback
        if self.broker.username is not None:
            password = credentials.password(self.broker.password_file, "broker.password_file")
            client.username_pw_set(self.broker.username, password)
        if self.broker.uses_tls:
            client.tls_set_context(tls.context(self.broker))
        if self.broker.transport == "websockets":
            client.ws_set_options(self.broker.websockets_path)
        self._will = will
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        return client

    # --- life ------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """host:port, for messages to a person."""
        return connect_errors.name_of(self.broker).removeprefix("MQTT broker ")

    @property
    def problem(self) -> GenreError | None:
        """Why there is no connection now, as far as it is known; None while there is one."""
        return self.fatal or (None if self.connected else self._problem)

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
                problem = self._problem or connect_errors.of_socket(self.broker, TimeoutError())
                raise GenreError(problem.thing, f"{problem.reason} (tried for {timeout_s:g} s)", problem.remedy)
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

    def stop(self, *, with_will: bool = False) -> None:
        """Disconnect, tell the broker to drop the session at once, and end the thread.

        Args:
            with_will: let the broker publish the will, as after a death.
        """
        properties = Properties(PacketTypes.DISCONNECT)
        if self._durable:
            properties.SessionExpiryInterval = 0
        reason = ReasonCode(PacketTypes.DISCONNECT, identifier=DISCONNECT_WITH_WILL if with_will else 0)
        self._client.disconnect(reason, properties)
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
        on_receipt = on_receipt or log_refusal
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
        self._receipts.expect(info.mid, on_receipt)

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
        waiting = self._receipts.arrived(mid, receipt)
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

    def subscribe(self, topic_filter: str, handler: Handler, qos: int = 1) -> None:
        """Subscribe, now and after every connect. Handlers run in the network thread: hand over, return.

        Messages of QoS 0 do not count against the Receive Maximum, so they also come while it is used up.
        """
        self._subscriptions.add(topic_filter, handler, qos)

    def unsubscribe(self, topic_filter: str) -> None:
        """Take no more messages of a filter; what the broker already holds for this session still comes."""
        self._subscriptions.remove(topic_filter)

    def is_current(self, delivery: Delivery) -> bool:
        """Whether the connection that brought a delivery is still the one in use."""
        with self._lock:
            return delivery.generation == self._generation

    def ack(self, delivery: Delivery) -> None:
        """Send the PUBACK of a delivery, unless its connection is gone: mids start again on a new one."""
        if delivery.qos > 0 and self.is_current(delivery):
            self._client.ack(delivery.mid, delivery.qos)

    def _suback(
        self, client: mqtt.Client, userdata: Any, mid: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        for topic_filter, reason in self._subscriptions.refused(mid, reasons):
            log.error(
                "broker %s: subscription to %s refused: %s; give this user the right to read it",
                self.name,
                topic_filter,
                reason,
            )
            self.fatal = self.fatal or broker_limits.final(self.name, reason.value)

    def _message(self, message: Message, mid: int, qos: int, duplicate: bool) -> None:
        delivery = Delivery(message, mid, self._generation, duplicate, qos)
        handlers = self._subscriptions.handlers_of(message.topic)
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
        if before.retain and not self.limits.retain:
            log.warning(
                "broker %s keeps no retained messages: who reads later sees status only as it changes", self.name
            )
        with self._lock:
            self._generation += 1
        refusal = self.limits.refusal(self.name, self._subscriptions.filters, self._least_payload_bytes)
        self.fatal = self.fatal or refusal
        self._subscriptions.renew()
        self._connected_at = time.monotonic()
        self._connected.set()
        self._problem, self._told_at = None, 0.0
        log.info("connected to broker %s as %s", self.name, self.client_id)
        if self._on_connected is not None:
            # After SUBSCRIBE, so that whoever reads the status may rely on it; before keep_to, which sends what waits.
            self._guarded(lambda _: self._on_connected and self._on_connected(), None)
        for mid in self._client.keep_to(self.limits):
            self._answered(mid, Receipt(149, f"the broker takes {self.limits.maximum_packet_bytes} bytes at most now"))

    def _connect_failed(self, client: mqtt.Client, userdata: Any) -> None:
        """Say why no connection came about (network thread)."""
        self._tell(connect_errors.of_socket(self.broker, self._client.last_error, connecting=True))

    def _tell(self, problem: GenreError) -> None:
        """Say why there is no connection: once for each reason, and again now and then while it lasts."""
        now, same = time.monotonic(), str(problem) == str(self._problem)
        self._problem = problem
        if not same or now - self._told_at > TELL_AGAIN_S:
            self._told_at = now
            self._guarded(self._on_problem, problem)

    def _refused(self, reason: ReasonCode) -> None:
        """Note why the broker refuses this client, and whether trying again can help."""
        self._was_refused = True
        self.fatal = self.fatal or broker_limits.final(self.name, reason.value)
        if reason.value == broker_limits.RETAIN_NOT_SUPPORTED and self._will is not None:
            # It says so before it could say RetainAvailable 0: the will is what it can't keep.
            self._client.will_set(self._will.topic, self._will.payload, qos=1, retain=False)
            return
        self._tell(self.fatal or connect_errors.of_connack(self.broker, reason.value, str(reason)))

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
        self._subscriptions.lost()
        was_connected = self._connected.is_set()
        self._connected.clear()
        if was_connected:
            self._problem = GenreError(f"MQTT broker {self.name}", f"the connection was lost ({reason})", "see its log")
            self._brief = self._brief + 1 if time.monotonic() - self._connected_at < BRIEF_S else 0
        elif not self._was_refused and reason.value != 0:
            error = self._client.last_error or (TimeoutError() if reason.value == KEEP_ALIVE_TIMEOUT else None)
            if self.broker.uses_tls and (error is None or isinstance(error, ConnectionError)):
                error = tls.judgement(self.broker, JUDGEMENT_S) or error
            self._tell(connect_errors.of_socket(self.broker, error))
        self._was_refused = False
        # Mosquitto 2.0.11 gives no reason (142) to a client whose session another took: the two would fight for ever.
        if reason.value == 142 or self._brief >= MOST_BRIEF:
            self.fatal = GenreError(
                f"MQTT client id {self.client_id}",
                "another process took this session over"
                if reason.value == 142
                else f"{MOST_BRIEF} connections in a row ended at once; another process may be using it",
                "give each replica its own --instance and each box on this broker its own broker.root",
            )
        if was_connected and reason.value != 0:
            log.warning("connection to broker %s lost (%s); trying again", self.name, reason)

    def _guarded(self, call: Callable[[Any], object], argument: object) -> None:
        """Call back; an exception is a bug to be logged, never the end of the network thread."""
        try:
            call(argument)
        except Exception:
            log.exception("a callback of the bus failed")


def _log_problem(problem: GenreError) -> None:
    log.error("no connection to %s; trying again", problem)
