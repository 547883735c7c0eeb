"""The permission matrix, cell by cell, with real clients over TLS: allowed and denied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.access import ROLES
from broker.command import broker as command
from broker.folder import SERVICES, BrokerFolder
from tests.broker.mosquitto import Client, Mosquitto, free_port, stay_this_user

USERS = (
    "fetcher",
    "featurizer",
    "inference",
    "dashboard",
    "dashboard-spectrogram",
    "viewer",
    "bridge",
    "keeper",
    "home-assistant",
)
# w: may write, r: may read, b: both, -: neither. The columns are USERS.
MATRIX = {
    "genre/pcm/radio1":                 "w r - - - - - - -",
    "genre/mel/vgg16/radio1":           "- w r - r - - - -",
    "genre/acks/edge":                  "r w w - - - - - -",
    "genre/results":                    "- - w r r r w r r",
    "genre/events":                     "w - - r r r w r r",
    "genre/streams/radio1/now":         "- - - b b r w r r",
    "genre/streams/radio1/ledger":      "w - - r r r w r r",
    "genre/flat/radio1/confidence":     "- - - b b r w r r",
    "genre/status/fetcher/1":           "b r r r r r w r r",
    "genre/status/featurizer/1":        "r b r r r r w r r",
    "genre/status/inference/1":         "r r b r r r w r r",
    "genre/status/dashboard/1":         "r r r b b r w r r",
    "genre/dead":                       "w w w - - - - r -",
    "genre/doctor/fetcher":             "b - - - - - - - -",
    "genre/anything/else":              "- - - - - - - - -",
    "homeassistant/device/x/config":    "- - - b b - - - r",
    "homeassistant/status":             "- - - r r - - - b",
    "homeassistant/sensor/x":           "- - - - - - - - -",
    "$CONTROL/dynamic-security/v1":     "- - - - - - - - -",
}  # fmt: skip
SHARES = {
    "$share/featurizer-vgg16/genre/pcm/+": ("featurizer",),
    "$share/any-name/genre/pcm/radio1": ("featurizer",),
    "$share/inference-musicnn/genre/mel/vgg16/+": ("inference",),
    "$share/results/genre/results": (),
}
NOT_AUTHORISED = 135


def cell(topic: str, user: str) -> str:
    return MATRIX[topic].split()[USERS.index(user)]


@pytest.fixture(scope="module", params=["roles", "access lists of 1.6"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mosquitto, bool]:
    """Folder, broker, and whether subscribing itself needs a right."""
    from tests.broker.mosquitto import PROGRAM

    if PROGRAM is None:
        pytest.skip("mosquitto is not installed")
    folder, state = tmp_path_factory.mktemp("broker"), tmp_path_factory.mktemp("state")
    port = free_port()
    old = request.param != "roles"
    BrokerFolder(folder).set_up(["localhost", "127.0.0.1"], port, None, state, old)
    for user in set(USERS) - set(SERVICES):
        done = CliRunner().invoke(command, ["user", user, "--role", user, "--folder", str(folder)])
        assert done.exit_code == 0, done.output
    stay_this_user(folder / "mosquitto.conf")
    broker = Mosquitto(folder / "mosquitto.conf", port)
    request.addfinalizer(broker.stop)
    return folder, broker, not old


def test_the_matrix_names_every_role() -> None:
    assert set(USERS) == set(ROLES)


@pytest.mark.parametrize("user", USERS)
def test_may_publish_exactly_what_the_matrix_says(
    user: str, made: tuple[Path, Mosquitto, bool], clients: Callable[..., Client]
) -> None:
    folder, broker, _ = made
    client = clients(user, broker.port, folder)
    answers = {topic: client.publish(topic) for topic in MATRIX}
    allowed = {topic for topic, code in answers.items() if code < 128}
    assert allowed == {topic for topic in MATRIX if cell(topic, user) in "wb"}
    assert all(code == NOT_AUTHORISED for code in answers.values() if code >= 128)


@pytest.mark.parametrize("user", USERS)
def test_receives_exactly_what_the_matrix_says(
    user: str, made: tuple[Path, Mosquitto, bool], clients: Callable[..., Client]
) -> None:
    folder, broker, roles = made
    client = clients(user, broker.port, folder)
    answers = {topic: client.subscribe(topic) for topic in MATRIX}
    if roles:
        assert {t for t, code in answers.items() if code < 128} == {t for t in MATRIX if cell(t, user) in "rb"}
        for everything in ("#", "genre/#", "genre/+/+", "$SYS/#"):
            assert client.subscribe(everything) == NOT_AUTHORISED
    else:
        client.subscribe("#")
    for writer in USERS:
        source = clients(writer, broker.port, folder)
        for topic in MATRIX:
            if cell(topic, writer) in "wb":
                assert source.publish(topic) < 128
    assert client.topics() == sorted(topic for topic in MATRIX if cell(topic, user) in "rb")


@pytest.mark.parametrize("user", USERS)
def test_nobody_but_its_workers_joins_a_work_group(
    user: str, made: tuple[Path, Mosquitto, bool], clients: Callable[..., Client]
) -> None:
    folder, broker, roles = made
    if not roles:
        pytest.skip("Mosquitto 1.6 has no such right; docs/security.md says so")
    client = clients(user, broker.port, folder)
    for share, members in SHARES.items():
        assert (client.subscribe(share) < 128) == (user in members), share


def test_a_stranger_with_a_password_does_not_get_a_share_of_the_work(
    made: tuple[Path, Mosquitto, bool], clients: Callable[..., Client]
) -> None:
    folder, broker, roles = made
    if not roles:
        pytest.skip("Mosquitto 1.6 can't do that")
    group = "$share/featurizer-vgg16/genre/pcm/+"
    worker, stranger = clients("featurizer", broker.port, folder), clients("viewer", broker.port, folder)
    assert worker.subscribe(group) == 1
    assert stranger.subscribe(group) == NOT_AUTHORISED
    source = clients("fetcher", broker.port, folder)
    for number in range(20):
        assert source.publish("genre/pcm/radio1", str(number).encode()) == 0
    worker.topics()
    assert [int(message.payload) for message in worker.received] == list(range(20))


def test_a_wrong_password_and_no_password_are_refused(made: tuple[Path, Mosquitto, bool]) -> None:
    folder, broker, _ = made
    for password in ("wrong", None):
        client = Client("intruder")
        client.client.tls_set(ca_certs=str(folder / "ca.crt"))
        if password:
            client.client.username_pw_set("fetcher", password)
        assert client.connect(broker.port) in (134, 135)
        client.close()


@pytest.mark.parametrize("old", [False, True], ids=["roles", "access lists of 1.6"])
def test_rights_follow_the_root_and_home_assistants_prefix_that_init_was_given(
    old: bool, tmp_path: Path, brokers: Callable[..., Mosquitto], clients: Callable[..., Client]
) -> None:
    port, folder = free_port(), tmp_path / "broker"
    where = ["--folder", str(folder)]
    again = ["init", *where, "--host", "localhost", "--host", "127.0.0.1", "--port", str(port)]
    again += ["--state", str(tmp_path), *(["--mosquitto-1.6"] if old else [])]
    made = [*again, "--root", "attic/genre", "--home-assistant-prefix", "ha/discovery"]
    for command_line in (made, again, ["user", "home-assistant", "--role", "home-assistant", *where]):
        done = CliRunner().invoke(command, command_line)
        assert done.exit_code == 0, done.output
    stay_this_user(folder / "mosquitto.conf")
    brokers(folder / "mosquitto.conf", port)
    dashboard, home = clients("dashboard", port, folder), clients("home-assistant", port, folder)
    for topic in ("ha/discovery/device/+/config", "attic/genre/streams/+/now"):
        assert home.subscribe(topic) < 128
    for topic in ("ha/discovery/device/x/config", "attic/genre/streams/radio1/now"):
        assert dashboard.publish(topic) < 128
    for topic in ("homeassistant/device/x/config", "genre/streams/radio1/now", "attic/homeassistant/device/x/config"):
        assert dashboard.publish(topic) == NOT_AUTHORISED
    assert home.topics() == ["attic/genre/streams/radio1/now", "ha/discovery/device/x/config"]
    assert dashboard.subscribe("ha/discovery/status") < 128 and home.publish("ha/discovery/status") < 128
