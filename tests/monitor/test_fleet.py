"""A fleet of real Mosquittos on hosts of their own: who may write what, no loops, uplinks that go and come back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.rigs.network import Network, why_not
from broker.command import broker as command
from services.contract.messages import Message
from services.contract.topics import Topics
from services.errors import UsageError
from services.monitor import fleet
from services.monitor.fleet import Fleet
from services.mqtt.client import MqttClient
from tests.broker.mosquitto import PROGRAM, Client, wait_for
from tests.dashboard.pretend import ledger, result, sent, status
from tests.monitor.fleet_of_two import LOCAL_PORT, PORT, FleetOfTwo

BOXES = ("edge-7", "edge-8")
Buses = Callable[..., MqttClient]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetOfTwo]:
    if PROGRAM is None:
        pytest.skip("mosquitto is not installed")
    if reason := why_not():
        pytest.skip(reason)
    with Network(["hub", *BOXES]) as network:
        running = FleetOfTwo(network, tmp_path_factory.mktemp("fleet"), BOXES)
        yield running
        running.stop()


class Upstream:
    """A viewer of the upstream broker with a durable session."""

    def __init__(self, two: FleetOfTwo, name: str = "wall") -> None:
        self.client = Client(f"viewer-{name}", clean=False)
        self.client.client.tls_set(ca_certs=str(two.folder / "ca.crt"))
        password = (two.folder / "passwords" / name).read_text().strip()
        self.client.client.username_pw_set(name, password)
        self.client.client.on_connect = self._subscribe
        self.client.client.reconnect_delay_set(0.2, 1)  # type: ignore[arg-type]
        self.client.client.connect_async(two.hub.address, PORT, clean_start=False)
        self.client.client.loop_start()
        wait_for(lambda: self.client.connected == 0, "the viewer's connection")

    def _subscribe(self, client: object, userdata: object, flags: object, code: object, properties: object) -> None:
        self.client.connected = code.value  # type: ignore[attr-defined]
        self.client.client.subscribe("#", 1)

    def on(self, topic: str) -> list[bytes]:
        return [message.payload for message in self.client.received if message.topic == topic]

    def ids(self, box: str) -> list[str]:
        return [json.loads(payload)["id"] for payload in self.on(fleet.topics("genre", box).results)]


@pytest.fixture
def upstream(two: FleetOfTwo) -> Iterator[Upstream]:
    viewer = Upstream(two)
    for box in BOXES:
        wait_for(lambda box=box: viewer.on(fleet.link(box))[-1:] == [b"1"], f"the bridge of {box}", 45)
    yield viewer
    viewer.client.close()


def source(two: FleetOfTwo, box: str, name: str = "source") -> Client:
    """A publisher on a box's own broker."""
    client = Client(f"{name}-{box}")
    client.client.connect(two.boxes[box].address, LOCAL_PORT)
    client.client.loop_start()
    wait_for(client.client.is_connected, "the connection")
    return client


def send(client: Client, *things: object) -> None:
    for message in sent(Topics(), *things):  # type: ignore[arg-type]
        assert client.publish(message.topic, message.payload, retain=message.retain) < 128


def test_two_boxes_with_the_same_stream_do_not_collide(two: FleetOfTwo, upstream: Upstream) -> None:
    for number, box in enumerate(BOXES):
        client = source(two, box)
        send(client, status("fetcher"), result("radio1", 100.0 + number), ledger("radio1", 3.0))
        client.close()
    for number, box in enumerate(BOXES):
        topics = fleet.topics("genre", box)
        wait_for(lambda box=box: upstream.ids(box), "the result upstream")
        starts = {json.loads(payload)["start_s"] for payload in upstream.on(topics.results)}
        assert starts == {100.0 + number}
        assert upstream.on(topics.status("fetcher", "1"))
        wait_for(lambda topics=topics: upstream.on(topics.ledger("radio1")), "the ledger upstream")


