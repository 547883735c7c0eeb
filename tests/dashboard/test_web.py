from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

from broker.command import broker as broker_command
from broker.folder import BrokerFolder
from services.contract.chunks import Chunk, ChunkHeader
from services.contract.messages import Message
from services.contract.tensors import MelTensor
from services.contract.topics import Topics
from services.contract.windows import SAMPLE_RATE, WINDOW
from services.dashboard.history.store import History
from services.mqtt.client import MqttClient
from services.process import http_endpoint
from services.settings.schema import Broker
from services.text import clean
from tests.broker.mosquitto import PROGRAM, Mosquitto, free_port, stay_this_user, wait_for
from tests.dashboard.conftest import OURS, PASSWORD, Running
from tests.dashboard.pretend import event, ledger, result, sent, status

HOSTILE = "<img src=x onerror=alert(1)>\u202e\u0000'\"</script>"


def updates(url: str, seconds: float) -> Iterator[dict]:
    """Yield the live updates of some seconds."""
    until = time.monotonic() + seconds
    with requests.get(url + "/api/live", stream=True, timeout=10) as answer:
        for line in answer.iter_lines(chunk_size=1):
            if line.startswith(b"data: "):
                yield json.loads(line[6:])
            if time.monotonic() > until:
                return


def test_a_result_is_on_the_page_within_a_second(dashboard: Running) -> None:
    dashboard.send(result("radio1", title="So What", artist="Miles Davis"))
    sent_at = time.monotonic()
    shown = wait_for(lambda: dashboard.stream("radio1").get("window") and dashboard.stream("radio1"), "radio1 is shown")
    assert time.monotonic() - sent_at < 8, "pushed, and not with the history every ten seconds"
    assert (shown["genre"], shown["title"], shown["artist"]) == ("jazz", "So What", "Miles Davis")
    assert dashboard.state("radio1") == "playing"
    assert dashboard.state("radio2") == "waiting"


def test_a_browser_gets_all_at_first_and_then_only_what_changed(dashboard: Running) -> None:
    dashboard.send(result("radio1"), result("radio2"))
    live = updates(dashboard.url, 8)
    first = next(live)
    assert first["full"] and {stream["name"] for stream in first["streams"]} == {"radio1", "radio2"}
    dashboard.send(result("radio2", 1.5))
    later = [update for update, _ in zip(live, range(4), strict=False)]
    assert {stream["name"] for update in later for stream in update["streams"]} == {"radio2"}


def test_results_that_cease_raise_the_alarm_and_clear_it_when_they_come_back(dashboard: Running) -> None:
    dashboard.send(result("radio1"))
    wait_for(lambda: dashboard.state("radio1") == "stopped", "radio1 stopped")
    alarms = {alarm["stream"]: alarm for alarm in dashboard.live_state()["alarms"]}
    assert alarms["radio1"]["level"] == "alarm" and alarms["radio1"]["since"] is not None
    dashboard.send(result("radio1", 1.5))
    wait_for(lambda: dashboard.state("radio1") == "playing", "radio1 plays")
    assert "radio1" not in {alarm["stream"] for alarm in dashboard.live_state()["alarms"]}


def test_an_error_event_says_why_a_stream_cannot_be_heard(dashboard: Running) -> None:
    dashboard.send(event("radio1", "error", reason="playlist: 404 Not Found"))
    wait_for(lambda: dashboard.state("radio1") == "failed", "radio1 failed")
    assert any("404" in alarm["text"] for alarm in dashboard.live_state()["alarms"])


def test_a_service_without_any_replica_online_is_an_alarm_and_restarts_are_counted(dashboard: Running) -> None:
    dashboard.send(status("inference", boot="a"), status("inference", "offline", boot="a", instance="2"))
    dashboard.send(status("inference", boot="b"))
    parts = wait_for(lambda: [p for p in dashboard.live_state().get("parts", []) if p["boot_id"] == "b"], "the restart")
    assert parts[0]["restarts"] == 1
    assert not any("inference" in alarm["text"] for alarm in dashboard.live_state()["alarms"])
    dashboard.send(status("inference", "offline", boot="b"))
    wait_for(lambda: any("No inference" in alarm["text"] for alarm in dashboard.live_state()["alarms"]), "the alarm")


def test_a_ledger_that_does_not_add_up_is_an_alarm(dashboard: Running) -> None:
    dashboard.send(ledger("radio1", 60, gap_s=4))
    wait_for(lambda: dashboard.stream("radio1").get("ledger"), "the ledger")
    assert dashboard.stream("radio1")["ledger"]["gap"] == 4.0
    dashboard.send(ledger("radio1", 60, classified=1))
    wait_for(lambda: any("add up" in alarm["text"] for alarm in dashboard.live_state()["alarms"]), "the alarm")


