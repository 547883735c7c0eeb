"""The doctor names the very layer at which things stop; each fault is a real one."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.folder import BrokerFolder
from broker.mosquitto_conf import local_config
from services.doctor import broker, engine, hls, machine
from services.doctor.command import diagnose, doctor
from services.doctor.stages import Concern, Finding, Part, examine
from services.errors import GenreError
from services.settings.schema import Broker, Hls, Inference, Stream
from tests.broker.mosquitto import Mosquitto, free_port, stay_this_user


def states(part: Part) -> dict[str, str]:
    return {finding.stage: finding.state for finding in examine([part])}


def stop_of(part: Part) -> Finding:
    return next(finding for finding in examine([part]) if finding.state == "failed")


@pytest.fixture
def lan(tmp_path: Path, brokers: Callable[[Path, int], Mosquitto]) -> Broker:
    state = tmp_path / "state"
    state.mkdir()
    port = free_port()
    BrokerFolder(tmp_path / "b").set_up(["localhost"], port, None, state, False)
    stay_this_user(tmp_path / "b/mosquitto.conf")
    brokers(tmp_path / "b/mosquitto.conf", port)
    secret, ca = tmp_path / "b/passwords/fetcher", tmp_path / "b/ca.crt"
    return Broker(host="localhost", port=port, username="fetcher", password_file=secret, ca_file=ca)


def test_everything_right_is_all_ok(lan: Broker) -> None:
    assert states(broker.part(lan)) == dict.fromkeys(("DNS", "TCP", "TLS", "MQTT", "permissions", "round trip"), "ok")


def test_an_open_local_broker_is_all_ok(tmp_path: Path, brokers: Callable[[Path, int], Mosquitto]) -> None:
    port = free_port()
    (tmp_path / "m.conf").write_text(local_config(port, tmp_path))
    brokers(tmp_path / "m.conf", port)
    assert set(states(broker.part(Broker(port=port))).values()) == {"ok"}


def test_an_unknown_host_stops_at_dns() -> None:
    found = stop_of(broker.part(Broker(host="no-such-host.invalid")))
    assert (found.stage, "has no address" in found.text) == ("DNS", True)


def test_a_closed_port_stops_at_tcp_and_the_rest_is_not_tried() -> None:
    chain = broker.part(Broker(port=free_port()))
    assert states(chain) == {
        "DNS": "ok", "TCP": "failed", "MQTT": "not tried", "permissions": "not tried", "round trip": "not tried",
    }  # fmt: skip
    assert "nobody listens" in stop_of(chain).text


def test_a_foreign_certificate_a_wrong_name_and_no_tls_stop_at_tls(
    lan: Broker, tmp_path: Path, brokers: Callable[[Path, int], Mosquitto]
) -> None:
    BrokerFolder(tmp_path / "other").set_up(["localhost"], 1, None, tmp_path, False)
    found = stop_of(broker.part(lan.model_copy(update={"ca_file": tmp_path / "other/ca.crt"})))
    assert (found.stage, "copy the broker's ca.crt" in found.remedy) == ("TLS", True)
    found = stop_of(broker.part(lan.model_copy(update={"host": "127.0.0.1"})))
    assert (found.stage, "wrong name" in found.text, "broker.host" in found.remedy) == ("TLS", True, True)
    port = free_port()
    (tmp_path / "plain.conf").write_text(local_config(port, tmp_path))
    brokers(tmp_path / "plain.conf", port)
    found = stop_of(broker.part(lan.model_copy(update={"port": port})))
    assert (found.stage, "does not speak TLS there" in found.text) == ("TLS", True)


def test_a_wrong_password_stops_at_mqtt_and_is_not_told(lan: Broker, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("my-wrong-password\n")
    found = stop_of(broker.part(lan.model_copy(update={"password_file": tmp_path / "wrong"})))
    assert found.stage == "MQTT"
    assert "my-wrong-password" not in found.text + found.remedy


def test_a_user_without_rights_stops_at_permissions(lan: Broker, tmp_path: Path) -> None:
    # The fetcher's password under another service's topic: the ACL decides by user, so ask for another's topic.
    found = stop_of(broker.part(lan.model_copy(update={"root": "elsewhere"})))
    assert (found.stage, "may not publish" in found.text) == ("permissions", True)


def test_a_server_that_says_nothing_stops_at_mqtt() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = stop_of(broker.part(Broker(port=silent.getsockname()[1])))
    assert found.stage == "MQTT"


def test_a_stream_that_is_a_web_page_stops_at_its_stage(tmp_path: Path) -> None:
    from services.origin.server import Origin

    (tmp_path / "page.m3u8").write_text("<html>hello</html>")
    with Origin(tmp_path) as origin:
        chain = hls.part(Stream(name="r", url=f"{origin.url}/page.m3u8"), Hls())
        assert states(chain) == {"DNS": "ok", "TCP": "ok", "fetch and decode": "failed"}
        chain = hls.part(Stream(name="r", url=f"{origin.url}/missing.m3u8"), Hls())
        assert "404" in stop_of(chain).text


def test_a_real_stream_is_heard(tmp_path: Path) -> None:
    from services.origin.packager import Packaging, package_file
    from services.origin.server import Origin
    from tests.origin.conftest import write_flac

    package_file(write_flac(tmp_path / "tone.flac", 5), tmp_path, "tone", Packaging(2.0))
    with Origin(tmp_path) as origin:
        found = list(examine([hls.part(Stream(name="r", url=f"{origin.url}/tone.m3u8"), Hls())]))
    assert [finding.state for finding in found] == ["ok"] * 3
    assert "first segment: 2" in found[-1].text or "first segment: 1.9" in found[-1].text


def test_a_clock_in_the_past_fails_and_one_that_nobody_keeps_is_noted() -> None:
    with pytest.raises(GenreError, match="timedatectl"):
        machine.clock(0.0)
    with pytest.raises(Concern, match="not synchronised"):
        machine.clock(1.9e9, False)
    assert machine.clock(1.9e9, True).endswith("synchronised")


def test_a_slow_power_mode_of_a_jetson_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvpmodel"
    tool.write_text('#!/bin/sh\necho "NV Power Mode: MAXQ"\necho 1\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(Concern, match="MAXQ"):
        machine.power()
    tool.write_text('#!/bin/sh\necho "NV Power Mode: MAXN"\necho 0\n')
    assert machine.power() == "MAXN"


def test_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LEAST_FREE_MB", 10**12)
    with pytest.raises(GenreError, match="MB free"):
        machine.disk(tmp_path / "not" / "there")


def test_a_defect_in_a_check_does_not_end_the_round() -> None:
    def broken() -> str:
        raise ZeroDivisionError("oops")

    found = list(examine([Part("one", [("a", broken), ("b", lambda: "fine")]), Part("two", [("c", lambda: "fine")])]))
    assert [finding.state for finding in found] == ["failed", "not tried", "ok"]
    assert "defect" in found[0].remedy


def test_the_command_says_where_it_stopped_and_fails(tmp_path: Path) -> None:
    config = tmp_path / "genre.toml"
    config.write_text(f'[broker]\nport = {free_port()}\n[inference]\nmodel = "none-such"\nbackend = "onnx"\n')
    done = CliRunner().invoke(doctor, ["--config", str(config), "--json"])
    assert done.exit_code == 1
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(f["part"], f["stage"]) for f in found if f["state"] == "failed"} == {
        ("broker", "TCP"),
        ("model", "card and files"),
    }
    assert all(f["remedy"] for f in found if f["state"] == "failed")
    config.write_text("broker = 7\n")
    (finding,) = diagnose(config)
    assert (finding.part, finding.state) == ("configuration", "failed")


def test_threads_of_the_doctor_end(lan: Broker) -> None:
    states(broker.part(lan))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("paho")]


def test_a_user_who_may_write_but_not_read_stops_at_the_round_trip(
    tmp_path: Path, brokers: Callable[[Path, int], Mosquitto]
) -> None:
    port = free_port()
    (tmp_path / "acl").write_text("topic write genre/doctor/anonymous\n")
    (tmp_path / "m.conf").write_text(f"{local_config(port, tmp_path)}acl_file {tmp_path / 'acl'}\n")
    stay_this_user(tmp_path / "m.conf")
    brokers(tmp_path / "m.conf", port)
    found = stop_of(broker.part(Broker(port=port)))
    assert (found.stage, "did not come back" in found.text) == ("round trip", True)


def test_a_broker_that_takes_small_packets_only_stops_at_mqtt(
    tmp_path: Path, brokers: Callable[[Path, int], Mosquitto]
) -> None:
    port = free_port()
    text = local_config(port, tmp_path).replace("max_packet_size 2000000", "max_packet_size 100000")
    (tmp_path / "m.conf").write_text(text)
    brokers(tmp_path / "m.conf", port)
    found = stop_of(broker.part(Broker(port=port)))
    assert (found.stage, "max_packet_size 2000000" in found.remedy) == ("MQTT", True)


def test_segments_that_are_no_audio_stop_at_the_stream_and_say_why(tmp_path: Path) -> None:
    from services.origin.server import Origin

    names = [f"{number}.ts" for number in range(4)]
    listed = "".join(f"#EXTINF:2,\n{name}\n" for name in names)
    (tmp_path / "x.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n{listed}#EXT-X-ENDLIST\n")
    for name in names:
        (tmp_path / name).write_text("no media at all")
    with Origin(tmp_path) as origin:
        found = stop_of(hls.part(Stream(name="r", url=f"{origin.url}/x.m3u8"), Hls()))
    assert (found.stage, "no audio" in found.text, bool(found.remedy)) == ("fetch and decode", True, True)


def test_a_triton_that_is_not_there_stops_at_triton_and_one_that_is_none_at_the_shapes() -> None:
    url = f"127.0.0.1:{free_port()}"
    found = stop_of(engine.part(Inference(backend="triton", triton_url=url)))
    assert (found.stage, "inference.backend to 'onnx'" in found.remedy) == ("Triton", True)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        found = stop_of(engine.part(Inference(backend="triton", triton_url=url)))
    assert (found.stage, "does not answer" in found.text) == ("model shapes", True)


def test_a_damaged_model_stops_at_card_and_files(tmp_path: Path) -> None:
    shutil.copytree(
        Path("models/genre-sounds"), tmp_path / "genre-sounds", ignore=shutil.ignore_patterns("__pycache__")
    )
    with (tmp_path / "genre-sounds/1/model.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"damaged")
    found = stop_of(engine.part(Inference(backend="onnx", models_dir=tmp_path)))
    assert (found.stage, "genre-sounds" in found.text) == ("card and files", True)


def test_a_model_that_is_right_answers_with_its_shape() -> None:
    assert states(engine.part(Inference(backend="onnx"))) == {"card and files": "ok", "model shapes": "ok"}
