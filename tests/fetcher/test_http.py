"""The HTTP side: what is promised of each thing an origin can do; connections are counted at the server."""

from __future__ import annotations

import gzip
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.errors import GenreError, UsageError
from services.fetcher import sockets
from services.fetcher.failures import FetchError
from services.fetcher.http import Kind, Origin, backoff_s, shown
from services.fetcher.sockets import tls_context
from services.settings import Retry, Stream
from tests.fetcher.builders import hls, listen, media_playlist
from tests.fetcher.origin import Reply, ScriptedOrigin, expect_within

PUBLIC = "http://radio.example/list.m3u8"


@contextmanager
def client(url: str = "http://127.0.0.1/x.m3u8", headers_file: Path | None = None, **changes: Any) -> Iterator[Origin]:
    one = Origin(Stream(name="t", url=url, headers_file=headers_file), hls(**changes), threading.Event())
    yield one
    one.close()


def cause_of(url: str, kind: Kind = "segment", **changes: Any) -> str:
    with client(url, **changes) as one, pytest.raises(FetchError) as caught:
        one.fetch(url, kind)
    return caught.value.cause


def test_one_connection_serves_a_whole_stream(origin: ScriptedOrigin) -> None:
    with client() as one:
        for number in range(50):
            origin.put(f"/{number}", b"x" * 10_000)
            assert one.fetch(origin.url(f"/{number}"), "segment").body == b"x" * 10_000
        assert one.connections == 1
    assert origin.connections == 1


