"""A real forward proxy on loopback: absolute-form requests and CONNECT; every name leads to where the test says."""

from __future__ import annotations

import socket
import threading
from typing import Any


class ForwardProxy:
    """A context manager; `asked` are the first lines that came, `credentials` the Proxy-Authorization headers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.asked: list[str] = []
        self.credentials: list[str] = []
        self._closing = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.1)
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ForwardProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(5)
        self._server.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._server.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(65_536)
        lines = head.decode("latin-1").split("\r\n")
        self.asked.append(lines[0])
        self.credentials += [line for line in lines if line.lower().startswith("proxy-authorization:")]
        origin = socket.create_connection(("127.0.0.1", self._port))
        if lines[0].startswith("CONNECT "):
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            method, target, version = lines[0].split(" ")
            path = "/" + target.split("://", 1)[1].partition("/")[2]
            origin.sendall("\r\n".join([f"{method} {path} {version}", *lines[1:]]).encode("latin-1"))
        for pair in ((client, origin), (origin, client)):
            threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(source: socket.socket, sink: Any) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
