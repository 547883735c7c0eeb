from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from services.dashboard.http.access import Access
from services.dashboard.http.guesses import FREE_TRIES
from services.dashboard.http.prefix import inner_path, prefix_of
from services.settings.schema import Dashboard

OURS = {"x-genre-request": "1"}


@pytest.fixture
def access(tmp_path: Path) -> Access:
    (tmp_path / "password").write_text("right\n")
    hosts = ["genre.local", "Edge-Box:8080", "https://genre.example.org:8443/genre/", "2001:db8::1", "[2001:db8::2]:80"]
    return Access(Dashboard.model_validate({"password_file": tmp_path / "password", "hosts": hosts, "host": "0.0.0.0"}))


@pytest.mark.parametrize("host", [
    "genre.local", "GENRE.local.", "genre.local:8080", "edge-box", "edge-box:1", "genre.example.org", "localhost:8080",
    "192.168.1.5:8080", "[::1]:8080", "[fe80::1%25eth0]", "[2001:db8::1]",
])  # fmt: skip
def test_a_host_is_known_by_its_name_however_it_was_written(access: Access, host: str) -> None:
    assert access.host_is_ours(host)


@pytest.mark.parametrize("host", [
    "", "evil.example", "genre.local.evil.example", "genre.local@evil.example", "a b", ":", "[", "x" * 9000
])  # fmt: skip
def test_another_host_is_not(access: Access, host: str) -> None:
    assert not access.host_is_ours(host)


@pytest.mark.parametrize("entry", ["", "https://", "two words", "genre.local:port", "http://[::1", "*.example.org"])
def test_an_entry_of_hosts_that_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ValidationError, match="is no host"):
        Dashboard.model_validate({"hosts": [entry]})


def test_a_request_through_a_proxy_that_changes_host_is_ours_where_its_name_is_known(access: Access) -> None:
    inner = {**OURS, "host": "127.0.0.1:8080"}
    assert access.foreign({**inner, "origin": "https://genre.example.org:8443"}) == ""
    why = access.foreign({**inner, "origin": "https://other.example.org"})
    assert "proxy_set_header Host" in why and "'other.example.org'" in why and "dashboard.hosts" in why
    assert access.foreign({**inner, "origin": "null"}) and access.foreign({"host": "genre.local"})
    assert access.foreign({**inner, "origin": "https://genre.local", "sec-fetch-site": "cross-site"})


def test_a_right_password_elsewhere_forgives_no_wrong_ones_here_and_locks_nobody_out(access: Access) -> None:
    for _ in range(FREE_TRIES):
        assert not access.may_change({}, {"authorization": "Bearer wrong"}, "192.0.2.7")
        assert access.may_change({}, {"authorization": "Bearer right"}, "192.0.2.8")
    assert access.login("right", "192.0.2.7")[0] is None, "it has guessed too often"
    assert access.login("right", "192.0.2.9")[0]


def test_the_path_before_ours_is_the_proxys_word_or_the_settings() -> None:
    assert prefix_of({}, "/genre") == "/genre" and prefix_of({}, "") == ""
    assert prefix_of({"x-forwarded-prefix": "/music/"}, "/genre") == "/music"
    assert prefix_of({"x-ingress-path": "/api/hassio_ingress/aB-c_1"}, "") == "/api/hassio_ingress/aB-c_1"
    for hostile in ("//evil.example", "/a/../b", "/a\r\nset-cookie: x", "https://evil.example", "/a;b", "/<b>"):
        assert prefix_of({"x-forwarded-prefix": hostile}, "") in ("", "/evil.example")
    assert inner_path("/genre/api/board", "/genre") == inner_path("/api/board", "/genre") == "/api/board"
    assert inner_path("/genre", "/genre") is None and inner_path("/genre", "") == "/genre"
    assert inner_path("/genres/x", "/genre") == "/genres/x"


@pytest.mark.parametrize(("written", "meant"), [("genre", "/genre"), ("/a/b/", "/a/b"), ("/", ""), ("", "")])
def test_a_base_path_may_be_written_with_or_without_slashes(written: str, meant: str) -> None:
    assert Dashboard(base_path=written).base_path == meant


@pytest.mark.parametrize("wrong", ["/a b", "https://x/genre", "/../x", "/a?b", "/a//b"])
def test_a_base_path_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match="is no path"):
        Dashboard(base_path=wrong)


def test_only_self_and_origins_may_frame_the_page() -> None:
    assert Dashboard.model_validate({"frame_ancestors": ["self", "https://ha.local:8123/"]}).frame_ancestors == (
        "'self'", "https://ha.local:8123")  # fmt: skip
    for wrong in ("*", "ha.local", "javascript:x", "https://a.b; script-src *", "https://a.b/c"):
        with pytest.raises(ValidationError):
            Dashboard.model_validate({"frame_ancestors": [wrong]})
