"""paho's MQTT client with what client.py can't do from outside: it overrides the steps named here and no others.

Where paho ends its connection over one message, passes over the broker's limits, or takes long. Start at
`PahoClient`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Literal

import paho.mqtt.client as mqtt
from paho.mqtt.enums import MessageState, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from services.contract.messages import Message
from services.mqtt import publish_packet
from services.mqtt.broker_limits import PACKET_OVERHEAD_BYTES, Limits
from services.mqtt.publish_packet import MalformedError

log = logging.getLogger(__name__)

MOST_INFLIGHT = 20
"""QoS 1 messages under way to the broker at once, where its Receive Maximum allows as many; paho's own default."""
RECEIVED_AT_ONCE = 32_768
"""Bytes: a message of 300 kB takes 1.3 CPU-ms to receive in such pieces, 1.6 in pieces as large as they come."""
_ACCEPTED = {
    b"": ReasonCode(PacketTypes.PUBACK, identifier=0),
    b"\x10": ReasonCode(PacketTypes.PUBACK, identifier=16),
}
"""What follows the packet identifier of a PUBACK that says success, or success without a subscriber."""
_NO_PROPERTIES = Properties(PacketTypes.PUBACK)


class PahoClient(mqtt.Client):
    """paho's client, with a sign of life from inside its network loop, and no message that can end that loop."""

    last_loop: float = 0.0
    last_error: BaseException | None = None
    """What the socket said last, since the last try to connect; paho itself keeps it to itself."""
    unreadable: int = 0
    _held_back: bool = False
    received: Callable[[Message, int, int, bool], object]
    """Called with (message, packet identifier, QoS, whether it was sent before) from the network thread."""

    def _handle_publish(self) -> MQTTErrorCode:
        """Read a PUBLISH; one that can't be read is acknowledged and passed over.

        paho ends the connection for it. The broker then delivers the same message again, for ever: one message would
        silence a service.
        """
        flags: int = self._in_packet["command"]
        qos = flags >> 1 & 3
        try:
            message, mid = publish_packet.read(flags, self._in_packet["packet"])
        except MalformedError as error:
            self.unreadable += 1
            log.warning("a message that can't be read is passed over: %s", error)
            return self.ack(error.mid, qos) if qos == 1 and error.mid else MQTTErrorCode.MQTT_ERR_SUCCESS
        if qos > 1:  # nobody here subscribes with QoS 2
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        self.received(message, mid, qos, bool(flags & 0x08))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        """Read a PUBACK; the two reasons that mean success without paho's tables, which take 30 us each time."""
        packet = self._in_packet["packet"]
        reason = _ACCEPTED.get(bytes(packet[2:]))
        if cmd != "PUBACK" or reason is None or len(packet) < 2:
            return super()._handle_pubackcomp(cmd)
        mid = int.from_bytes(packet[:2], "big")
        with self._out_message_mutex:
            if mid in self._out_messages:
                return self._do_on_publish(mid, reason, _NO_PROPERTIES)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _sock_recv(self, bufsize: int) -> bytes:
        """Receive a piece: paho asks for all that is left of a packet, and gets room for it, whatever comes."""
        try:
            return super()._sock_recv(min(bufsize, RECEIVED_AT_ONCE))
        except BlockingIOError:
            raise
        except OSError as error:  # an alert of TLS 1.3 comes only now, after the handshake
            self.last_error = error
            raise

    def reconnect(self) -> MQTTErrorCode:
        """Connect; what goes wrong is noted, and is never the end of the network thread."""
        self.last_error = None
        try:
            return super().reconnect()
        except OSError as error:
            self.last_error = error
            raise
        except Exception as error:  # a name that no host can have, a server that answers HTTP with nonsense
            self.last_error = error
            raise OSError(str(error)) from error

    def _handle_connack(self) -> MQTTErrorCode:
        """Read a CONNACK; nobody else may publish before its limits are known and what was kept is sent again."""
        with self._out_message_mutex:
            self._held_back = True
            try:
                return super()._handle_connack()
            finally:
                self._held_back = False

    def _send_publish(self, *args: Any, **named: Any) -> MQTTErrorCode:
        """Send a PUBLISH, but none ahead of the CONNACK: it would not know the limits; paho keeps it until then."""
        if self._held_back or not self.is_connected():
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        return super()._send_publish(*args, **named)

    def keep_to(self, limits: Limits) -> list[int]:
        """Send no more and no larger messages than the broker takes; call it before paho sends again what it kept.

        paho does not look at the broker's limits, and after a connect it sends all it holds: a broker that keeps to the
        standard then ends the connection (reasons 147 and 149), again and again. What is published between the CONNACK
        and this call waits its turn behind what was kept.

        Returns:
            The ids of messages that the broker never takes: they are given up.
        """
        most = limits.maximum_packet_bytes
        with self._out_message_mutex:
            kept = self._out_messages.values()
            too_large = [m.mid for m in kept if most is not None and len(m.payload) + PACKET_OVERHEAD_BYTES > most]
            for mid in too_large:
                self._out_messages.pop(mid).info._set_as_published()
            self._held_back = False
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
