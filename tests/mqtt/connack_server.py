"""An MQTT 5 server that takes one client at a time and says in its CONNACK what the test wants it to say.

For what no configuration of Mosquitto can deny: it speaks the protocol on a real socket, acknowledges what it gets, and
keeps to its own Receive Maximum as the standard asks. Packets are written by paho's own codecs where it has them.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

CONNECT, PUBLISH, PUBACK, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 4, 8, 10, 12, 14
RECEIVE_MAXIMUM_EXCEEDED = 147


class ConnackServer:
    """A server on loopback.

    Args:
        code: reason code of the CONNACK.
        old: answer as a broker that speaks 3.1.1 only.
        hold: keep PUBACKs back until `release`.
        properties: of the CONNACK, by their names in MQTT 5.
    """

    def __init__(self, *, code: int = 0, old: bool = False, hold: bool = False, **properties: Any) -> None:
        self._code, self._old, self._properties = code, old, properties
        self._suback = 158 if properties.get("SharedSubscriptionAvailable") == 0 else 1
        self.holding = hold
        self.held: list[int] = []
        self.most_held = self.connections = self.pings = 0
        self.received: list[tuple[int, bytes]] = []
        self.acknowledged: list[int] = []
        self.retained = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._peer: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listening.close()
        if self._peer is not None:
            self._peer.close()

    def release(self, most: int) -> None:
        """Acknowledge up to so many of the messages that are held."""
        for _ in range(min(most, len(self.held))):
            self._send(4, struct.pack("!H", self.held.pop(0)))

    def deliver(self, body: bytes, qos: int = 1) -> None:
        """Send a PUBLISH to the client: what follows its fixed header, broken or not."""
        assert self._peer is not None and len(body) < 128
        self._peer.sendall(bytes([PUBLISH << 4 | qos << 1, len(body)]) + body)

    def _serve(self) -> None:
        while True:
            try:
                self._peer, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self.held.clear()
            try:
                while self._packet():
                    pass
            except (OSError, struct.error):
                pass
            self._peer.close()

    def _read(self, size: int) -> bytes:
        assert self._peer is not None
        parts = b""
        while len(parts) < size:
            part = self._peer.recv(size - len(parts))
            if not part:
                raise OSError("closed")
            parts += part
        return parts

    def _send(self, kind: int, body: bytes) -> None:
        assert self._peer is not None and len(body) < 128
        self._peer.sendall(bytes([kind << 4, len(body)]) + body)

    def _packet(self) -> bool:
        first = self._read(1)[0]
        size, shift = 0, 0
        while True:
            byte = self._read(1)[0]
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        body = self._read(size)
        kind = first >> 4
        if kind == CONNECT:
            return self._connack()
        if kind == PUBLISH:
            return self._publish(first, body)
        if kind == PUBACK:
            self.acknowledged.append(struct.unpack("!H", body[:2])[0])
        if kind in (SUBSCRIBE, UNSUBSCRIBE):
            code = self._suback if kind == SUBSCRIBE else 17
            self._send(kind + 1, body[:2] + b"\0" + bytes([code]))
        if kind == PINGREQ:
            self.pings += 1
            self._send(13, b"")
        return kind != DISCONNECT

    def _connack(self) -> bool:
        if self._old:
            self._send(2, b"\0\x01")
            return False
        properties = Properties(PacketTypes.CONNACK)
        for name, value in self._properties.items():
            setattr(properties, name, value)
        self._send(2, bytes([0, self._code]) + properties.pack())
        return self._code == 0

    def _publish(self, first: int, body: bytes) -> bool:
        if first & 1:
            self.retained += 1
            if self._properties.get("RetainAvailable") == 0:
                self._send(14, bytes([154, 0]))
                return False
        topic = struct.unpack("!H", body[:2])[0]
        mid = struct.unpack("!H", body[2 + topic : 4 + topic])[0]
        self.received.append((mid, body[2 : 2 + topic]))
        self.held.append(mid)
        self.most_held = max(self.most_held, len(self.held))
        if len(self.held) > self._properties.get("ReceiveMaximum", 65_535):
            self._send(14, bytes([RECEIVE_MAXIMUM_EXCEEDED, 0]))
            return False
        if not self.holding:
            self.release(1)
        return True