def test_a_connection_closed_while_idle_is_opened_again_without_a_failure(origin: ScriptedOrigin) -> None:
    origin.put("/a", Reply(b"a", headers={"Connection": "close"}))
    with client() as one:
        assert one.get(origin.url("/a"), "segment").body == b"a"
        assert one.get(origin.url("/a"), "segment").body == b"a"


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (Reply(b"", 404), "http-404"),
        (Reply(b"", 503), "http-503"),
        (Reply(b"", 302, {"Location": "/x"}), "redirects"),
        (Reply(b"", 302, {"Location": "file:///etc/passwd"}), "bad-url"),
        (Reply(b"", 302, {"Location": "http://[bad"}), "bad-response"),
        (Reply(b"", 302), "http-302"),
        (Reply(b"", reset=True), "reset"),
        (Reply(b"x" * 1000, truncate=10), "truncated"),
        (Reply(b"not gzip", headers={"Content-Encoding": "gzip"}), "bad-encoding"),
        (Reply(b"", 999), "http-999"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_failure_has_its_name(origin: ScriptedOrigin, reply: Reply, cause: str) -> None:
    origin.put("/x", reply)
    assert cause_of(origin.url("/x")) == cause


@pytest.mark.parametrize(
    "answer", [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", b"", b"\xff" * 70_000]
)
def test_what_is_not_http_fails_cleanly(answer: bytes) -> None:
    with raw_server(lambda sock: sock.sendall(answer)) as port, client(read_timeout_s=0.5) as one:
        try:
            assert one.fetch(f"http://127.0.0.1:{port}/x", "segment").body == b""
        except FetchError as error:
            assert error.cause in ("reset", "truncated", "timeout")


def test_a_refused_connection_and_an_unknown_host_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert cause_of(f"http://127.0.0.1:{port}/x") == "refused"
    assert cause_of("http://no-such-host.invalid/x") == "dns"


def test_a_silent_server_times_out(origin: ScriptedOrigin) -> None:
    never = threading.Event()
    origin.put("/x", Reply(b"", hold=never))
    with expect_within(3):
        assert cause_of(origin.url("/x"), read_timeout_s=0.3) == "timeout"
    never.set()


def test_a_dripping_server_meets_the_limit_of_the_whole_response(origin: ScriptedOrigin) -> None:
    origin.put("/x", Reply(b"x" * 10_000, drip_s=0.05))
    with expect_within(4):
        assert cause_of(origin.url("/x"), request_timeout_s=0.4) == "timeout"


@pytest.mark.parametrize("kind", ["playlist", "key", "init", "segment"])
def test_an_endless_response_is_cut_off_at_the_limit_of_its_kind(origin: ScriptedOrigin, kind: Kind) -> None:
    origin.put("/x", Reply(b"x" * 65_536, endless=True))
    before = psutil.Process().memory_info().rss
    assert cause_of(origin.url("/x"), kind) == "too-large"
    assert psutil.Process().memory_info().rss - before < 220 << 20


def test_a_gzip_bomb_is_cut_off_at_the_limit(origin: ScriptedOrigin) -> None:
    origin.put("/x", Reply(gzip.compress(b"#" * (300 << 20), 9), headers={"Content-Encoding": "gzip"}))
    before = psutil.Process().memory_info().rss
    assert cause_of(origin.url("/x"), "playlist") == "too-large"
    assert psutil.Process().memory_info().rss - before < 60 << 20


def test_gzip_is_read_and_asked_for_playlists_only(origin: ScriptedOrigin) -> None:
    origin.put("/x", Reply(gzip.compress(b"#EXTM3U"), headers={"Content-Encoding": "gzip"}))
    with client() as one:
        assert one.fetch(origin.url("/x"), "playlist").body == b"#EXTM3U"
        one.fetch(origin.url("/x"), "segment")
    assert [r.headers["Accept-Encoding"] for r in origin.requests] == ["gzip, deflate", "identity"]


def test_transient_failures_are_tried_within_the_budget_and_final_ones_once(origin: ScriptedOrigin) -> None:
    origin.put("/busy", [Reply(b"", 503), Reply(b"", 429, {"Retry-After": "1"}), b"ok"])
    origin.put("/broken", Reply(b"", 500))
    origin.put("/gone", Reply(b"", 410))
    with client() as one:
        assert one.fetch(origin.url("/busy"), "segment").body == b"ok"
        for path in ("/broken", "/gone"):
            with pytest.raises(FetchError):
                one.fetch(origin.url(path), "segment")
    assert (origin.count("/broken"), origin.count("/gone")) == (3, 1)


def test_the_wait_doubles_is_capped_and_half_of_it_is_jitter() -> None:
    retry = Retry(attempts=9, first_wait_s=1.0, longest_wait_s=5.0)
    assert [backoff_s(retry, n, lambda: 1.0) for n in (1, 2, 3, 4, 400)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff_s(retry, 1, lambda: 0.0) == 0.5


def test_byte_ranges_are_asked_for_and_cut_out_where_the_server_does_not_do_them(origin: ScriptedOrigin) -> None:
    body = bytes(range(256)) * 10
    origin.put("/with", body)
    origin.put("/without", Reply(body, headers={"no-range": "1"}))
    origin.put("/wrong", Reply(body, headers={"no-range": "1", "Content-Range": "bytes 7-9/10"}, status=206))
    origin.put("/short", body[:100])
    with client() as one:
        assert one.fetch(origin.url("/with"), "segment", (300, 50)).body == body[300:350]
        assert one.fetch(origin.url("/without"), "segment", (300, 50)).body == body[300:350]
        for path, cause in (("/wrong", "bad-range"), ("/short", "truncated")):
            with pytest.raises(FetchError) as caught:
                one.fetch(origin.url(path), "segment", (50, 100))
            assert caught.value.cause == cause
    assert origin.requests[0].headers["Range"] == "bytes=300-349"


def test_redirects_resolve_against_the_final_url_and_the_original_is_asked_again(origin: ScriptedOrigin) -> None:
    origin.put("/a", Reply(b"", 302, {"Location": "b/c"}))
    origin.put("/b/c", b"here")
    with client() as one:
        assert one.fetch(origin.url("/a"), "playlist").url == origin.url("/b/c")
        one.fetch(origin.url("/a"), "playlist")
    assert origin.count("/a") == 2


def test_cookies_come_back(origin: ScriptedOrigin) -> None:
    origin.put("/a", Reply(b"", headers={"Set-Cookie": "session=42; Path=/"}))
    origin.put("/b", b"")
    with client() as one:
        one.fetch(origin.url("/a"), "playlist")
        one.fetch(origin.url("/b"), "segment")
    assert origin.requests[1].headers["Cookie"] == "session=42"


def test_extra_headers_go_along_but_credentials_only_to_the_streams_own_host(
    origin: ScriptedOrigin, tmp_path: Path
) -> None:
    file = tmp_path / "headers"
    file.write_text("# mine\nAuthorization: Bearer x\nReferer: https://page.example/\n")
    origin.put("/a", b"")
    with client("http://127.0.0.1/x", headers_file=file) as one:
        one.fetch(origin.url("/a"), "segment")
        one.fetch(origin.url("/a", "localhost"), "segment")
    own, other = (request.headers for request in origin.requests)
    assert own["Authorization"] == "Bearer x" and "Authorization" not in other
    assert own["Referer"] == other["Referer"] == "https://page.example/"


@pytest.mark.parametrize("text", ["nonsense", "Name value", ": x", "A: b\nX\x01: c"])
def test_a_bad_headers_file_is_named_with_its_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text(text)
    with pytest.raises(UsageError, match="line"), client(headers_file=file):
        pass


def test_a_missing_headers_or_ca_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GenreError, match="absent"), client(headers_file=tmp_path / "absent"):
        pass
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for path in (tmp_path / "absent.pem", empty):
        with pytest.raises(UsageError, match=path.name), client(ca_file=path):
            pass


# --- private networks ------------------------------------------------------------------------------------------------


PRIVATE_HOSTS = "127.0.0.1 10.0.0.1 192.168.1.1 169.254.169.254 [::1] [fd00::1] 0.0.0.0 [::ffff:127.0.0.1] 100.64.0.1"


@pytest.mark.parametrize("host", [*PRIVATE_HOSTS.split(), "224.0.0.1"])
def test_a_public_playlist_may_not_lead_into_private_networks(host: str) -> None:
    with client(PUBLIC) as one, pytest.raises(FetchError) as caught:
        one.fetch(f"http://{host}:1/segment.ts", "segment")
    assert caught.value.cause == "forbidden-address"
    assert one.connections == 0


def test_nor_by_a_name_that_resolves_to_one_nor_by_a_redirect(
    origin: ScriptedOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = {"radio.example": "127.0.0.1", "rebound.example": "127.0.0.1"}
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: real(addresses.get(host, host), *a, **k))
    origin.put("/x", b"secret")
    with client(PUBLIC) as one, pytest.raises(FetchError) as caught:
        one.fetch(origin.url("/x", "rebound.example"), "segment")
    assert caught.value.cause == "forbidden-address"
    assert origin.connections == 0


def test_private_is_fine_where_the_stream_itself_is_private_or_the_configuration_allows_it(
    origin: ScriptedOrigin,
) -> None:
    origin.put("/x", b"ok")
    with client(origin.url("/list.m3u8", "localhost")) as one:
        one.fetch(origin.url("/x", "localhost"), "segment")
        assert one.fetch(origin.url("/x"), "segment").body == b"ok"
    with client(PUBLIC, allow_private=True) as one:
        assert one.fetch(origin.url("/x"), "segment").body == b"ok"


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("8.8.8.8", False),
        ("2606:4700::1111", False),
        ("172.16.0.1", True),
        ("fe80::1%eth0", True),
        ("2002:7f00:1::", True),
    ],
)
def test_private_addresses_are_recognised(address: str, private: bool) -> None:
    assert sockets.is_private(address) is private


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs openssl to make a certificate")
    return folder


