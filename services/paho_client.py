"""paho's MQTT client with what services/bus.py can't do from outside: it overrides the steps named here and no others.

Where paho ends its loop or its connection over one message, passes over the broker's limits, or copies 300 kB without
need. Start at `PahoClient`.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import MessageState, MQTTErrorCode

from services.broker_limits import PACKET_OVERHEAD_BYTES, Limits

log = logging.getLogger(__name__)

MOST_INFLIGHT = 20
"""QoS 1 messages under way to the broker at once, where its Receive Maximum allows as many; paho's own default."""
RECEIVED_AT_ONCE = 32_768
"""Bytes: a message of 300 kB takes 1.3 CPU-ms to receive in such pieces, 1.6 in pieces as large as they come."""


class PahoClient(mqtt.Client):
    """paho's client, with a sign of life from inside its network loop, and no message that can end that loop."""

    last_loop: float = 0.0
    unreadable: int = 0
    _payload: bytes = b""

    def _handle_publish(self) -> MQTTErrorCode:
        """Read a PUBLISH; one that paho can't read is acknowledged and passed over.

        paho refuses text that Mosquitto lets through (U+FEFF in a user property) by ending the connection, or dies of
        it. The broker then delivers the same message again, for ever: one message would silence a service.

        The payload is put aside first: paho copies all that is left of a packet several times for each property, and
        a tensor has 300 kB behind twenty of them.
        """
        packet = self._in_packet["packet"]
        end = payload_begins(packet, bool(self._in_packet["command"] & 0x06))
        self._payload, self._in_packet["packet"] = bytes(memoryview(packet)[end:]), packet[:end]
        try:
            return super()._handle_publish()
        except Exception as error:
            self.unreadable += 1
            log.warning("a message that can't be read is passed over: %s", error)
            qos = (self._in_packet["command"] & 0x06) >> 1
            if qos == 1:
                after_topic = 2 + int.from_bytes(packet[:2], "big")
                return self.ack(int.from_bytes(packet[after_topic : after_topic + 2], "big"), qos)
            return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _sock_recv(self, bufsize: int) -> bytes:
        """Receive a piece: paho asks for all that is left of a packet, and gets room for it, whatever comes."""
        return super()._sock_recv(min(bufsize, RECEIVED_AT_ONCE))

    def _handle_on_message(self, message: mqtt.MQTTMessage) -> None:
        """Give a message its payload back."""
        message.payload, self._payload = self._payload, b""
        super()._handle_on_message(message)

    def _handle_connack(self) -> MQTTErrorCode:
        """Read a CONNACK; nobody else may publish before its limits are known and what was kept is sent again."""
        with self._out_message_mutex:
            return super()._handle_connack()

    def _send_publish(self, *args: Any, **named: Any) -> MQTTErrorCode:
        """Send a PUBLISH, but none ahead of the CONNACK: it would not know the limits; paho keeps it until then."""
        if not self.is_connected():
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        return super()._send_publish(*args, **named)

    def keep_to(self, limits: Limits) -> list[int]:
        """Send no more and no larger messages than the broker takes; call it before paho sends again what it kept.

        paho does not look at the broker's limits, and after a connect it sends all it holds: a broker that keeps to the
        standard then ends the connection (reasons 147 and 149), again and again.

        Returns:
            The ids of messages that the broker never takes: they are given up.
        """
        most = limits.maximum_packet_bytes
        with self._out_message_mutex:
            kept = self._out_messages.values()
            too_large = [m.mid for m in kept if most is not None and len(m.payload) + PACKET_OVERHEAD_BYTES > most]
            for mid in too_large:
                self._out_messages.pop(mid).info._set_as_published()
            self._max_inflight_messages = min(MOST_INFLIGHT, limits.receive_maximum)
            self._inflight_messages = 0
            for place, message in enumerate(self._out_messages.values()):
                first = place < self._max_inflight_messages
                message.state = MessageState.MQTT_MS_PUBLISH if first else MessageState.MQTT_MS_QUEUED
                message.retain = message.retain and limits.retain
        return too_large

    def loop_misc(self) -> MQTTErrorCode:
        """Note the time; paho calls this at the end of every turn of its loop."""
        self.last_loop = time.monotonic()
        return super().loop_misc()


def payload_begins(packet: bytes | bytearray, has_id: bool) -> int:
    """Return where the payload of an MQTT 5 PUBLISH begins (3.3.2): behind topic, packet id and properties.

    Args:
        packet: what follows the fixed header.
        has_id: its QoS is above 0.

    Returns:
        The packet's length where it is shorter than it says.
    """
    at = 2 + int.from_bytes(packet[:2], "big") + 2 * has_id
    length = 0
    for place, byte in enumerate(packet[at : at + 4]):
        length |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return min(at + place + 1 + length, len(packet))
    return len(packet)
