"""A real HTTP origin on loopback that does what a test tells it: serve, stall, drip, truncate, reset, redirect, lie.

`with ScriptedOrigin() as origin: origin.put("/a.m3u8", text); origin.url("/a.m3u8")`. A path may hold bytes, text, a
`Reply`, a list of them (one a request, the last one stays) or a function of the `Request`. Connections and requests are
counted. `wait_for(condition)` waits for a condition with a deadline: tests never sleep to synchronise.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    path: str
    query: str
    headers: dict[str, str]
    at: float
    connection: int


@dataclass(frozen=True)
class Reply:
    """An answer, and what goes wrong with it.

    Attributes:
        truncate: close the connection after this many bytes of the body, though more was announced.
        reset: reset the TCP connection (RST) instead of answering.
        drip_s: send one byte, then wait this long, and so on.
        hold: wait for this event before answering.
        endless: go on sending the body again and again (chunked), until the client has enough.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    truncate: int | None = None
    reset: bool = False
    drip_s: float = 0.0
    hold: threading.Event | None = None
    endless: bool = False


Script = bytes | str | Reply | Callable[[Request], "bytes | str | Reply"] | list[Any]


class ScriptedOrigin:
    """The origin; a context manager. `requests` and `connections` are what arrived so far."""

    def __init__(self, tls: Any = None) -> None:
        self.scripts: dict[str, Script] = {}
        self.requests: list[Request] = []
        self.connections = 0
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._taken: dict[str, int] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with outer._lock:
                    outer.connections += 1
                    self.number = outer.connections

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                request = Request(parts.path, parts.query, dict(self.headers), time.monotonic(), self.number)
                with outer._lock:
                    outer.requests.append(request)
                outer._answer(self, request)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.scheme = "http"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
            self.scheme = "https"
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> ScriptedOrigin:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Return the URL of a path."""
        return f"{self.scheme}://{host}:{self.port}{path}"

    def put(self, path: str, script: Script) -> None:
        """Say what a path answers from now on."""
        with self._lock:
            self.scripts[path] = script
            self._taken.pop(path, None)

    def serve(self, folder: Path, below: str = "/") -> None:
        """Serve every file of a folder."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.put(below + file.relative_to(folder).as_posix(), file.read_bytes())

    def count(self, path: str) -> int:
        """Return how often a path was asked for."""
        return sum(request.path == path for request in list(self.requests))

    def _script(self, request: Request) -> Reply:
        with self._lock:
            script = self.scripts.get(request.path, Reply(b"not here", 404))
            if isinstance(script, list):
                turn = self._taken.get(request.path, 0)
                self._taken[request.path] = turn + 1
                script = script[min(turn, len(script) - 1)]
        if callable(script):
            script = script(request)
        if isinstance(script, str):
            script = script.encode()
        if isinstance(script, bytes):
            script = Reply(script)
        return script

    def _answer(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        reply = self._script(request)
        if reply.hold is not None:
            while not reply.hold.wait(0.05) and not self.closing.is_set():
                pass
        if reply.reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
            return
        body, status, headers = reply.body, reply.status, dict(reply.headers)
        wanted = request.headers.get("Range", "")
        if wanted.startswith("bytes=") and status == 200 and "no-range" not in headers:
            first, _, last = wanted[6:].partition("-")
            end = min(int(last or len(body) - 1), len(body) - 1)
            headers["Content-Range"] = f"bytes {first}-{end}/{len(body)}"
            body, status = body[int(first) : end + 1], 206
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        with contextlib.suppress(OSError):
            if reply.endless:
                handler.send_header("Transfer-Encoding", "chunked")
                handler.end_headers()
                while not self.closing.is_set():
                    handler.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n")
                return
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            if reply.truncate is not None:
                handler.wfile.write(body[: reply.truncate])
                handler.wfile.flush()
                handler.connection.shutdown(socket.SHUT_RDWR)
                handler.close_connection = True
            elif reply.drip_s:
                for byte in body:
                    handler.wfile.write(bytes([byte]))
                    if self.closing.wait(reply.drip_s):
                        return
            else:
                handler.wfile.write(body)


def wait_for(condition: Callable[[], Any], within_s: float = 30.0, what: str = "the condition") -> Any:
    """Wait until a condition holds and return its value.

    Raises:
        AssertionError: it did not hold within the time.
    """
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come about within {within_s:g} s"
        time.sleep(0.01)


BUSY = 4


@contextlib.contextmanager
def expect_within(seconds: float) -> Iterator[None]:
    """Fail where the block takes longer than this, and what other tests on the same machine may add.

    It tells what ends by itself from what would wait for a timeout; benchmarks measure.
    """
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < BUSY * seconds, f"took {took:.2f} s, at most {seconds:g} s were promised"
