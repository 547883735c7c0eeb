"""The proxy does to a connection what its mode says, and nothing else."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.rigs.proxy import FaultProxy
from tests.broker.mosquitto import wait_for


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve(peer: socket.socket) -> None:
            with peer, contextlib.suppress(OSError):
                while block := peer.recv(65_536):
                    peer.sendall(block)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(listening.getsockname()[1])


@pytest.fixture
def proxy(echo: int) -> Iterator[FaultProxy]:
    made = FaultProxy(echo)
    yield made
    made.close()


def connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def exchange(peer: socket.socket, data: bytes) -> bytes:
    threading.Thread(target=peer.sendall, args=(data,), daemon=True).start()
    back = b""
    while len(back) < len(data):
        back += peer.recv(65_536)
    return back


def ended(peer: socket.socket) -> bool:
    try:
        return peer.recv(1) == b""
    except OSError as error:
        return not isinstance(error, TimeoutError)


def test_what_goes_in_comes_out_however_much(proxy: FaultProxy) -> None:
    data = bytes(range(256)) * 20_000
    with connect(proxy) as peer:
        assert exchange(peer, data) == data


def test_cut_ends_what_is_open_and_refuses_what_comes(proxy: FaultProxy) -> None:
    with connect(proxy) as peer:
        assert exchange(peer, b"before") == b"before"
        proxy.set("cut")
        assert ended(peer)
        with connect(proxy) as refused:
            assert ended(refused)
        proxy.set("")
        with connect(proxy) as again:
            assert exchange(again, b"after") == b"after"


def test_half_open_swallows_and_its_end_cuts(proxy: FaultProxy) -> None:
    with connect(proxy) as peer:
        assert exchange(peer, b"before") == b"before"
        proxy.set("half-open")
        peer.sendall(b"swallowed")
        peer.settimeout(0.3)
        with pytest.raises(TimeoutError):
            peer.recv(1)
        proxy.set("")
        wait_for(lambda: ended(peer), "the cut")


@pytest.mark.parametrize(("mode", "amount"), [("delay", 0.1), ("drip", 20_000.0)])
def test_a_slow_link_takes_its_time_and_loses_nothing(proxy: FaultProxy, mode: str, amount: float) -> None:
    proxy.set(mode, amount)
    data = b"x" * 4000
    with connect(proxy) as peer:
        began = time.monotonic()
        assert exchange(peer, data) == data
        assert time.monotonic() - began >= 0.19, "there and back"
