"""The web servers' configurations: nginx for real, IIS by what web.config says."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import subprocess
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.contract.windows import SAMPLE_RATE
from services.fetcher.events import Audio
from services.fetcher.source import StreamSource
from services.origin.packager import Packaging, package_file
from services.origin.server import TYPES
from services.settings.schema import Hls, Stream
from tests.broker.mosquitto import free_port, wait_for
from tests.origin.conftest import write_flac

ORIGIN = Path(__file__).resolve().parents[2] / "deploy" / "origin"


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("nginx")
    music = write_flac(folder / "tone.flac", 7)
    for kind in ("ts", "fmp4"):
        package_file(music, folder / "hls", kind, Packaging(2.0, (128,), kind))
    for suffix in TYPES:
        (folder / "hls" / f"kind{suffix}").write_bytes(b"0123456789")
    (folder / "hls" / ".secret.ts").write_text("hidden")
    port = free_port()
    server = (ORIGIN / "nginx.conf").read_text()
    server = server.replace("listen 8080;", f"listen 127.0.0.1:{port};").replace("/srv/hls", str(folder / "hls"))
    account = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{account} daemon off; pid {folder}/pid; error_log stderr; worker_processes 1;\nevents {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/t; proxy_temp_path {folder}/t;\n"
        f"fastcgi_temp_path {folder}/t; uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;\n{server}\n}}\n"
    )
    process = subprocess.Popen([program, "-c", str(folder / "nginx.conf"), "-e", "stderr"])

    def answers() -> bool:
        assert process.poll() is None
        try:
            return get(port, "/kind.ts")[0].status == 200
        except OSError:
            return False

    wait_for(answers, "nginx answers")
    yield port
    process.terminate()
    process.wait(10)


def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


@pytest.mark.parametrize("suffix", sorted(TYPES))
def test_nginx_gives_each_file_its_type_and_cache_rule(suffix: str, nginx: int) -> None:
    response, body = get(nginx, f"/kind{suffix}")
    assert (response.status, body) == (200, b"0123456789")
    assert response.headers["Content-Type"].partition(";")[0] == TYPES[suffix]
    assert ("no-cache" in response.headers["Cache-Control"]) == (suffix == ".m3u8")


def test_nginx_keeps_the_connection_and_serves_ranges(nginx: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", nginx, timeout=10)
    connection.request("GET", "/kind.ts")
    connection.getresponse().read()
    first = connection.sock
    connection.request("GET", "/kind.ts", headers={"Range": "bytes=2-4"})
    response = connection.getresponse()
    assert (response.status, response.read()) == (206, b"234")
    assert connection.sock is first
    connection.close()


def test_nginx_hides_the_rest(nginx: int) -> None:
    assert get(nginx, "/.secret.ts")[0].status == 404
    assert get(nginx, "/../nginx.conf")[0].status in (400, 404)
    assert get(nginx, "/ts/")[0].status == 404
    assert get(nginx, "/kind.ts", "DELETE")[0].status == 405


@pytest.mark.parametrize("kind", ["ts", "fmp4"])
def test_a_stream_is_heard_through_nginx(kind: str, nginx: int) -> None:
    listener = StreamSource(Stream(name="r", url=f"http://127.0.0.1:{nginx}/{kind}.m3u8"), Hls(), threading.Event())
    heard = sum(len(item.pcm) for item in listener.listen() if isinstance(item, Audio))
    listener.close()
    assert abs(heard - 7 * SAMPLE_RATE) < 3 * 1024


def test_web_config_has_every_type_each_removed_first() -> None:
    root = ET.parse(ORIGIN / "web.config").getroot()
    content = root.find("system.webServer/staticContent")
    assert content is not None
    seen: dict[str, str] = {}
    removed: set[str] = set()
    for entry in content:
        if entry.tag == "remove":
            removed.add(entry.attrib["fileExtension"])
        elif entry.tag == "mimeMap":
            assert entry.attrib["fileExtension"] in removed
            seen[entry.attrib["fileExtension"]] = entry.attrib["mimeType"]
    assert seen == TYPES
    protocol = root.find("system.webServer/httpProtocol")
    assert protocol is not None and protocol.attrib["allowKeepAlive"] == "true"
    policies = {p.attrib["extension"]: p.attrib["policy"] for p in root.iter("add") if "policy" in p.attrib}
    assert policies == {".m3u8": "DontCache"}
    rule = root.find("system.webServer/rewrite/outboundRules/preConditions/preCondition/add")
    assert rule is not None
    assert re.search(rule.attrib["pattern"], "/live/a.m3u8?x=1") and not re.search(rule.attrib["pattern"], "/a.ts")
