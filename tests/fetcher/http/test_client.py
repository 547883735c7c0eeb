"""The HTTP side: what is promised of each thing an origin can do; connections are counted at the server."""

from __future__ import annotations

import gzip
import socket
import threading
from pathlib import Path

import psutil
import pytest

from services.errors import GenreError, UsageError
from services.fetcher.http.client import Kind, Origin, backoff_s
from services.fetcher.http.errors import FetchError
from services.fetcher.http.urls import shown
from services.fetcher.http.watch import StoppedError
from services.settings.schema import Retry, Stream
from tests.fetcher.builders import hls, listen, media_playlist
from tests.fetcher.http.asking import cause_of, client, raw_server
from tests.fetcher.origin import Reply, ScriptedOrigin, expect_within


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
        (Reply(b"\x1f\x8bnot gzip", headers={"Content-Encoding": "gzip"}), "bad-encoding"),
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
    for path, said in (("/loud", "Bytes 0-2559/2560"), ("/odd", "bytes=0-2559/*"), ("/untold", "")):
        headers = {"no-range": "1", **({"Content-Range": said} if said else {})}
        origin.put(path, Reply(body, headers=headers, status=206))  # the whole body, called a part
    with client() as one:
        for path in ("/loud", "/odd", "/untold"):
            assert one.fetch(origin.url(path), "segment", (300, 50)).body == body[300:350]
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


def test_what_a_server_says_reaches_a_log_without_control_characters() -> None:
    answer = b"HTTP/1.1 404 gone\x1b[2J\x07\r\nContent-Length: 0\r\n\r\n"
    with (
        raw_server(lambda sock: sock.sendall(answer)) as port,
        client() as one,
        pytest.raises(FetchError) as caught,
    ):
        one.get(f"http://127.0.0.1:{port}/x", "segment")
    assert "gone" in str(caught.value) and str(caught.value).isprintable()


# --- stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drip", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"], ids=["silent", "half a body"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_stop_ends_any_wait_within_a_second(scheme: str, drip: bytes) -> None:
    asked, never, stop = threading.Event(), threading.Event(), threading.Event()

    def answer(sock: socket.socket) -> None:
        sock.sendall(drip)
        asked.set()
        never.wait(20)

    slow = hls(connect_timeout_s=20.0, read_timeout_s=20.0)
    with raw_server(answer) as port:
        one = Origin(Stream(name="t", url=f"{scheme}://127.0.0.1:{port}/x"), slow, stop)
        ended: list[BaseException] = []

        def ask() -> None:
            try:
                one.get(one.stream.url, "segment")
            except BaseException as error:
                ended.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        assert asked.wait(10)
        if scheme == "https" and drip:
            thread.join(10)  # clear text in the place of a handshake is an error of its own
            assert isinstance(ended[0], FetchError) and ended[0].cause == "tls"
        else:
            stop.set()
            with expect_within(1.5):
                thread.join(10)
            assert isinstance(ended[0], StoppedError)
        never.set()
        one.close()