def test_seconds_that_are_given_up_raise_the_alarm_and_gaps_of_the_source_a_note(dashboard: Running) -> None:
    dashboard.send(result("radio1"), ledger("radio1", 60), result("radio2"), ledger("radio2", 60))
    wait_for(lambda: dashboard.stream("radio2").get("ledger"), "the ledgers")
    assert dashboard.live_state()["alarms"] == []
    second = 22_050
    dashboard.send(ledger("radio1", 70, classified=60 * second, lost=10 * second, causes={"stale": 10 * second}))
    dashboard.send(ledger("radio2", 70, gap_s=10))
    alarms = wait_for(
        lambda: len(dashboard.live_state()["alarms"]) == 2 and dashboard.live_state()["alarms"], "the alarms"
    )
    assert [(alarm["stream"], alarm["level"]) for alarm in alarms] == [("radio1", "alarm"), ("radio2", "note")]
    assert "stale" in alarms[0]["text"] and "http-404" in alarms[1]["text"]


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_lost_broker_shows_within_five_seconds_and_comes_back_by_itself(
    own_mosquitto: Mosquitto, settings_for: Callable[..., Broker], start_dashboard: Callable[..., Running], how: str
) -> None:
    dashboard = start_dashboard(settings_for(own_mosquitto))
    dashboard.send(result("radio1"))
    wait_for(lambda: dashboard.stream("radio1"), "radio1")
    if how == "killed":
        own_mosquitto.kill()
    else:
        own_mosquitto.process.send_signal(signal.SIGSTOP)
    lost_at = time.monotonic()
    wait_for(lambda: not dashboard.live_state()["connected"], "the loss")
    took = time.monotonic() - lost_at
    assert took < 15, f"{took:.1f} s: five, and what a busy machine adds"
    print(f"{how}: lost after {took:.1f} s")
    assert dashboard.get("/healthz").status_code == 503
    assert any("broker" in alarm["text"] for alarm in dashboard.live_state()["alarms"])
    if how == "killed":
        own_mosquitto.start()
    else:
        own_mosquitto.process.send_signal(signal.SIGCONT)
    wait_for(lambda: dashboard.live_state()["connected"], "the return")
    wait_for(lambda: dashboard.mqtt.connected, "the test's own client")
    dashboard.send(result("radio1", 1.5))
    wait_for(lambda: dashboard.stream("radio1")["results"] == 2, "results come again")


def test_strange_messages_and_hostile_text_change_nothing_but_text(dashboard: Running) -> None:
    topics = dashboard.topics
    for payload in (b"\xff\xfe", b"[]", b"{}", b"null", b'{"stream": "../../etc"}', b"[" * 5000):
        for topic in (topics.results, topics.events, topics.ledger("x"), topics.status("x", "y")):
            dashboard.mqtt.publish_and_wait(Message(topic, payload), 5)
    dashboard.send(result("radio1", title=HOSTILE, artist=HOSTILE, model=HOSTILE, model_version=HOSTILE))
    dashboard.send(event("radio1", "gap", cause=HOSTILE, reason=HOSTILE))
    dashboard.send(status("inference", model=HOSTILE))
    shown = wait_for(lambda: dashboard.stream("radio1").get("window") and dashboard.stream("radio1"), "radio1")
    assert shown["title"] == clean(HOSTILE)
    assert dashboard.get("/metrics").status_code == 200
    assert dashboard.process.poll() is None


def test_a_stream_of_another_box_is_shown_and_what_an_old_one_left_behind_is_not(dashboard: Running) -> None:
    dashboard.send(ledger("gone-last-year", 60), result("elsewhere"))
    wait_for(lambda: dashboard.state("elsewhere") == "playing", "elsewhere plays")
    assert dashboard.state("gone-last-year") == ""
    assert wait_for(lambda: dashboard.state("elsewhere") == "stopped", "it stops, and is still shown")
    dashboard.mqtt.publish(Message(dashboard.topics.ledger("gone-last-year"), b"", retain=True))


def test_a_flood_of_stream_names_is_bounded(dashboard: Running) -> None:
    for i in range(2_300):
        for message in sent(dashboard.topics, event(f"s{i}", "started")):
            dashboard.mqtt.publish(message)
    wait_for(lambda: len(dashboard.live_state()["states"]) >= 2_000, "many streams", 30)
    assert len(dashboard.live_state()["states"]) == 2_000