@pytest.fixture
def secure(certificate: Path) -> Iterator[ScriptedOrigin]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with ScriptedOrigin(tls=context) as origin:
        yield origin


def test_own_ca_is_trusted_whatever_requests_ca_bundle_says(
    secure: ScriptedOrigin, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")
    secure.put("/x", b"x" * 200_000)
    with client(ca_file=certificate / "cert.pem") as one:
        for _ in range(5):
            assert len(one.fetch(secure.url("/x", "localhost"), "segment").body) == 200_000
        assert one.connections == 1
    assert secure.connections == 1


def test_certificates_are_loaded_when_a_plain_stream_is_led_to_tls_and_not_before(
    origin: ScriptedOrigin, secure: ScriptedOrigin, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    tls_context.cache_clear()
    origin.put("/plain", b"plain")
    origin.put("/led", Reply(b"", 302, {"Location": secure.url("/x", "localhost")}))
    secure.put("/x", b"secret")
    with client() as one:
        assert one.fetch(origin.url("/plain"), "segment").body == b"plain"
        assert tls_context.cache_info().currsize == 0
        assert one.fetch(origin.url("/led"), "segment").body == b"secret"
        assert tls_context.cache_info().currsize == 1
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "absent.pem"))
    with client() as one, pytest.raises(UsageError, match=r"absent\.pem.*is not a file of CA certificates"):
        one.fetch(origin.url("/led"), "segment")


