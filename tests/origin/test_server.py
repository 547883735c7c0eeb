"""The origin over real HTTP: types, ranges, keep-alive, and nothing outside its folder."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.errors import GenreError, UsageError
from services.origin.server import TYPES, Origin


@pytest.fixture(scope="module")
def origin(packaged: Path) -> Iterator[Origin]:
    (packaged.parent / "secret.txt").write_text("outside")
    (packaged / ".hidden").write_text("hidden")
    (packaged / "link.m3u8").symlink_to(packaged.parent / "secret.txt")
    for suffix in TYPES:
        (packaged / f"kind{suffix}").write_bytes(b"0123456789")
    (packaged / "kind.m3u8").unlink()
    with Origin(packaged, clock=lambda: 1_000_000.0) as served:
        yield served
    for file in packaged.glob("kind.*"):
        file.unlink()
    (packaged / "link.m3u8").unlink()


@pytest.fixture
def connection(origin: Origin) -> Iterator[http.client.HTTPConnection]:
    host, port = origin.url.removeprefix("http://").split(":")
    made = http.client.HTTPConnection(host, int(port), timeout=10)
    yield made
    made.close()


def get(connection: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str):  # type: ignore[no-untyped-def]
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    response = connection.getresponse()
    return response, response.read()


@pytest.mark.parametrize("suffix", sorted(set(TYPES) - {".m3u8"}))
def test_types_are_those_that_players_ask_for(suffix: str, connection: http.client.HTTPConnection) -> None:
    response, body = get(connection, f"/kind{suffix}")
    assert (response.status, response.headers["Content-Type"], body) == (200, TYPES[suffix], b"0123456789")


def test_playlists_are_never_cached_and_segments_are(connection: http.client.HTTPConnection) -> None:
    assert get(connection, "/first.m3u8")[0].headers["Cache-Control"] == "no-cache"
    assert get(connection, "/first/128k/0000.ts")[0].headers["Cache-Control"] == "max-age=3600"


def test_one_connection_serves_many_requests(connection: http.client.HTTPConnection) -> None:
    get(connection, "/first.m3u8")
    before = connection.sock
    for path in ("/nothing", "/first.m3u8", "/live/first.m3u8", "/kind.ts"):
        get(connection, path)
    assert connection.sock is before


def test_head_has_the_headers_and_no_body(connection: http.client.HTTPConnection) -> None:
    for path in ("/kind.ts", "/live/first.m3u8", "/nothing", "/"):
        full, body = get(connection, path)
        head, nothing = get(connection, path, "HEAD")
        assert (head.status, head.headers["Content-Length"], nothing) == (full.status, str(len(body)), b"")


@pytest.mark.parametrize(
    ("asked", "status", "body", "told"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=5-999999", 206, b"56789", "bytes 5-9/10"),
        ("bytes=-999999", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=5-2", 416, b"", "bytes */10"),
        ("bytes=-", 200, b"0123456789", None),
        ("bytes=1-2,4-5", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_ranges(asked: str, status: int, body: bytes, told: str | None, connection: http.client.HTTPConnection) -> None:
    response, got = get(connection, "/kind.ts", Range=asked)
    assert (response.status, got, response.headers["Content-Range"]) == (status, body, told)


def test_what_has_not_changed_is_not_sent_again(connection: http.client.HTTPConnection) -> None:
    response, _ = get(connection, "/kind.ts")
    assert get(connection, "/kind.ts", If_None_Match=response.headers["ETag"])[0].status == 304
    assert get(connection, "/kind.ts", If_Modified_Since=response.headers["Last-Modified"])[0].status == 304
    assert get(connection, "/kind.ts", If_None_Match='"other"')[0].status == 200
    assert get(connection, "/kind.ts", If_Modified_Since="never")[0].status == 200
    assert get(connection, "/kind.ts", Range="bytes=1-2", If_Range='"other"')[0].status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/first/../../secret.txt",
        "/..%2fsecret.txt",
        "/..\\secret.txt",
        "//etc/passwd",
        "/link.m3u8",
        "/.hidden",
        "/first",
        "/first.m3u8%00.ts",
        "/" + "a" * 5000,
        "/" + "a/" * 3000,
        "/live/../first.m3u8",
        "/live/nothing.m3u8",
        "/live/.m3u8",
    ],
)
def test_what_is_not_a_file_of_the_folder_is_404(path: str, connection: http.client.HTTPConnection) -> None:
    response, body = get(connection, path)
    assert response.status == 404
    assert b"outside" not in body


def test_bad_requests_get_an_answer_and_harm_nobody(origin: Origin, connection: http.client.HTTPConnection) -> None:
    assert get(connection, "/%ff%fe")[0].status == 400
    assert get(connection, "/live/first.m3u8?shift=soon")[0].status == 400
    assert get(connection, "/live/first.m3u8?shift=nan")[0].status == 200
    assert get(connection, "/first.m3u8", "DELETE")[0].status == 501
    port = int(origin.url.rsplit(":", 1)[1])
    for garbage in (
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x" * 70_000,
    ):
        with socket.create_connection(("127.0.0.1", port), 5) as raw:
            raw.sendall(garbage)
    with socket.create_connection(("127.0.0.1", port), 5) as raw:
        smuggled = b"GET /secret HTTP/1.1\r\n\r\n"
        raw.sendall(b"GET /kind.ts HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(smuggled), smuggled))
        answer = b""
        while block := raw.recv(65536):
            answer += block
    assert answer.count(b"HTTP/1.1 ") == 1
    with socket.create_connection(("127.0.0.1", port), 5) as raw:
        raw.sendall(b"GET /kind.ts HTTP/1.1\r\nContent-Length: many\r\n\r\n")
        assert b" 200 " in raw.recv(65536)
    assert get(connection, "/kind.ts")[0].status == 200


def test_the_list_names_every_piece_and_its_live_view(origin: Origin, connection: http.client.HTTPConnection) -> None:
    _, body = get(connection, "/")
    assert {"/first.m3u8", "/live/first.m3u8", "/live/radio.m3u8"} <= set(body.decode().split())


def test_a_taken_port_and_a_missing_folder_are_named(origin: Origin, tmp_path: Path) -> None:
    port = int(origin.url.rsplit(":", 1)[1])
    with pytest.raises(GenreError, match=f"127.0.0.1:{port}: can't listen"):
        Origin(tmp_path, port)
    with pytest.raises(UsageError, match="is not a folder"):
        Origin(tmp_path / "nowhere")


def test_closing_ends_open_connections_and_frees_the_port(packaged: Path) -> None:
    served = Origin(packaged).start()
    port = int(served.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), 5) as idle:
        idle.sendall(b"HEAD /first.m3u8 HTTP/1.1\r\n\r\n")
        assert idle.recv(10)
        served.close()
        while idle.recv(65536):
            pass
    with Origin(packaged, port):
        pass


def test_as_a_process_it_prints_its_url_and_ends_on_a_signal(packaged: Path) -> None:
    argv = [sys.executable, "-m", "services.origin.server", str(packaged)]
    for number in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stderr is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:")
            process.send_signal(number)
            assert process.wait(10) == 0
            assert process.stderr.read() == ""
