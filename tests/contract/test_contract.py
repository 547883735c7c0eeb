"""The contract is frozen: every field name, one golden message of each kind, and documents that say the same."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.contract.acks import Ack
from services.contract.chunks import Chunk, ChunkHeader
from services.contract.messages import ContractError, Dead, Event, Flat, Ledger, Message, Now, Result, Status, parse
from services.contract.tensors import MelTensor
from services.contract.topics import Topics
from services.contract.windows import WINDOW
from services.text import clean, utc
from tools import contract_documents

TOPICS = Topics("genre")
AT = "2026-01-31T12:00:00.000Z"
RESULT = {
    "id": "radio1/0/33000/musicnn",
    "stream": "radio1",
    "genre": "jazz",
    "confidence": 0.8125,
    "kind": "music",
    "kinds": {"music": 0.97, "speech": 0.02, "other": 0.01},
    "sounds": {"Music": 0.91, "Jazz": 0.42},
    "scores": {"jazz": 0.8125, "blues": 0.1875},
    "start_s": 1.497,
    "end_s": 4.49,
    "observed_at": AT,
    "epoch": 0,
    "padded": False,
    "title": "Blue Monk",
    "artist": "T. Monk",
    "level_dbfs": -18.5,
    "model": "musicnn",
    "model_version": "1",
    "published_at": AT,
    "latency_ms": 41.5,
}
EVENT = {
    "kind": "gap",
    "stream": "radio1",
    "at": AT,
    "start_s": 6.0,
    "seconds": 2.0,
    "cause": "http-404",
    "reason": "segment 7 is not there",
    "stage": "",
    "title": "",
    "artist": "",
    "numbers": {"sequence": 7.0},
}
NOW = {
    "stream": "radio1",
    "genre": "jazz",
    "confidence": 0.9,
    "kind": "music",
    "since": AT,
    "title": "",
    "artist": "",
    "state": "playing",
    "updated_at": AT,
}
LEDGER = {
    "stream": "radio1",
    "timeline": 100,
    "classified": 70,
    "gap": 20,
    "lost": 7,
    "short": 3,
    "windows": 2,
    "causes": {"http-404": 20, "stale": 7},
    "in_flight": 5,
    "ended": False,
    "failed": "",
    "timeline_id": "5f0c1e2d3a4b",
}
STATUS = {
    "service": "fetcher",
    "instance": "1",
    "state": "online",
    "boot_id": "0123456789ab",
    "version": "1.0.0",
    "since": AT,
    "details": {"model": "musicnn"},
}
DEAD = {
    "at": AT,
    "service": "featurizer",
    "instance": "2",
    "topic": "genre/pcm/radio1",
    "reason": "payload has 3 bytes",
    "chunk": "radio1/0/0/4",
    "payload_bytes": 3,
    "payload_sha256": "0" * 64,
}
GOLDEN: list[tuple[type[Flat], dict[str, Any]]] = [
    (Result, RESULT),
    (Event, EVENT),
    (Now, NOW),
    (Ledger, LEDGER),
    (Status, STATUS),
    (Dead, DEAD),
]


@pytest.mark.parametrize(("model", "golden"), GOLDEN, ids=lambda value: getattr(value, "__name__", ""))
def test_json_messages_have_exactly_these_fields_in_this_order(model: type[Flat], golden: dict[str, Any]) -> None:
    assert json.loads(model.model_validate(golden).to_json()) == golden
    assert list(json.loads(model.model_validate(golden).to_json())) == list(golden) == list(model.model_fields)
    assert parse(model, json.dumps(golden).encode()) == model.model_validate(golden)


@pytest.mark.parametrize(("model", "golden"), GOLDEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_message_with_a_field_too_many_too_few_or_of_another_type_is_refused(
    model: type[Flat], golden: dict[str, Any]
) -> None:
    for broken in (
        {**golden, "surprise": 1},
        {k: v for k, v in golden.items() if k not in ("stream", "at", "service")},
    ):
        with pytest.raises(ContractError, match=model.__name__.lower()):
            parse(model, json.dumps(broken).encode())
    for payload in (b"", b"null", b"[]", b"\xff", b"{" * 100_000, b'{"stream": NaN}'):
        with pytest.raises(ContractError):
            parse(model, payload)


def header(**changes: Any) -> ChunkHeader:
    values = {
        "stream": "radio1",
        "epoch": 2,
        "first_sample": 33_000,
        "windows": 2,
        "hop": 33_000,
        "received_at": 1769860800.125,
        "observed_at": 1769860790.5,
        "title": "Blue Monk",
    }
    return ChunkHeader.model_validate({**values, **changes})


def chunk(**changes: Any) -> Chunk:
    one = header(**changes)
    return Chunk(one, np.arange(one.samples).astype(np.int16), TOPICS.acks("1"))


def tensor() -> MelTensor:
    features = np.linspace(0, 1, 2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    return MelTensor.of(chunk(), {"features": features}, (-18.5, -20.25), "musicnn", "98de8f6704111b14")


def test_a_pcm_chunk_on_the_wire() -> None:
    message = chunk().to_message(TOPICS)
    assert (message.topic, message.retain, message.response_topic) == ("genre/pcm/radio1", False, "genre/acks/1")
    assert message.content_type == "application/vnd.genre-edge.pcm-s16le"
    assert message.correlation == b"radio1/2/33000/2"
    assert len(message.payload) == 2 * (WINDOW + 33_000) and message.payload[:4] == b"\0\0\1\0"
    assert message.properties == (
        ("contract", "2"),
        ("stream", "radio1"),
        ("epoch", "2"),
        ("first_sample", "33000"),
        ("windows", "2"),
        ("hop", "33000"),
        ("received_at", "1769860800.125"),
        ("observed_at", "1769860790.5"),
        ("title", "Blue Monk"),
    )
    back = Chunk.from_message(message)
    assert back.header == chunk().header and (back.pcm == chunk().pcm).all()
    assert dict(back.to_message(TOPICS, 3).properties)["attempt"] == "3"
    assert Chunk.from_message(back.to_message(TOPICS, 10**9)).header.attempt == 10_000


def test_a_chunk_of_the_contract_before_is_still_read_and_of_a_later_one_refused() -> None:
    message = chunk().to_message(TOPICS)
    rest = message.properties[1:]
    assert Chunk.from_message(replace(message, properties=(("contract", "1"), *rest))).header == chunk().header
    with pytest.raises(ContractError, match="contract is '3'"):
        Chunk.from_message(replace(message, properties=(("contract", "3"), *rest)))


def test_a_tensor_on_the_wire() -> None:
    message = tensor().to_message(TOPICS)
    assert message.topic == "genre/mel/musicnn/radio1"
    assert message.content_type == "application/vnd.genre-edge.tensor"
    assert len(message.payload) == 2 * 3 * 4 * 4
    assert message.properties[-5:] == (
        ("recipe", "musicnn"),
        ("recipe_digest", "98de8f6704111b14"),
        ("frames", "3"),
        ("bands", "4"),
        ("levels_dbfs", "-18.50,-20.25"),
    )
    back = MelTensor.from_message(message)
    assert (back.views["features"] == tensor().views["features"]).all() and back.levels_dbfs == (-18.5, -20.25)


def two_views() -> MelTensor:
    rng = np.random.default_rng(2)
    views = {"mel96": rng.random((2, 3, 4), np.float32), "mel64": rng.random((2, 5, 2), np.float32)}
    return MelTensor.of(chunk(), views, (-18.5, -20.25), "hearing", "98de8f6704111b14")


def test_a_tensor_of_several_views_is_one_message() -> None:
    message = two_views().to_message(TOPICS)
    assert len(message.payload) == 2 * (3 * 4 + 5 * 2) * 4
    assert message.properties[-3:-1] == (("recipe_digest", "98de8f6704111b14"), ("views", "mel96:3x4,mel64:5x2"))
    back = MelTensor.from_message(message)
    assert back.header == two_views().header and back.header.shapes == {"mel96": (3, 4), "mel64": (5, 2)}
    for name, view in two_views().views.items():
        assert np.array_equal(back.views[name], view)


@pytest.mark.parametrize(
    ("views", "said"),
    [
        ("mel96:3x4", "payload has"),
        ("mel96:3x4,mel96:5x2", "one name stands twice"),
        ("mel96:3x4,mel64:5", "views"),
        ("", "views"),
        ("mel96:0x4", "views"),
        (",".join(f"v{i}:1x1" for i in range(9)), "views"),
        ("mel96:3x99999", "views"),
        ("mel96:9999x9999", "payload has"),
    ],
)
def test_views_that_do_not_fit_the_payload_are_refused(views: str, said: str) -> None:
    good = two_views().to_message(TOPICS)
    properties = tuple({**dict(good.properties), "views": views}.items())
    with pytest.raises(ContractError, match=said):
        MelTensor.from_message(replace(good, properties=properties))


@pytest.mark.parametrize("left_out", ["frames", "bands"])
def test_a_tensor_without_a_whole_shape_is_refused(left_out: str) -> None:
    good = tensor().to_message(TOPICS)
    kept = tuple(pair for pair in good.properties if pair[0] != left_out)
    with pytest.raises(ContractError, match="either frames and bands or views"):
        MelTensor.from_message(replace(good, properties=kept))
    with pytest.raises(ContractError, match="either frames and bands or views"):
        MelTensor.from_message(replace(good, properties=(*good.properties, ("views", "features:3x4"))))


def test_an_ack_on_the_wire() -> None:
    message = Ack("radio1/2/33000/2", "dead", "no\x00 good\ufeff").to_message("genre/acks/1")
    assert message == Message(
        "genre/acks/1",
        correlation=b"radio1/2/33000/2",
        properties=(("contract", "2"), ("outcome", "dead"), ("reason", "no  good")),
    )
    assert Ack.from_message(message).outcome == "dead"


def test_topics_are_these() -> None:
    assert [
        TOPICS.pcm("s"),
        TOPICS.mel("r", "s"),
        TOPICS.results,
        TOPICS.events,
        TOPICS.dead,
        TOPICS.now("s"),
        TOPICS.ledger("s"),
        TOPICS.acks("1"),
        TOPICS.status("fetcher", "1"),
    ] == [
        "genre/pcm/s",
        "genre/mel/r/s",
        "genre/results",
        "genre/events",
        "genre/dead",
        "genre/streams/s/now",
        "genre/streams/s/ledger",
        "genre/acks/1",
        "genre/status/fetcher/1",
    ]
    assert utc(1769860800.0) == AT
    assert header().window_id(1, "musicnn") == "radio1/2/66000/musicnn"
    timed = header().model_copy(update={"timeline_id": "5f0c1e2d3a4b"})
    assert timed.window_id(1, "musicnn") == "radio1/5f0c1e2d3a4b/2/66000/musicnn"
    assert timed.chunk == "radio1/5f0c1e2d3a4b/2/33000/2"


NAMES = st.sampled_from(
    [*ChunkHeader.model_fields, "contract", "recipe", "dtype", "frames", "views", "levels_dbfs", "x"]
)
VALUES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["-1", "0", "65", "nan", "inf", "1e400", "9" * 400, "true", "1.0", "0x10", "٣", "", " 1", "1_000"]),
)


@settings(max_examples=400, deadline=None)
@given(changes=st.dictionaries(NAMES, VALUES, max_size=4), payload=st.binary(max_size=64), data=st.data())
def test_hostile_properties_and_payloads_are_refused_with_a_reason_and_never_crash(
    changes: dict[str, str], payload: bytes, data: st.DataObject
) -> None:
    for good, kind in ((chunk().to_message(TOPICS), Chunk), (tensor().to_message(TOPICS), MelTensor)):
        properties = tuple({**dict(good.properties), **changes}.items())
        if data.draw(st.booleans(), label="a property twice"):
            properties += properties[:1]
        message = Message(
            data.draw(st.sampled_from([good.topic, "genre/pcm/other", "x"])),
            data.draw(st.sampled_from([good.payload, payload])),
            content_type=data.draw(st.sampled_from([good.content_type, None, "text/plain"])),
            response_topic=data.draw(st.sampled_from([good.response_topic, None])),
            correlation=data.draw(st.sampled_from([good.correlation, None, b"\xff"])),
            properties=properties,
        )
        try:
            kind.from_message(message)
        except ContractError as error:
            assert 0 < len(str(error)) < 400


@pytest.mark.parametrize("strange", [[("contract", "9" * 400)], [("9" * 400, "x")] * 2], ids=["value", "name"])
def test_what_is_long_is_cut_off_in_the_reason(strange: list[tuple[str, str]]) -> None:
    good = chunk().to_message(TOPICS)
    kept = [pair for pair in good.properties if pair[0] not in dict(strange)]
    with pytest.raises(ContractError, match="99999") as caught:
        Chunk.from_message(replace(good, properties=(*kept, *strange)))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_refused(value: float) -> None:
    message = tensor().to_message(TOPICS)
    features = np.frombuffer(message.payload, "<f4").copy()
    features[5] = value
    bad = Message(**{**message.__dict__, "payload": features.tobytes()})
    with pytest.raises(ContractError, match="finite"):
        MelTensor.from_message(bad)


@given(st.text())
def test_clean_text_can_be_sent_by_every_client_and_broker(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned) <= 512 and cleaned == clean(cleaned)
    cleaned.encode()
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or ord(c) == 0xFEFF for c in cleaned)


# --- documents -------------------------------------------------------------------------------------------------------


def test_the_committed_documents_are_current() -> None:
    for name, text in contract_documents.documents().items():
        path = contract_documents.FOLDER / name
        assert path.read_text(encoding="utf-8") == text, f"{name} is out of date: run 'make contract'"
    assert {path.name for path in contract_documents.FOLDER.glob("*.json")} == set(contract_documents.documents())


@pytest.mark.parametrize(("model", "golden"), GOLDEN, ids=lambda value: getattr(value, "__name__", ""))
def test_golden_messages_fit_their_schema_and_broken_ones_do_not(model: type[Flat], golden: dict[str, Any]) -> None:
    schema = json.loads(contract_documents.documents()[f"{model.__name__.lower()}.schema.json"])
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(golden)
    assert set(schema["required"]) == set(golden), "every field is always there"
    assert not validator.is_valid({**golden, "surprise": 1})
    for field in golden:
        assert not validator.is_valid({**golden, field: object()})


def test_the_asyncapi_document_names_every_topic_and_every_reference_leads_somewhere() -> None:
    document = json.loads(contract_documents.documents()["asyncapi.json"])
    assert document["asyncapi"] == "3.0.0"
    addresses = {channel["address"] for channel in document["channels"].values()}
    promised = {
        TOPICS.pcm("{stream}"),
        TOPICS.mel("{recipe}", "{stream}"),
        TOPICS.results,
        TOPICS.events,
        TOPICS.dead,
        TOPICS.now("{stream}"),
        TOPICS.ledger("{stream}"),
        TOPICS.flat("{stream}", "{number}"),
        TOPICS.acks("{fetcher}"),
        TOPICS.status("{service}", "{instance}"),
    }
    assert addresses == promised

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [ref for value in node.values() for ref in references(value)]
        return [ref for item in node for ref in references(item)] if isinstance(node, list) else []

    for reference in references(document):
        file, _, pointer = reference.partition("#")
        target: Any = json.loads(contract_documents.documents()[file]) if file else document
        for part in filter(None, pointer.split("/")):
            target = target[part]
    for channel in document["channels"].values():
        levels = [level[1:-1] for level in channel["address"].split("/") if level.startswith("{")]
        assert sorted(channel.get("parameters", {})) == sorted(levels)
