"""Text from outside: one cleaning for MQTT, terminal, log, page and file names, with every character that does harm."""

from __future__ import annotations

import io
import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contract.messages import Event, Message, Result
from services.errors import GenreError
from services.fetcher.events import Gap, Report, Track
from services.mqtt.subscriptions import Delivery
from services.process.logs import LineFormatter
from services.settings.schema import Broker
from services.text import clean
from tests.broker.mosquitto import wait_for
from tests.contract.test_contract import EVENT, RESULT
from tests.mqtt.test_client import Buses

NON_CHARACTERS = [*range(0xFDD0, 0xFDF0), *(plane << 16 | last for plane in range(17) for last in (0xFFFE, 0xFFFF))]
BIDIRECTIONAL = [0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0xFEFF]
HARMFUL = "".join(map(chr, [*CONTROLS, 0xD800, 0xDFFF, *BIDIRECTIONAL, *NON_CHARACTERS]))


def test_every_harmful_character_goes_wherever_it_stands() -> None:
    assert len(NON_CHARACTERS) == 66
    for character in HARMFUL:
        assert not set(clean(f"{character}A{character}B{character}")) & set(HARMFUL), f"U+{ord(character):04X}"


@pytest.mark.parametrize(
    "good",
    [
        "Björk - Jóga",
        "椎名林檎",
        "فيروز",
        "שלום",
        "Ünï  two  spaces",
        "\N{FAMILY}\u200d\N{ROCKET}",
        "می\u200cخواهم",
    ],
)
def test_what_people_write_stays_as_it_is(good: str) -> None:
    assert clean(good) == good


@given(st.text(st.characters(exclude_categories=())), st.integers(1, 600))
def test_cleaning_is_one_line_of_utf8_within_its_bound_and_needs_no_second_time(text: str, most: int) -> None:
    cleaned = clean(text, most)
    assert cleaned == clean(cleaned, most) and len(cleaned) <= most and len(cleaned.splitlines()) <= 1
    assert all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in cleaned)
    cleaned.encode()


def test_a_broker_carries_what_was_cleaned_and_keeps_the_connection(broker: Broker, buses: Buses) -> None:
    mqtt, arrived = buses(broker, "a"), list[Delivery]()

    def take(delivery: Delivery) -> None:
        arrived.append(delivery)
        mqtt.ack(delivery)

    mqtt.subscribe(f"{broker.root}/x", take)
    connection = mqtt.generation
    texts = [clean(f"A{character}B{HARMFUL}C") for character in HARMFUL]
    for start in range(0, len(texts), 16):
        properties = tuple(("title", text) for text in texts[start : start + 16])
        assert mqtt.publish_and_wait(Message(f"{broker.root}/x", b"x", properties=properties), 10).accepted
    wait_for(lambda: len(arrived) == -(-len(texts) // 16), "every message")
    assert [text for delivery in arrived for _, text in delivery.message.properties] == texts
    assert mqtt.connected and mqtt.generation == connection


def test_every_message_a_reader_takes_is_clean_whoever_wrote_it() -> None:
    wanted = clean(f"A{HARMFUL}B")
    foreign = f"A{HARMFUL}B".replace("\ud800", "").replace("\udfff", "")
    result = Result.model_validate({**RESULT, "title": foreign, "artist": foreign})
    event = Event.model_validate({**EVENT, "title": foreign, "reason": foreign, "cause": foreign})
    assert {result.title, result.artist, event.title, event.reason, event.cause} == {clean(foreign)}
    track = Track(0, f"A{HARMFUL}B", f"A{HARMFUL}B")
    assert {track.title, track.artist} == {wanted}
    assert {Gap(0, 1, "http-404", f"A{HARMFUL}B").detail, Report("chosen", f"A{HARMFUL}B").reason} == {wanted}


def test_an_error_is_one_line_that_a_terminal_only_shows() -> None:
    error = GenreError("http://x/a.m3u8", "404 \x1b]0;pwned\x07\x1b[31mNope\r\n\u2028forged\u202e", "look\nthere")
    assert str(error) == "http://x/a.m3u8: 404 ]0;pwned [31mNope forged; look there"
    assert not set(str(GenreError(HARMFUL, HARMFUL, HARMFUL))) & set(HARMFUL)
    assert str(GenreError(" ", "is not there", "give another")) == "'': is not there; give another"


def test_a_log_line_can_not_be_forged_and_a_traceback_keeps_its_lines() -> None:
    out = io.StringIO()
    log, handler = logging.Logger("x"), logging.StreamHandler(out)
    handler.setFormatter(LineFormatter("%(levelname)s x: %(message)s"))
    log.addHandler(handler)
    log.warning("title %s", "A\nERROR forged \x1b[2J\u2028B")
    try:
        raise ValueError("bad \x1b[31m\u202e name")
    except ValueError:
        log.exception("it failed")
    first, second, *traceback = out.getvalue().splitlines()
    assert first == "WARNING x: title A ERROR forged  [2J B" and second == "ERROR x: it failed"
    assert traceback[0].startswith("Traceback") and traceback[1].startswith("  File")
    assert traceback[-1] == "ValueError: bad  [31m name"
