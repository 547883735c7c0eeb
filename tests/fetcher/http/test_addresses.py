"""Which addresses a stream may connect to, and how long an address that does not answer costs."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from services.fetcher.http.addresses import addresses_of, connect, is_local_host, is_private
from services.fetcher.http.errors import FetchError
from tests.fetcher.http.asking import PUBLIC, client
from tests.fetcher.origin import ScriptedOrigin, expect_within

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
    assert is_private(address) is private


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("origin", True),
        ("box.local", True),
        ("nas.home.arpa.", True),
        ("origin.genre.svc", True),
        ("radio.example", False),
        ("1.1.1.1", False),
        ("local.example", False),
        ("notlocal", True),
        ("xlocal.example", False),
    ],
)
def test_a_stream_is_private_by_what_its_url_says(host: str, local: bool) -> None:
    assert is_local_host(host) is local


def test_a_public_name_that_resolves_to_a_private_address_opens_nothing(
    origin: ScriptedOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: real("127.0.0.1" if host.endswith(".example") else host, *a, **k)
    )
    origin.put("/admin", b"secret")
    with client("http://radio.example/a.m3u8") as one:
        for host in ("radio.example", "127.0.0.1", "other.example", "localhost"):
            with pytest.raises(FetchError) as caught:
                one.get(origin.url("/admin", host), "segment")
            assert caught.value.cause == "forbidden-address"
    assert origin.connections == 0


def test_of_a_name_with_public_and_private_addresses_only_the_public_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, 1, 6, "", (address, 80)) for address in ("10.0.0.1", "8.8.8.8", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: found)
    assert addresses_of("radio.example", 80, private=False) == [(socket.AF_INET, ("8.8.8.8", 80))]
    assert len(addresses_of("radio.example", 80, private=True)) == 3


def test_families_take_turns_beginning_with_the_resolvers_favourite(monkeypatch: pytest.MonkeyPatch) -> None:
    six, four = socket.AF_INET6, socket.AF_INET
    found = [(six, 1, 6, "", (f"2606:4700::{n}", 80, 0, 0)) for n in (1, 2, 3)]
    found += [(four, 1, 6, "", (f"8.8.8.{n}", 80)) for n in (1, 2)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: found)
    assert [family for family, _ in addresses_of("radio.example", 80, False)] == [six, four, six, four, six]


@pytest.fixture
def black_hole() -> Iterator[tuple[int, tuple[str, int]]]:
    """An address that answers nothing: its queue of connections is full."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
            waiting.append(sock)
        yield socket.AF_INET, full.getsockname()
        for sock in waiting:
            sock.close()


def nothing() -> None:
    pass


def test_an_address_behind_a_black_hole_costs_a_moment_and_not_the_whole_timeout(
    black_hole: tuple[int, tuple[str, int]],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, expect_within(3):
        good = (socket.AF_INET, server.getsockname())
        for addresses in ([black_hole, good], [black_hole, black_hole, good], [good, black_hole]):
            with connect(addresses, 20.0, nothing) as sock:
                assert sock.getpeername() == server.getsockname()


def test_where_no_address_answers_the_timeout_is_for_all_together(black_hole: tuple[int, tuple[str, int]]) -> None:
    with expect_within(2), pytest.raises(TimeoutError, match=r"0\.6 s"):
        connect([black_hole] * 40, 0.6, nothing)


def test_refused_addresses_are_passed_over_at_once_and_named_where_there_is_no_other() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        refused = (socket.AF_INET, gone.getsockname())
    unreachable = (socket.AF_INET6, ("2001:db8::1", 80, 0, 0))
    with pytest.raises(ConnectionRefusedError):
        connect([unreachable, refused], 5.0, nothing)
    with socket.create_server(("127.0.0.1", 0)) as server, expect_within(1):
        connect([refused, (socket.AF_INET, server.getsockname())], 5.0, nothing).close()


def test_a_wait_for_an_address_ends_when_the_stream_is_stopped(black_hole: tuple[int, tuple[str, int]]) -> None:
    def stopped() -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        connect([black_hole], 20.0, stopped)
