"""The page behind a real nginx: with the example of deploy/nginx, with nginx's defaults, and in a frame."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from services.mqtt.client import MqttClient
from services.settings.schema import Broker
from tests.broker.mosquitto import Mosquitto, free_port, wait_for
from tests.dashboard.conftest import OURS, PASSWORD, Running, dashboards
from tests.dashboard.pretend import result
from tests.dashboard.test_page import page

ROOT = Path(__file__).resolve().parents[3]
NGINX = shutil.which("nginx") or shutil.which("nginx", path=f"/usr/sbin:{ROOT}/build/web")
__all__ = ["page"]


@dataclass
class Proxied:
    """A dashboard and the addresses under which nginx shows it."""

    dashboard: Running
    example: str
    default: str
    whole_path: str


@pytest.fixture(scope="module")
def proxied(shared_mosquitto: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    if NGINX is None:
        pytest.skip("nginx is not installed; 'make test-web' fetches it")
    folder = tmp_path_factory.mktemp("nginx")
    broker = Broker(port=shared_mosquitto.port, root="proxied")
    mqtt = MqttClient(broker, "proxied-test")
    mqtt.start()
    mqtt.wait_connected(10)
    with dashboards(folder, lambda *rest: mqtt) as start:
        dashboard = start(
            broker, ("radio1",), hosts=["https://genre.example.org:8443"], base_path="/genre", frame_ancestors=["self"]
        )
        dashboard.send(result("radio1"))
        inner = dashboard.url.removeprefix("http://")
        example = (ROOT / "deploy" / "nginx" / "genre-edge.conf").read_text().replace("127.0.0.1:8080", inner)
        panel = 'location = /panel { default_type text/html; return 200 "<iframe src=/genre/ height=800></iframe>"; }'
        locations = [
            f"{example} {panel}",
            f"location / {{ proxy_pass http://{inner}; }}",
            f"location /genre {{ proxy_pass http://{inner}; }}",
        ]
        ports = [free_port() for _ in locations]
        servers = "\n".join(
            f"server {{ listen 127.0.0.1:{port}; {location} }}" for port, location in zip(ports, locations, strict=True)
        )
        places = "".join(
            f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"user {getpass.getuser()};\npid {folder}/pid;\ndaemon off;\nevents {{}}\n"
            f"http {{ access_log off; {places}\n{servers} }}\n"
        )
        log = folder / "error.log"
        process = subprocess.Popen([NGINX, "-e", str(log), "-c", str(folder / "nginx.conf")])

        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", ports[0])) == 0

        wait_for(listens, "nginx listens")
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        yield Proxied(dashboard, urls[0], urls[1], urls[2])
        process.terminate()
        process.wait(10)
    mqtt.stop()


def log_in(url: str, **headers: str) -> requests.Response:
    return requests.post(f"{url}/api/login", json={"password": PASSWORD}, headers={**OURS, **headers}, timeout=10)


def test_with_the_example_all_works_below_its_path(proxied: Proxied) -> None:
    url = f"{proxied.example}/genre"
    assert requests.get(url, timeout=10).url == f"{url}/", "without its slash, too"
    assert "genre-edge" in requests.get(f"{url}/", timeout=10).text
    for path in ("page/main.js", "page/style.css", "api/board", "metrics"):
        assert requests.get(f"{url}/{path}", timeout=10).status_code == 200, path
    answer = log_in(url, origin=proxied.example)
    assert answer.status_code == 200, answer.text
    cookie = next(iter(answer.cookies))
    assert cookie.path == "/genre/" and cookie.get_nonstandard_attr("SameSite").lower() == "strict"
    with requests.get(f"{url}/api/live", stream=True, timeout=10) as live:
        first = next(line for line in live.iter_lines(chunk_size=1) if line.startswith(b"data: "))
    assert json.loads(first[6:])["full"]


def test_with_nginx_defaults_login_works_for_a_known_name_and_else_says_what_to_set(proxied: Proxied) -> None:
    assert log_in(proxied.default, origin="https://genre.example.org:8443").status_code == 200
    answer = log_in(proxied.default, origin="https://radio.example.org")
    assert answer.status_code == 403
    assert "proxy_set_header Host" in answer.json()["error"] and "dashboard.hosts" in answer.json()["error"]


def test_a_proxy_that_leaves_the_path_on_needs_base_path_alone(proxied: Proxied) -> None:
    assert requests.get(f"{proxied.whole_path}/genre", timeout=10).url == f"{proxied.whole_path}/genre/"
    assert requests.get(f"{proxied.whole_path}/genre/api/board", timeout=10).status_code == 200
    assert requests.get(f"{proxied.whole_path}/genre/page/none.js", timeout=10).json() == {
        "error": "there is no such page"
    }


def test_guesses_from_one_address_behind_the_proxy_do_not_lock_out_another(proxied: Proxied) -> None:
    def tries(address: str, password: str) -> int:
        answer = requests.post(
            f"{proxied.dashboard.url}/api/login", json={"password": password}, timeout=10,
            headers={**OURS, "x-forwarded-for": address},
        )  # fmt: skip
        return answer.status_code

    assert [tries("192.0.2.7", "wrong") for _ in range(6)][-1] == 429
    assert tries("192.0.2.8", PASSWORD) == 200


def test_the_page_lives_below_a_path_and_in_a_frame_in_a_real_browser(
    page: Callable[..., dict[str, Any]], proxied: Proxied
) -> None:
    assert page("below", f"{proxied.example}/genre")["streams"] == ["radio1"]
    assert page("framed", proxied.example)["streams"] == ["radio1"]


def test_who_comes_when_all_places_are_taken_is_told_so(page: Callable[..., dict[str, Any]], proxied: Proxied) -> None:
    host = proxied.dashboard.url.removeprefix("http://")
    taken = []
    try:
        for _ in range(200):
            one = socket.create_connection(("127.0.0.1", int(host.rsplit(":", 1)[1])))
            one.sendall(f"GET /api/live HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            taken.append(one)
        for one in taken:
            assert one.recv(12) == b"HTTP/1.1 200"
        assert "200 browsers are looking already" in page("full", proxied.dashboard.url)["said"]
    finally:
        for one in taken:
            one.close()