def test_audio_features_and_acks_stay_on_the_box(two: FleetOfTwo, upstream: Upstream) -> None:
    client = source(two, "edge-7")
    for topic in ("genre/pcm/r1", "genre/mel/vgg16/r1", "genre/dead", "genre/acks/1", "genre/flat/r1/confidence"):
        client.publish(topic, b"never")
    send(client, result("radio1", 200.0))
    wait_for(lambda: any("4410000/" in each for each in upstream.ids("edge-7")), "the result after them")
    assert not [message.topic for message in upstream.client.received if message.payload == b"never"]
    client.close()


def test_nothing_comes_down_and_nothing_goes_round(two: FleetOfTwo, upstream: Upstream) -> None:
    reader, client = source(two, "edge-7", "reader"), source(two, "edge-7")
    reader.subscribe("#")
    send(client, result("radio1", 300.0))
    wait_for(lambda: any("6615000/" in each for each in upstream.ids("edge-7")), "the result upstream")
    send(client, result("radio1", 301.5))
    wait_for(lambda: len([m for m in reader.received if m.topic == "genre/results"]) >= 2, "both on the box")
    topics = {message.topic for message in reader.received}
    assert topics <= {"genre/results", "genre/status/fetcher/1", "genre/streams/radio1/ledger", fleet.link("edge-7")}
    assert len([m for m in reader.received if m.topic == "genre/results"]) == 2
    reader.close()
    client.close()


def test_a_box_can_write_below_its_own_name_alone_and_read_nothing(two: FleetOfTwo, upstream: Upstream) -> None:
    intruder = Client("intruder")
    intruder.client.tls_set(ca_certs=str(two.folder / "ca.crt"))
    intruder.client.username_pw_set("edge-8", (two.folder / "passwords" / "edge-8").read_text().strip())
    intruder.client.connect(two.hub.address, PORT)
    intruder.client.loop_start()
    wait_for(intruder.client.is_connected, "the connection")
    for topic in ("fleet/edge-7/genre/results", "genre/results", "fleet/edge-7/link", "fleet/edge-8/genre/pcm/r", "x"):
        assert intruder.publish(topic, b"forged") == 135, topic
    assert intruder.publish("fleet/edge-8/genre/events", b"own") < 128
    intruder.subscribe("#")
    client = source(two, "edge-7")
    send(client, result("radio1", 400.0))
    wait_for(lambda: any("8820000/" in each for each in upstream.ids("edge-7")), "a result that it must not see")
    intruder.subscribe("sync/only")
    assert not intruder.received
    client.close()
    intruder.close()


def test_a_viewer_writes_nothing_not_even_below_its_own_name(two: FleetOfTwo, upstream: Upstream) -> None:
    for topic in ("fleet/wall/genre/results", "fleet/wall/link", "fleet/edge-7/genre/results", "genre/results"):
        assert upstream.client.publish(topic, b"forged") == 135, topic


def windows(first: int, count: int) -> list[object]:
    return [result("radio1", 1000.0 + 1.5 * (first + i)) for i in range(count)]


def names(first: int, count: int) -> list[str]:
    return [each.id for each in windows(first, count)]  # type: ignore[attr-defined]


def in_order_once(ids: list[str], expected: list[str]) -> None:
    """Every id came, in order of its first arrival; copies are allowed and carry the same id."""
    firsts = list(dict.fromkeys(each for each in ids if each in set(expected)))
    assert firsts == expected


