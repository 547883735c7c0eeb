"""What people have between them and the station: proxies, old servers, interim answers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.errors import GenreError
from services.fetcher.continuous.station import Station
from services.fetcher.http.client import Response
from services.fetcher.http.errors import FetchError
from services.fetcher.http.proxies import proxy_of
from tests.fetcher.http.asking import cause_of, client, raw_server
from tests.fetcher.http.proxy import ForwardProxy
from tests.fetcher.http.test_tls import certificate, secure
from tests.fetcher.origin import Reply, ScriptedOrigin

__all__ = ["certificate", "secure"]

STATION = "http://station.example/list.m3u8"


@pytest.fixture
def proxy(origin: ScriptedOrigin) -> Iterator[ForwardProxy]:
    with ForwardProxy(origin.port) as one:
        yield one


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_the_configured_proxy_is_asked_and_resolves_the_name(origin: ScriptedOrigin, proxy: ForwardProxy) -> None:
    origin.put("/list.m3u8", b"#EXTM3U")
    with client(STATION, proxy=proxy.url.replace("//", "//me:secret@")) as one:
        for _ in range(3):
            assert one.fetch(STATION, "playlist").body == b"#EXTM3U"
        assert one.connections == 1
    assert proxy.asked == [f"GET {STATION} HTTP/1.1"]
    assert proxy.credentials == ["Proxy-Authorization: Basic bWU6c2VjcmV0"]
    assert origin.count("/list.m3u8") == 3


def test_tls_goes_through_a_tunnel_and_is_between_the_stream_and_its_origin(
    secure: ScriptedOrigin, certificate: Path
) -> None:
    secure.put("/x", b"inside")
    trusted = {"ca_file": certificate / "cert.pem"}
    with ForwardProxy(secure.port) as proxy:
        with client(STATION, proxy=proxy.url, **trusted) as one:
            assert one.get("https://station.example/x", "segment").body == b"inside"
        with client(STATION, proxy=proxy.url) as one, pytest.raises(FetchError) as caught:
            one.get("https://station.example/x", "segment")
    assert caught.value.cause == "tls"
    assert proxy.asked[0].startswith("CONNECT station.example:443 ")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_the_environments_proxy_is_asked(
    name: str, origin: ScriptedOrigin, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, proxy.url)
    origin.put("/list.m3u8", b"#EXTM3U")
    with client(STATION) as one:
        assert one.get(STATION, "playlist").body == b"#EXTM3U"
    assert len(proxy.asked) == 1


def test_what_is_asked_for_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "proxy.example:3128")
    monkeypatch.setenv("no_proxy", "intern.example,10.0.0.0/8")
    assert proxy_of(STATION, None) == "http://proxy.example:3128"
    assert proxy_of(STATION, "http://other.example:1") == "http://other.example:1"
    assert proxy_of(STATION, "none") is None
    for direct in ("http://intern.example/x", "http://a.intern.example/x", "http://10.1.2.3/x"):
        assert proxy_of(direct, None) is None
    for own in ("http://127.0.0.1/x", "http://localhost:80/x", "http://[::1]/x"):
        assert proxy_of(own, "http://other.example:1") is None


def test_a_public_stream_is_not_led_to_private_names_through_a_proxy(
    origin: ScriptedOrigin, proxy: ForwardProxy
) -> None:
    with client(STATION, proxy=proxy.url) as one:
        for url in ("http://10.0.0.1/x", "http://router.lan/x", "http://169.254.169.254/x"):
            with pytest.raises(FetchError) as caught:
                one.get(url, "segment")
            assert caught.value.cause == "forbidden-address"
    assert not proxy.asked


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\nbody",
        b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        b"ICY 200 OK\r\nicy-name: x\r\n\r\nbody",
        b"ICY 200\r\n\r\nbody",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 203 Non-Authoritative\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbody",
        b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 302 Found\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 300 Multiple Choices\r\n\r\nbody",
        b"HTTP/1.1 200 says gzip\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 200 says gzip, chunked\r\nContent-Encoding: x-gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\nb\r\n3\r\nody\r\n0\r\n\r\n",
    ],
    ids=lambda answer: answer[:40].split(b"\r")[0].decode(),
)
def test_an_answer_in_an_old_or_rare_dialect_is_understood_again_and_again(answer: bytes) -> None:
    with raw_server(lambda sock: sock.sendall(answer)) as port, client() as one:
        for _ in range(3):  # each closes its connection
            assert one.get(f"http://127.0.0.1:{port}/x", "segment").body == b"body"


@pytest.mark.parametrize(
    "answer",
    [
        b"ICY\r\n\r\n",
        b"ICY 9000 no\r\n\r\n",
        b"I" * 70_000,
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50,
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
    ],
    ids=["no status", "no such status", "endless line", "hints for ever", "nothing after the hint"],
)
def test_a_broken_dialect_is_a_failure_with_a_name(answer: bytes) -> None:
    with (
        raw_server(lambda sock: sock.sendall(answer)) as port,
        client(read_timeout_s=1.0) as one,
        pytest.raises(FetchError) as caught,
    ):
        one.get(f"http://127.0.0.1:{port}/x", "segment")
    assert caught.value.cause in ("reset", "bad-response")


TEXT = b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n0.ts\n"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(gzip.compress(TEXT)),
        Reply(gzip.compress(gzip.compress(TEXT)), headers={"Content-Encoding": "gzip"}),
        Reply(TEXT + b"\n" * 9, truncate=len(TEXT)),
        Reply(gzip.compress(TEXT) + b"\0" * 9, headers={"Content-Encoding": "gzip"}, truncate=len(gzip.compress(TEXT))),
    ],
    ids=["gzip without a header", "gzip twice", "a length too long", "the length of something else"],
)
def test_a_list_is_read_though_its_headers_are_wrong(origin: ScriptedOrigin, reply: Reply) -> None:
    origin.put("/x.m3u8", reply)
    with client(origin.url("/x.m3u8")) as one:
        assert one.get(origin.url("/x.m3u8"), "playlist").body == TEXT
        found = Station(one, origin.url("/x.m3u8")).open()
        assert isinstance(found, Response) and found.body == TEXT


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (gzip.compress(b"<html>hello</html>"), "a gzip file with an HTML page inside"),
        (gzip.compress(TEXT)[:-12], "a gzip file that can't be read"),
        (b"\x1f\x8b" + b"x" * 100, "a gzip file that can't be read"),
        (gzip.compress(b"#EXTM3U\n" * 1_000_000), "a gzip file that can't be read"),
        (json.dumps(TEXT.decode()).encode(), "a playlist inside JSON"),
    ],
    ids=["a page", "cut off", "damaged", "a bomb", "a string of JSON"],
)
def test_what_is_packed_wrongly_is_refused_in_one_line(origin: ScriptedOrigin, body: bytes, words: str) -> None:
    origin.put("/x.m3u8", body)
    with client(origin.url("/x.m3u8"), playlist_limit_bytes=1 << 20) as one, pytest.raises(GenreError) as caught:
        Station(one, origin.url("/x.m3u8")).open()
    assert words in caught.value.reason and origin.count("/x.m3u8") == 1


def test_a_list_that_ends_within_a_line_is_not_read(origin: ScriptedOrigin) -> None:
    origin.put("/x.m3u8", Reply(TEXT, truncate=len(TEXT) - 2))
    assert cause_of(origin.url("/x.m3u8"), "playlist") == "truncated"


def test_a_kept_connection_that_the_server_closes_just_then_is_no_failure(origin: ScriptedOrigin) -> None:
    origin.put("/x", [b"one", Reply(reset=True), b"two"])
    with client() as one:
        assert one.get(origin.url("/x"), "segment").body == b"one"
        assert one.get(origin.url("/x"), "segment").body == b"two"