def test_an_unknown_ca_and_a_wrong_name_are_refused(secure: ScriptedOrigin, certificate: Path) -> None:
    assert cause_of(secure.url("/x", "localhost")) == "tls"
    with client(ca_file=certificate / "cert.pem") as one, pytest.raises(FetchError) as caught:
        one.fetch(secure.url("/x"), "segment")
    assert caught.value.cause == "tls"


def test_a_server_that_never_shakes_hands_times_out_and_hears_the_stop() -> None:
    never = threading.Event()
    with raw_server(lambda sock: never.wait(10)) as port:
        with expect_within(4):
            assert cause_of(f"https://127.0.0.1:{port}/x", connect_timeout_s=0.3, read_timeout_s=0.3) == "timeout"
        never.set()


# --- what a person sees ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(b"", 404), "404"),
        (Reply(b"", 401), "headers_file"),
        (Reply(b"", 403), "headers_file"),
        (Reply(b"<html>hello</html>"), "HTML"),
        (Reply(b""), "empty"),
        (Reply(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-ENDLIST\n"), "no segments"),
        (Reply(media_playlist(["a.ts"], before={0: '#EXT-X-KEY:METHOD=SAMPLE-AES,URI="k"'}).encode()), "SAMPLE-AES"),
        (Reply(media_playlist(["a.ts"], before={0: '#EXT-X-KEY:METHOD=AES-256,URI="k"'}).encode()), "AES-256"),
        (Reply(b'#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS="avc1.42"\nx.m3u8\n'), "no variant carries audio"),
        (Reply(b"", 302, {"Location": "/list.m3u8"}), "circles"),
        (Reply(b"", reset=True), "server"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_stream_that_cant_be_opened_says_url_reason_and_remedy_on_one_line(
    origin: ScriptedOrigin, reply: Reply, says: str
) -> None:
    origin.put("/list.m3u8", reply)
    with pytest.raises(GenreError) as caught:
        listen(origin.url("/list.m3u8?token=secret"))
    assert says in str(caught.value) and "/list.m3u8" in str(caught.value)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    assert origin.count("/a.ts") == 0


def test_a_url_is_shown_without_its_secrets() -> None:
    assert shown("https://me:pw@h.example:8443/a/b.m3u8?token=1#x") == "https://h.example:8443/a/b.m3u8"


@contextmanager
def raw_server(answer: Callable[[socket.socket], Any]) -> Iterator[int]:
    """A TCP server that is no web server."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.1)
    closing = threading.Event()

    def run() -> None:
        while not closing.is_set():
            try:
                sock, _ = server.accept()
            except TimeoutError:
                continue
            with sock:
                sock.settimeout(2)
                try:
                    sock.recv(65_536)
                    answer(sock)
                except OSError:
                    pass

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        closing.set()
        thread.join(5)
        server.close()
