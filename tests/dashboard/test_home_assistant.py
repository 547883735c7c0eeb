"""Every discovery message that is published, judged by Home Assistant's own topics, schemas and templates.

Home Assistant runs in an environment of its own, which `make test-web` makes where there is a Python that it takes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.contract.messages import Now
from services.contract.topics import Topics
from services.dashboard.home_assistant import SOUNDS, STATES, device
from services.dashboard.home_assistant import topic as discovery_topic
from services.mqtt.client import MqttClient
from services.settings.schema import Broker
from tests.broker.mosquitto import wait_for
from tests.dashboard.conftest import Running
from tests.dashboard.pretend import LABELS, result

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / "build" / "home-assistant" / "bin" / "python"
JUDGE = Path(__file__).parent / "home_assistant" / "judge.py"
Message = tuple[str, bytes]

pytestmark = pytest.mark.skipif(
    not (os.environ.get("GENRE_WEB") and PYTHON.exists()),
    reason="needs Home Assistant's own code: run 'make test-web' where a Python 3.13 is installed",
)


def now(**changes: object) -> str:
    values = {
        "stream": "radio1", "genre": "jazz", "confidence": 0.876, "kind": "music", "since": "2026-01-31T12:00:00.000Z",
        "title": "So What", "artist": "Miles", "state": "playing", "updated_at": "2026-01-31T12:00:00.000Z", **changes,
    }  # fmt: skip
    return Now.model_validate(values).to_json().decode()


NOWS = (
    now(),
    now(genre=None, kind="speech", title="", artist=""),
    now(genre=None, kind="silence", state="silent"),
    now(genre="unheard of", kind="unsure", title="x" * 400),
    *(now(genre=None, kind=None, confidence=0.0, title="", artist="", state=state) for state in STATES),
)


def judged(messages: Sequence[Message], prefix: str = "homeassistant", nows: Sequence[str] = NOWS) -> list[Any]:
    """Ask Home Assistant; return what it objects to and what its entities show, for each message."""
    asked = {
        "prefix": prefix, "nows": list(nows),
        "messages": [{"topic": topic, "payload": payload.decode()} for topic, payload in messages],
    }  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(PYTHON), "-I", str(JUDGE)], input=json.dumps(asked), env=environment, capture_output=True, text=True,
        timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found: list[Any] = json.loads(done.stdout)
    return found


def accepted(messages: Sequence[Message], prefix: str = "homeassistant", nows: Sequence[str] = NOWS) -> list[Any]:
    found = judged(messages, prefix, nows)
    assert [each["objections"] for each in found] == [[]] * len(messages)
    return [each["shown"] for each in found]


def test_what_two_boxes_publish_is_taken_and_their_entities_share_no_id(
    shared_mosquitto: Any, settings_for: Callable[..., Broker], start_dashboard: Callable[..., Running],
    buses: Callable[..., MqttClient],
) -> None:  # fmt: skip
    brokers = [settings_for(shared_mosquitto, root=f"judged/{box}/genre") for box in ("attic", "cellar")]
    found: dict[str, bytes] = {}
    listener = buses(brokers[0], "listener")
    listener.subscribe("judged/#", lambda d: (found.update({d.message.topic: d.message.payload}), listener.ack(d)))
    shared: dict[str, object] = {"home_assistant": True, "home_assistant_prefix": "judged/ha", "publish_flat": True}
    settings = (
        {"box": "attic", "hosts": ["https://radio.example.org/genre/"], "base_path": "/genre"},
        {"hosts": ["cellar.local"], "login_to_view": True},
    )
    for broker, own in zip(brokers, settings, strict=True):
        start_dashboard(broker, ("radio1", "a.b"), **shared, **own).send(result("radio1", title="So What"))

    def messages() -> list[Message]:
        return [(topic, payload) for topic, payload in found.items() if topic.endswith("/config")]

    def nows() -> list[str]:
        return [found[topic].decode() for topic in found if topic.endswith("radio1/now") and b"jazz" in found[topic]]

    wait_for(lambda: len(messages()) == 4 and len(nows()) == 2, "four devices, and what plays on two of them")
    wait_for(lambda: sum(b'"options": ["blues"' in payload for _, payload in messages()) == 2, "their genres")
    shown = accepted(messages(), "judged/ha", nows())
    assert [each["genre"][0][0] for each in shown if each["genre"][0][0] == "jazz"] == ["jazz"] * 4
    payloads = [json.loads(payload) for _, payload in messages()]
    ids = [part["unique_id"] for payload in payloads for part in payload["components"].values()]
    assert len(ids) == len(set(ids)) and len({payload["device"]["identifiers"][0] for payload in payloads}) == 4
    assert {payload["device"].get("configuration_url", "").split(":")[0] for payload in payloads} == {"http", "https"}


def test_every_name_label_root_and_setting_is_taken() -> None:
    messages = [
        (
            discovery_topic("ha/discovery", box, root, stream),
            device(box, Topics(root), stream, labels, "1.0", "1", url, tell_box),
        )
        for stream in ("radio1", "a.b-c_d", "a" * 64, "0")
        for labels in (LABELS, (), ("it's", 'a "genre"', "{{ x }}", "{% x %}", "{# x", "\\"))
        for root, box in (("genre", "box.local"), ("home/genre", socket.gethostname()), ("a b/ü", "ü"))
        for url, tell_box in ((None, False), ("http://box.local:8080/", True), ("https://[fd00::1]/genre/", True))
    ]
    accepted(messages, "ha/discovery")


def test_what_home_assistant_shows_of_each_state_is_what_the_page_says() -> None:
    message = (
        discovery_topic("homeassistant", "box", "genre", "radio1"),
        device("box", Topics(), "radio1", LABELS, "1.0", "1", None),
    )
    (shown,) = accepted([message])
    column = {name: [values[0] for values in rows] for name, rows in shown.items()}
    assert column["genre"] == ["jazz", *["None"] * (len(NOWS) - 1)]
    assert column["sound"][:4] == ["music", "talk", "silence", "music"] and set(column["sound"][4:]) == {"None"}
    assert {value for value in column["sound"] if value != "None"} <= set(SOUNDS)
    assert column["confidence"][0] == "87.6"
    assert column["track"][:2] == ["Miles - So What", ""] and len(column["track"][3]) == 255
    assert column["state"][4:] == list(STATES)
    assert column["problem"][4:] == ["ON" if state == "stopped" else "OFF" for state in STATES]
    assert json.loads(shown["genre"][0][1]) == {"stream": "radio1", "since": "2026-01-31T12:00:00.000Z"}
    assert json.loads(shown["track"][0][1]) == {"title": "So What", "artist": "Miles"}


def broken(change: Callable[[dict[str, Any]], object]) -> bytes:
    payload = json.loads(device("box", Topics(), "radio1", LABELS, "1.0", "1", "http://box.local:8080/"))
    change(payload)
    return json.dumps(payload).encode()


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "no origin": lambda p: p.pop("origin"),
    "no identifiers": lambda p: p["device"].pop("identifiers"),
    "a device's key that is none": lambda p: p["device"].update(colour="red"),
    "a URL that is none": lambda p: p["device"].update(configuration_url="box.local"),
    "an unknown platform": lambda p: p["components"]["genre"].update(p="genre"),
    "no unique id": lambda p: p["components"]["genre"].pop("unique_id"),
    "no state topic": lambda p: p["components"]["genre"].pop("state_topic"),
    "a topic that is none": lambda p: p["components"]["genre"].update(state_topic="genre/a#"),
    "a misspelt key": lambda p: p["components"]["genre"].update(value_templat="{{ 1 }}"),
    "a template that is none": lambda p: p["components"]["genre"].update(value_template="{{ value_json. }}"),
    "an enum with a unit": lambda p: p["components"]["genre"].update(unit_of_measurement="%"),
    "an enum without options": lambda p: p["components"]["genre"].update(options=[]),
    "an unknown class": lambda p: p["components"]["problem"].update(device_class="trouble"),
    "an unknown category": lambda p: p["components"]["problem"].update(entity_category="other"),
    "an icon without its set": lambda p: p["components"]["track"].update(icon="music"),
    "a precision that is none": lambda p: p["components"]["confidence"].update(suggested_display_precision=-1),
}


def test_what_is_broken_on_purpose_is_refused() -> None:
    topic = discovery_topic("homeassistant", "box", "genre", "radio1")
    found = judged([(topic, broken(change)) for change in BROKEN.values()])
    assert [name for name, each in zip(BROKEN, found, strict=True) if not each["objections"]] == []
    (dotted,) = judged([(topic.replace("radio1", "radio.1"), broken(dict))])
    assert dotted["objections"] == ["the topic is none of a device's discovery"]