def test_an_uplink_that_was_down_loses_nothing_and_keeps_the_order(two: FleetOfTwo, upstream: Upstream) -> None:
    """The cable is pulled in the middle, both ends notice nothing at first; the other box goes on undisturbed."""
    client, other = source(two, "edge-7"), source(two, "edge-8")
    send(client, *windows(0, 50))
    two.network.pull("edge-7")
    # The box's own side of its cable is down for us too: its services sit on the box, so we publish from inside.
    inside = InsideBox(two, "edge-7")
    inside.publish(windows(50, 400))
    send(other, *windows(0, 20))
    wait_for(lambda: names(19, 1)[0] in upstream.ids("edge-8"), "the other box's results meanwhile")
    wait_for(lambda: upstream.on(fleet.link("edge-7"))[-1:] == [b"0"], "the will of the bridge", 60)
    two.network.plug("edge-7")
    wait_for(lambda: names(449, 1)[0] in upstream.ids("edge-7"), "the last result", 90)
    in_order_once(upstream.ids("edge-7"), names(0, 450))
    assert upstream.on(fleet.link("edge-7"))[-1] == b"1"
    client.client.loop_stop()
    other.close()


def test_killing_the_boxs_broker_while_the_uplink_is_down_keeps_what_waits(two: FleetOfTwo, upstream: Upstream) -> None:
    two.network.pull("edge-7")
    inside = InsideBox(two, "edge-7")
    store = two.boxes["edge-7"].log.parent / "mosquitto.db"
    inside.publish(windows(2000, 100))
    before = store.stat().st_mtime_ns
    inside.publish([status("fetcher", boot="b2")])
    wait_for(lambda: store.stat().st_mtime_ns > before, "the store is written, at most a second later")
    two.boxes["edge-7"].kill()
    two.boxes["edge-7"].start()
    two.network.plug("edge-7")
    inside.publish(windows(2100, 20))
    wait_for(lambda: names(2119, 1)[0] in upstream.ids("edge-7"), "the last result", 90)
    in_order_once(upstream.ids("edge-7"), names(2000, 120))


def test_a_restart_of_the_upstream_broker_loses_nothing_that_boxes_send(two: FleetOfTwo, upstream: Upstream) -> None:
    client = source(two, "edge-8")
    send(client, *windows(3000, 50))
    wait_for(lambda: names(3049, 1)[0] in upstream.ids("edge-8"), "the results before")
    two.hub.stop()
    send(client, *windows(3050, 100))
    two.hub.start()
    wait_for(lambda: names(3149, 1)[0] in upstream.ids("edge-8"), "the last result", 90)
    in_order_once(upstream.ids("edge-8"), names(3000, 150))
    client.close()


class InsideBox:
    """Publishes on a box from the box itself: for while its cable is pulled."""

    def __init__(self, two: FleetOfTwo, box: str) -> None:
        self._two, self._box = two, box

    def publish(self, things: list[object]) -> None:
        import subprocess
        import sys

        lines = [json.dumps([m.topic, m.payload.decode(), m.retain]) for m in sent(Topics(), *things)]  # type: ignore[arg-type]
        argv = [*self._two.network.prefix(self._box), sys.executable, "-c", INSIDE, str(LOCAL_PORT)]
        subprocess.run(argv, input="\n".join(lines), text=True, check=True, timeout=60)


INSIDE = """
import json, sys
from services.mqtt.client import MqttClient
from services.contract.messages import Message
from services.settings.schema import Broker
mqtt = MqttClient(Broker(port=int(sys.argv[1])), "inside")
mqtt.start()
mqtt.wait_connected(20)
for line in sys.stdin:
    topic, payload, retain = json.loads(line)
    assert mqtt.publish_and_wait(Message(topic, payload.encode(), retain), 10).accepted
mqtt.stop()
"""


# --- values -----------------------------------------------------------------------------------------------------------


def take(seen: Fleet, topic: str, payload: bytes) -> None:
    from paho.mqtt.client import topic_matches_sub

    next(handle for filter_, handle in seen.takers.items() if topic_matches_sub(filter_, topic))(
        Message(topic, payload)
    )