def test_history_is_kept_and_answers_at_the_resolution_asked_for(dashboard: Running) -> None:
    for i in range(8):
        dashboard.send(result("radio1", i * 1.5, "jazz" if i < 4 else "rock", 0.9, title=f"t{i // 4}"))

    def shares() -> dict:
        return dashboard.get("/api/shares?by=hour&count=3").json()["slices"][-1]

    wait_for(shares, "the history")
    runs = dashboard.get("/api/timeline?seconds=600&steps=300").json()["streams"]["radio1"]
    assert runs and all(len(run) == 5 and run[4] in ("music", "silence") for run in runs)
    assert dashboard.get("/api/timeline?seconds=600&steps=300&stream=radio2").json()["streams"] == {}
    for wrong in ("seconds=-1", "steps=1e9", "seconds=nan", "end=abc", "seconds=inf"):
        assert dashboard.get(f"/api/timeline?{wrong}").status_code == 400, wrong
    assert dashboard.get("/api/events?stream=%27%3BDROP").json() == {"events": []}


def tensor(topics: Topics, stream: str) -> Message:
    """Return a tensor message of two windows."""
    import numpy as np

    header = ChunkHeader(
        stream=stream, epoch=0, first_sample=SAMPLE_RATE, windows=2, hop=33_000, received_at=1.0, observed_at=1.0
    )
    chunk = Chunk(header, np.zeros(WINDOW + 33_000, np.int16), topics.acks("f"))
    features = np.random.default_rng(1).random((2, 187, 96)).astype(np.float32)
    return MelTensor.of(chunk, {"features": features}, (-20.0, -20.0), "musicnn", "0123456789abcdef").to_message(topics)


def test_what_happened_before_a_restart_is_still_shown(broker: Broker, start_dashboard: Callable[..., Running]) -> None:
    def prepare(folder: Path) -> None:
        history = History(folder / "state" / "history.db", 30, 512)
        history.write([], [(time.time() - 60, event("radio1", "error", reason="it was gone"))])
        history.close()

    dashboard = start_dashboard(broker, ("radio1",), prepare)
    assert [each["reason"] for each in dashboard.live_state()["events"]] == ["it was gone"]
    assert dashboard.state("radio1") == "waiting"  # of now it says nothing
    dashboard.send(event("radio1", "gap", seconds=1.0))
    wait_for(
        lambda: [each["kind"] for each in dashboard.live_state()["events"]] == ["error", "gap"], "both, in their order"
    )


def test_the_spectrogram_is_a_png_and_only_read_while_someone_looks(dashboard: Running) -> None:
    dashboard.send(result("radio1"))
    wait_for(lambda: dashboard.stream("radio1"), "radio1")
    # Nobody looked yet: the tensor reaches nobody (16 is "no matching subscribers").
    assert dashboard.mqtt.publish_and_wait(tensor(dashboard.topics, "radio1"), 5).code == 16
    assert dashboard.get("/api/spectrogram/radio1").status_code == 204
    assert dashboard.get("/api/spectrogram/nobody").status_code == 404

    def picture() -> requests.Response | None:
        dashboard.mqtt.publish_and_wait(tensor(dashboard.topics, "radio1"), 5)
        answer = dashboard.get("/api/spectrogram/radio1")
        return answer if answer.status_code == 200 else None

    answer = wait_for(picture, "a picture")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-recipe"] == "musicnn"
    import io

    from matplotlib.image import imread

    assert imread(io.BytesIO(answer.content), format="png").shape[:2] == (96, 187)


def test_metrics_are_what_prometheus_reads(dashboard: Running) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    dashboard.send(result("radio1"), ledger("radio1", 60), status("fetcher"))
    wait_for(lambda: dashboard.stream("radio1").get("ledger"), "radio1")
    families = {family.name: family for family in text_string_to_metric_families(dashboard.get("/metrics").text)}
    assert families["genre_results"].samples[0].labels == {"stream": "radio1", "genre": "jazz", "kind": "music"}
    assert families["genre_ledger_adds_up"].samples[0].value == 1
    for name in (
        "genre_result_latency_seconds",
        "genre_stream_lag_seconds",
        "genre_part_up",
        "genre_alarms",
        "genre_broker_connected",
    ):
        assert name in families, name


# --- who may do what --------------------------------------------------------------------------------------------------


