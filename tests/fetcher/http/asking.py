"""One client to ask with, and a TCP server that answers byte by byte what a test says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.fetcher.http.client import Kind, Origin
from services.fetcher.http.errors import FetchError
from services.settings.schema import Stream
from tests.fetcher.builders import hls

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