def test_a_box_is_told_from_another_and_its_troubles_are_named() -> None:
    seen = Fleet("genre")
    a, b = fleet.topics("genre", "a"), fleet.topics("genre", "b")
    for topics in (a, b):
        take(seen, topics.results, result("radio1").to_json())
        take(seen, topics.status("inference", "1"), status("inference").to_json())
    take(seen, a.results, result("radio1").to_json())
    assert [(box.name, box.results, box.duplicates, box.online) for box in seen.boxes()] == [
        ("a", 1, 1, 1),
        ("b", 1, 0, 1),
    ]
    assert [box.problem(30) for box in seen.boxes()] == ["", ""]
    take(seen, fleet.link("a"), b"0")
    take(seen, b.status("inference", "1"), status("inference", "offline").to_json())
    assert "uplink is down" in seen.boxes()[0].problem(30)
    assert seen.boxes()[1].problem(30) == "no inference is running"
    take(seen, b.status("inference", "1"), b"")
    assert "no result for" in seen.boxes()[1].problem(-1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bridge", "--box", "a/b", "--upstream", "h:1"], "is no name"),
        (["bridge", "--box", "a", "--upstream", "h"], "is no HOST:PORT"),
        (["bridge", "--box", "a", "--upstream", "h:70000"], "is no HOST:PORT"),
        (["bridge", "--box", "a", "--upstream", "h:1\nallow_anonymous true:1"], "is no HOST:PORT"),
        (["fleet", "box", "a+b"], "is no name"),
        (["fleet", "box", "wall"], "is a viewer already"),
        (["fleet", "remove", "nobody"], "there is no user 'nobody'"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    folder = ["--folder", str(tmp_path / "f")]
    for made in (["init", "--host", "h"], ["viewer", "wall"]):
        assert CliRunner().invoke(command, ["fleet", *made, *folder]).exit_code == 0
    files = ["--password-file", str(tmp_path / "f/passwords/wall"), "--ca-file", str(tmp_path / "f/ca.crt")]
    conf = ["--conf", str(tmp_path / "m.conf")]
    done = CliRunner().invoke(command, [*words, *(files + conf if words[0] == "bridge" else folder)])
    assert isinstance(done.exception, UsageError)
    assert said in str(done.exception) and "\n" not in str(done.exception)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [("password", "", "holds no password"), ("password", "two words\n", "holds no password"),
     ("ca", "no certificate", "is no certificate"), ("conf", None, "can't be read"), ("ca", None, "can't be read")],
)  # fmt: skip
def test_a_wrong_file_for_the_bridge_is_one_line(file: str, content: str | None, said: str, tmp_path: Path) -> None:
    files = {"password": "secret\n", "ca": "-----BEGIN CERTIFICATE-----\n", "conf": "listener 1883 127.0.0.1\n"}
    for name, text in {**files, file: content}.items():
        if text is not None:
            (tmp_path / name).write_text(text)
    done = CliRunner().invoke(
        command,
        ["bridge", "--box", "a", "--upstream", "h:1", "--password-file", str(tmp_path / "password"), "--ca-file",
         str(tmp_path / "ca"), "--conf", str(tmp_path / "conf")],
    )  # fmt: skip
    assert isinstance(done.exception, UsageError)
    assert said in str(done.exception) and "\n" not in str(done.exception)


def test_a_second_bridge_replaces_the_first_and_its_password_is_not_for_everyone(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "ca").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "conf").write_text("listener 1883 127.0.0.1\n")
    for upstream in ("one:1", "two:2"):
        done = CliRunner().invoke(
            command,
            ["bridge", "--box", "a", "--upstream", upstream, "--password-file", str(tmp_path / "password"),
             "--ca-file", str(tmp_path / "ca"), "--conf", str(tmp_path / "conf")],
        )  # fmt: skip
        assert done.exit_code == 0 and "secret" not in done.output
    assert (tmp_path / "conf").read_text().count("include_dir") == 1
    text = (tmp_path / "bridge.d" / "bridge.conf").read_text()
    assert "address two:2" in text and "one:1" not in text
    assert (tmp_path / "bridge.d" / "bridge.conf").stat().st_mode & 0o077 == 0
