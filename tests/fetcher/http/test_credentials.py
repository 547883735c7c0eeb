"""Secrets go to the stream's own scheme, host and port, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fetcher.http.asking import client
from tests.fetcher.origin import Reply, ScriptedOrigin

SECRETS = ("Authorization", "X-Api-Key", "Cookie")


@pytest.fixture
def headers_file(tmp_path: Path) -> Path:
    file = tmp_path / "headers"
    file.write_text(
        "# mine\nAuthorization: Bearer x\nX-Api-Key: k\nCookie: a=b\nReferer: https://page.example/\nUser-Agent: me\n"
    )
    return file


def test_extra_headers_go_to_the_streams_own_place_and_elsewhere_only_those_of_a_page(
    origin: ScriptedOrigin, headers_file: Path
) -> None:
    origin.put("/a", b"")
    with ScriptedOrigin() as other_port, client(origin.url("/list.m3u8"), headers_file=headers_file) as one:
        other_port.put("/a", b"")
        one.fetch(origin.url("/a"), "segment")
        one.fetch(origin.url("/a", "localhost"), "segment")
        one.fetch(other_port.url("/a"), "segment")
        own, *others = [request.headers for request in (*origin.requests, *other_port.requests)]
    assert all(own[name] for name in SECRETS)
    for other in others:
        assert not set(SECRETS) & set(other)
        assert (other["Referer"], other["User-Agent"]) == ("https://page.example/", "me")


def test_no_secret_follows_a_redirect_to_another_scheme_host_or_port(
    origin: ScriptedOrigin, headers_file: Path
) -> None:
    with ScriptedOrigin() as other_port:
        for there in (origin, other_port):
            there.put("/list.m3u8", b"#EXTM3U")
        origin.put("/port", Reply(b"", 302, {"Location": other_port.url("/list.m3u8")}))
        origin.put("/host", Reply(b"", 302, {"Location": origin.url("/list.m3u8", "localhost")}))
        origin.put("/same", Reply(b"", 302, {"Location": "/list.m3u8"}))
        with client(origin.url("/x"), headers_file=headers_file) as one:
            for path in ("/port", "/host", "/same"):
                one.fetch(origin.url(path), "playlist")
        other, (host, same) = other_port.requests[0], [r for r in origin.requests if r.path == "/list.m3u8"]
    assert not set(SECRETS) & set(other.headers) and not set(SECRETS) & set(host.headers)
    assert same.headers["X-Api-Key"] == "k"


def test_a_stream_under_https_sends_none_of_them_in_clear_text(origin: ScriptedOrigin, headers_file: Path) -> None:
    origin.put("/x", b"")
    with client(origin.url("/list.m3u8").replace("http:", "https:"), headers_file=headers_file) as one:
        one.fetch(origin.url("/x"), "segment")
    assert not set(SECRETS) & set(origin.requests[0].headers)


def test_user_and_password_of_the_url_go_to_its_own_place(origin: ScriptedOrigin) -> None:
    own = origin.url("/a").replace("//", "//me:secret@")
    origin.put("/a", b"")
    with client(own) as one:
        one.fetch(own, "segment")
        one.fetch(origin.url("/a", "localhost"), "segment")
    assert origin.requests[0].headers["Authorization"].startswith("Basic ")
    assert "Authorization" not in origin.requests[1].headers