def test_everything_carries_the_headers_that_keep_foreign_content_out(still: Running) -> None:
    for path in ("/", "/page/main.js", "/page/style.css", "/api/board", "/nothing"):
        headers = still.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'"), path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
    page = still.get("/").text
    assert "http://" not in page.replace("http://www.w3.org", "") and "//" not in page.replace("https://…", "").replace(
        "<!--", ""
    )


def test_no_path_leads_out_of_the_page(still: Running) -> None:
    paths = [
        "/page/../service.py",
        "/page/%2e%2e/service.py",
        "/page/..%2fservice.py",
        "/page/.js",
        "/page//etc/passwd",
    ]
    for path in (*paths, "/page/%00.js", "/..%2f..%2fpyproject.toml", "/page/nothing.js"):
        with socket.create_connection(("127.0.0.1", int(still.url.rsplit(":", 1)[1])), 5) as raw:
            raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda raw=raw: raw.recv(65_536), b""))
        assert answer.split(b" ")[1] in (b"404", b"400"), (path, answer[:200])


def test_another_name_in_the_host_header_is_refused(still: Running) -> None:
    for host, code in (("evil.example", 421), ("localhost", 200), ("127.0.0.1:1", 200), ("[::1]:80", 200), ("", 421)):
        assert still.get("/api/board", headers={"host": host}).status_code == code, host


def test_changes_need_the_password_and_our_own_page(dashboard: Running) -> None:
    new = {"name": "radio3", "url": "http://example.org/3.m3u8"}

    def post(session: requests.Session, **headers: str) -> requests.Response:
        return session.post(f"{dashboard.url}/api/streams", json=new, headers=headers, timeout=10)

    assert post(requests.Session(), **OURS).status_code == 401
    session = dashboard.logged_in()
    assert post(session).status_code == 403, "a form of another site can't send our header"
    assert post(session, **OURS, origin="https://evil.example").status_code == 403
    assert post(session, **OURS, **{"sec-fetch-site": "cross-site"}).status_code == 403
    assert "radio3" not in dashboard.config.read_text()
    assert post(session, **OURS, origin=dashboard.url).status_code == 200
    cookie = next(iter(session.cookies))
    assert cookie.has_nonstandard_attr("HttpOnly") and cookie.get_nonstandard_attr("SameSite").lower() == "strict"
    session.post(f"{dashboard.url}/api/logout", headers=OURS, timeout=10)
    assert post(session, **OURS).status_code == 401
    program = {"authorization": f"Bearer {PASSWORD}"}
    assert post(requests.Session(), **program).status_code == 400, "logged in, but the name is taken"


def test_streams_are_added_paused_resumed_and_removed_from_the_page(dashboard: Running) -> None:
    session = dashboard.logged_in()

    def post(path: str, body: dict | None = None) -> requests.Response:
        return session.post(dashboard.url + path, json=body or {}, headers=OURS, timeout=10)

    assert post("/api/streams", {"name": "radio3", "url": "http://example.org/3.m3u8?token=x"}).status_code == 200
    wait_for(lambda: dashboard.state("radio3") == "waiting", "radio3 appears")
    assert post("/api/streams/radio3/pause").status_code == 200
    wait_for(lambda: dashboard.state("radio3") == "paused", "radio3 is paused")
    assert post("/api/streams/radio3/resume").status_code == 200
    wait_for(lambda: dashboard.state("radio3") == "waiting", "radio3 goes on")
    assert "token=x" not in dashboard.get("/api/board").text, "URLs may hold secrets: not for viewers"
    assert session.get(dashboard.url + "/api/streams", timeout=10).json()["streams"][2]["url"].endswith("token=x")
    assert dashboard.get("/api/streams").status_code == 401
    assert post("/api/streams/radio3/remove").status_code == 200
    assert dashboard.config.read_text().startswith("# a person's own words")
    assert "radio3" not in dashboard.config.read_text()
    for wrong, word in (
        ({"name": "a/b", "url": "http://x"}, "name"),
        ({"name": "n", "url": "file:///etc/passwd"}, "url"),
        ({"name": "n"}, "url"),
        ({"name": "radio1", "url": "http://x"}, "already"),
    ):
        answer = post("/api/streams", wrong)
        assert answer.status_code == 400 and word in answer.json()["error"], answer.text
    assert post("/api/streams/radio9/pause").status_code == 400
    assert post("/api/streams/radio1/explode").status_code == 404


def test_guessing_the_password_gets_slow(dashboard: Running) -> None:
    tries = [
        requests.post(dashboard.url + "/api/login", json={"password": f"{i}"}, headers=OURS, timeout=10).status_code
        for i in range(7)
    ]
    assert tries[:4] == [401] * 4 and 429 in tries[4:]
    right = requests.post(dashboard.url + "/api/login", json={"password": PASSWORD}, headers=OURS, timeout=10)
    assert right.status_code == 429 and right.headers["retry-after"]


