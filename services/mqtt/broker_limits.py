"""What a broker can do, as it says in its CONNACK, and which of that no service can work without.

Values only. `client.py` reads the CONNACK, keeps to the Receive Maximum and leaves retain out where there is none; the
fetcher cuts smaller chunks. Source: MQTT 5, section 3.2.2. Start at `Limits`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.errors import GenreError

PACKET_OVERHEAD_BYTES = 4096
"""Topic, properties and header of a PUBLISH are smaller than this."""
UNSUPPORTED_PROTOCOL, RETAIN_NOT_SUPPORTED, QOS_NOT_SUPPORTED = 132, 154, 155
SHARED_NOT_SUPPORTED, WILDCARDS_NOT_SUPPORTED = 158, 162


@dataclass(frozen=True)
class Limits:
    """What the broker said in its CONNACK that it can do; defaults are what MQTT 5 says of a property left out.

    Attributes:
        receive_maximum: QoS 1 messages that it takes before it has acknowledged one.
        maximum_packet_bytes: largest packet it takes; None: any.
    """

    shared_subscriptions: bool = True
    wildcards: bool = True
    retain: bool = True
    maximum_qos: int = 2
    receive_maximum: int = 65_535
    maximum_packet_bytes: int | None = None

    @classmethod
    def of(cls, properties: object) -> Limits:
        """Read the properties of a CONNACK (paho's; None where there are none)."""

        def flag(name: str) -> bool:
            return bool(getattr(properties, name, 1))

        return cls(
            shared_subscriptions=flag("SharedSubscriptionAvailable"),
            wildcards=flag("WildcardSubscriptionAvailable"),
            retain=flag("RetainAvailable"),
            maximum_qos=getattr(properties, "MaximumQoS", 2),
            receive_maximum=getattr(properties, "ReceiveMaximum", 65_535),
            maximum_packet_bytes=getattr(properties, "MaximumPacketSize", None),
        )

    @property
    def payload_bytes(self) -> int | None:
        """Largest payload that surely fits; None: any."""
        return None if self.maximum_packet_bytes is None else self.maximum_packet_bytes - PACKET_OVERHEAD_BYTES

    def refusal(self, broker: str, filters: Iterable[str], payload_bytes: int) -> GenreError | None:
        """Return why a client can't work with this broker, or None where it can.

        Args:
            broker: how a person calls it, host:port.
            filters: what the client subscribes to.
            payload_bytes: the least payload without which it is of no use.
        """
        filters, most = list(filters), self.payload_bytes
        if self.maximum_qos < 1:
            return _refusal(broker, QOS_NOT_SUPPORTED)
        if not self.shared_subscriptions and any(name.startswith("$share/") for name in filters):
            return _refusal(broker, SHARED_NOT_SUPPORTED)
        if not self.wildcards and any(set("+#") & set(name) for name in filters):
            return _refusal(broker, WILDCARDS_NOT_SUPPORTED)
        if most is not None and most < payload_bytes:
            return GenreError(
                f"MQTT broker {broker}",
                f"takes packets of at most {self.maximum_packet_bytes} bytes, but this service needs "
                f"{payload_bytes + PACKET_OVERHEAD_BYTES}",
                "raise its packet limit to 2000000 (Mosquitto: max_packet_size)",
            )
        return None


_REASONS = {
    UNSUPPORTED_PROTOCOL: ("does not speak MQTT 5", "use one that does: Mosquitto 1.6 or later, EMQX, HiveMQ, VerneMQ"),
    QOS_NOT_SUPPORTED: (
        "takes QoS 0 only, so it would acknowledge nothing and nothing could be guaranteed",
        "let it take QoS 1 (Mosquitto: max_qos 1)",
    ),
    SHARED_NOT_SUPPORTED: (
        "has no shared subscriptions, so replicas can't share work",
        "use one that has them: Mosquitto 1.6 or later, EMQX, HiveMQ, VerneMQ",
    ),
    WILDCARDS_NOT_SUPPORTED: (
        "has no wildcard subscriptions, so a service can't hear of streams it does not know",
        "turn them on, or use Mosquitto, EMQX, HiveMQ or VerneMQ",
    ),
}


def _refusal(broker: str, code: int) -> GenreError:
    reason, remedy = _REASONS[code]
    return GenreError(f"MQTT broker {broker}", reason, remedy)


def final(broker: str, code: int) -> GenreError | None:
    """Return what to say where a reason code of a CONNACK or SUBACK means that trying again cannot help, else None."""
    return _refusal(broker, code) if code in _REASONS else None
