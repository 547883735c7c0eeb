"""Where an MQTT 5 PUBLISH's payload begins, against paho's own reading of the same packets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt._packet import decode_publish
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from services.paho_client import payload_begins

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=40)


def packet(topic: str, qos: int, pairs: list[tuple[str, str]], correlation: bytes | None, payload: bytes) -> bytes:
    properties = Properties(PacketTypes.PUBLISH)
    if pairs:
        properties.UserProperty = pairs
    if correlation is not None:
        properties.CorrelationData = correlation
    name = topic.encode()
    return len(name).to_bytes(2, "big") + name + (b"\0\7" if qos else b"") + properties.pack() + payload


@given(TEXT, st.integers(0, 1), st.lists(st.tuples(TEXT, TEXT), max_size=30), st.none() | st.binary(max_size=300),
       st.binary(max_size=50))  # fmt: skip
def test_the_payload_is_what_paho_takes_for_it(
    topic: str, qos: int, pairs: list[tuple[str, str]], correlation: bytes | None, payload: bytes
) -> None:
    made = packet(topic, qos, pairs, correlation, payload)
    read = decode_publish(0x30 | qos << 1, made, MQTTProtocolVersion.MQTTv5)
    end = payload_begins(made, bool(qos))
    assert made[end:] == read.payload == payload
    head = decode_publish(0x30 | qos << 1, made[:end], MQTTProtocolVersion.MQTTv5)
    assert head.properties is not None and read.properties is not None
    assert (head.topic, head.mid, head.properties.pack()) == (read.topic, read.mid, read.properties.pack())


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_have_a_beginning_within_them(data: bytes, has_id: bool) -> None:
    assert 0 <= payload_begins(data, has_id) <= len(data)


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff\xffa", b"\0\1a\0\1\xff\xff\xff\xff\1", b"\0\1a\0\1\x50ab"])
def test_a_packet_that_is_shorter_than_it_says_has_no_payload(data: bytes) -> None:
    assert payload_begins(data, True) == len(data)