def test_a_strange_body_is_refused_and_nothing_falls_over(still: Running) -> None:
    headers = {**OURS, "content-type": "application/json"}
    for body in (b"", b"[]", b"\xff", b"[" * 9000, b'{"password": "\\ud800"}', b'{"password": {}}'):
        answer = requests.post(still.url + "/api/login", data=body, headers=headers, timeout=10)
        assert answer.status_code in (400, 401), (body[:20], answer.text)
    big = requests.post(still.url + "/api/login", data=b"x" * 100_000, headers=headers, timeout=10)
    assert big.status_code == 413


def test_where_looking_needs_a_login_nothing_is_shown_without(
    broker: Broker, start_dashboard: Callable[..., Running]
) -> None:
    dashboard = start_dashboard(broker, login_to_view=True)
    for path in (
        "/api/board",
        "/api/live",
        "/api/timeline",
        "/api/shares",
        "/api/events",
        "/metrics",
        "/api/spectrogram/x",
    ):
        assert dashboard.get(path).status_code == 401, path
    assert dashboard.logged_in().get(dashboard.url + "/api/board", timeout=10).status_code == 200
    assert dashboard.get("/metrics", headers={"authorization": f"Bearer {PASSWORD}"}).status_code == 200


def test_an_account_that_may_only_read_is_enough(
    tmp_path: Path, start_dashboard: Callable[..., Running], buses: Callable[..., MqttClient]
) -> None:
    if PROGRAM is None:
        pytest.skip("mosquitto is not installed")
    folder, port = tmp_path / "broker", free_port()
    BrokerFolder(folder).set_up(["localhost", "127.0.0.1"], port, None, tmp_path / "state", False)
    made = CliRunner().invoke(broker_command, ["user", "wall", "--role", "viewer", "--folder", str(folder)])
    assert made.exit_code == 0, made.output
    stay_this_user(folder / "mosquitto.conf")
    mosquitto = Mosquitto(folder / "mosquitto.conf", port)
    try:

        def account(name: str) -> Broker:
            secret = folder / "passwords" / name
            return Broker(host="localhost", port=port, username=name, password_file=secret, ca_file=folder / "ca.crt")

        dashboard = start_dashboard(account("wall"), ("radio1",))
        inference = buses(account("inference"), "inference")
        for message in sent(Topics(), result("radio1")):
            assert inference.publish_and_wait(message, 5).code == 0
        wait_for(lambda: dashboard.state("radio1") == "playing", "radio1 plays")
        assert dashboard.get("/api/spectrogram/radio1").status_code == 204, "pictures take the right to read features"
        assert dashboard.process.poll() is None
    finally:
        mosquitto.stop()


def test_it_writes_nothing_on_the_bus_unless_told_to(
    broker: Broker, start_dashboard: Callable[..., Running], buses: Callable[..., MqttClient]
) -> None:
    seen: list[str] = []
    listener = buses(broker, "listener")
    listener.subscribe("#", lambda d: (seen.append(d.message.topic), listener.ack(d)))
    dashboard = start_dashboard(broker, ("radio1",))
    dashboard.send(result("radio1"))
    wait_for(lambda: dashboard.state("radio1") == "playing", "radio1 plays")
    dashboard.process.terminate()
    dashboard.process.wait(15)
    root = dashboard.topics.root
    ours = {topic for topic in seen if topic.startswith(f"{root}/") or f"_{root}_" in topic}  # others share the broker
    assert ours == {dashboard.topics.results}


def test_a_taken_port_is_said_on_one_line(still: Running) -> None:
    import subprocess
    import sys

    argv = [sys.executable, "-m", "services.cli", "dashboard", "--config", str(still.config)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "dashboard.port" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_two_colons_are_every_address_of_both_kinds(broker: Broker, start_dashboard: Callable[..., Running]) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    dashboard = start_dashboard(broker, host="::")  # it has answered at 127.0.0.1
    port = dashboard.url.rsplit(":", 1)[1]
    assert requests.get(f"http://[::1]:{port}/api/board", timeout=10).status_code == 200
    assert f"http://[::]:{port}/" in dashboard.log()


def test_the_metrics_of_a_service_may_listen_on_ipv6() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    port = free_port()
    http_endpoint.serve("::1", port)
    assert requests.get(f"http://[::1]:{port}/metrics", timeout=10).status_code == 200
