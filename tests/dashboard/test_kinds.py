"""Talk and silence are shown as what they are: on the page, in `now`, flat topics, metrics and Home Assistant."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable

import jinja2
import pytest

from services.contract.messages import Now, Result, parse
from services.contract.topics import Topics
from services.dashboard.home_assistant import device
from services.mqtt.subscriptions import Delivery
from services.palette import GENRES, KINDS, called, colour, style_sheet
from services.settings.schema import Broker
from services.text import utc
from tests.broker.mosquitto import wait_for
from tests.dashboard.conftest import Running
from tests.dashboard.pretend import result


def talk(start_s: float, share: float = 0.9) -> Result:
    """Return a window of somebody who talks."""
    kinds = {"music": 1 - share, "speech": share, "other": 0.0}
    made = result("radio1", start_s, "hiphop", share, kind="speech", kinds=kinds, sounds={"Speech": 0.98, "Radio": 0.2})
    return made.model_copy(update={"genre": None})


def music(start_s: float) -> Result:
    """Return a window of music that a model with kinds knows for music."""
    return result("radio1", start_s, "jazz", 0.8, kinds={"music": 0.9, "speech": 0.1, "other": 0.0})


@pytest.fixture
def dashboard(broker: Broker, start_dashboard: Callable[..., Running]) -> Running:
    """A dashboard that writes all it can, after 30 s of music and a minute of talk."""
    running = start_dashboard(broker, ("radio1",), publish_now=True, publish_flat=True, stopped_after_s=60)
    began = time.time() - 100
    windows = [*(music(i * 1.5) for i in range(20)), *(talk(30 + i * 1.5) for i in range(40))]
    running.send(*(each.model_copy(update={"observed_at": utc(began + each.start_s)}) for each in windows))
    wait_for(lambda: running.stream("radio1").get("results") == 60, "all that was sent")
    return running


def test_a_stream_of_talk_says_so_wherever_it_is_shown(dashboard: Running) -> None:
    heard: dict[str, bytes] = {}

    def keep(delivery: Delivery) -> None:
        dashboard.mqtt.ack(delivery)
        heard[delivery.message.topic] = delivery.message.payload

    topics = dashboard.topics
    dashboard.mqtt.subscribe(topics.now("+"), keep)
    dashboard.mqtt.subscribe(f"{topics.root}/flat/radio1/+", keep)

    stream = dashboard.stream("radio1")
    assert (stream["genre"], stream["kind"], stream["confidence"]) == (None, "speech", 0.9)
    assert stream["window"]["sounds"] == {"Speech": 0.98, "Radio": 0.2}
    assert stream["run"][2] is None and stream["run"][4] == "speech"
    assert dashboard.state("radio1") == "playing"

    now = wait_for(
        lambda: topics.now("radio1") in heard and parse(Now, heard[topics.now("radio1")]).kind == "speech", "now"
    )
    assert now and parse(Now, heard[topics.now("radio1")]).genre is None
    wait_for(lambda: heard.get(topics.flat("radio1", "kind")) == b"2", "the flat kind")
    wait_for(lambda: heard.get(topics.flat("radio1", "kind_speech")) == b"0.9", "the flat probability")

    metrics = dashboard.get("/metrics").text
    assert 'genre_results_total{genre="",kind="speech",stream="radio1"} 40.0' in metrics
    assert 'genre_stream_kind{kind="speech",stream="radio1"} 1.0' in metrics
    assert 'genre_stream_kind{kind="music",stream="radio1"} 0.0' in metrics

    def shares() -> dict[str, dict[str, float]]:
        found = dashboard.get("/api/shares?by=hour&count=24").json()
        kinds, genres = Counter[str](), Counter[str]()
        for number in (-2, -1):  # an hour may have begun meanwhile
            kinds.update(found["kinds"][number])
            genres.update(found["slices"][number])
        return {"kinds": kinds, "genres": genres} if "speech" in kinds else {}

    found = wait_for(shares, "the history")
    assert set(found["kinds"]) == {"music", "speech"} and set(found["genres"]) == {"jazz", ""}
    assert found["genres"][""] == found["kinds"]["speech"]
    runs = dashboard.get("/api/timeline?seconds=600&steps=300").json()["streams"]["radio1"]
    assert {(run[2], run[4]) for run in runs} == {("jazz", "music"), (None, "speech")}


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("music", "music"), ("unsure", "music"), ("speech", "talk"), ("silence", "silence"), ("other", "other"),
     (None, "None"), ("a word of a later version", "None")],
)  # fmt: skip
def test_home_assistants_sensor_says_what_plays(kind: str | None, shown: str) -> None:
    message = device("homeassistant", Topics("genre"), "radio1", ("jazz",), "1.0", "1", None)
    sensor = json.loads(message)["components"]["sound"]
    template = jinja2.Environment(autoescape=False).from_string(sensor["value_template"])
    assert template.render(value_json={"kind": kind}) == shown
    assert shown in (*sensor["options"], "None")


def test_every_genre_and_kind_has_a_colour_on_a_light_and_a_dark_ground() -> None:
    sheet = style_sheet()
    for name in GENRES:
        assert len(re.findall(rf"--genre-{name}:#[0-9a-f]{{6}};", sheet)) == 4
    for name in KINDS:
        assert len(re.findall(rf"--kind-{name}:#[0-9a-f]{{6}};", sheet)) == 4
    assert colour("music", "jazz") != colour("music", "jazz", dark=True)
    assert colour("music", "drill").startswith("hsl(")


@pytest.mark.parametrize(
    ("kind", "genre", "word"),
    [("music", "jazz", "jazz"), ("unsure", "jazz", "jazz?"), ("speech", None, "talk"), ("silence", None, "silence"),
     ("other", None, "other sound"), ("a word of a later version", None, "other sound")],
)  # fmt: skip
def test_what_is_heard_has_a_word(kind: str, genre: str | None, word: str) -> None:
    assert called(kind, genre) == word
