"""What tests of a real Icecast need beside it: the reason to skip, and a tap that keeps what a listener was sent."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading

import pytest

from benchmarks.icecast import PROGRAM

needs_icecast = pytest.mark.skipif(
    PROGRAM is None or shutil.which("ffmpeg") is None,
    reason="needs icecast2 and ffmpeg: 'make test' installs them, or 'apt-get install icecast2 ffmpeg'",
)


class WireTap:
    """Forwards connections to a port and keeps what came back on the first of them; a context manager."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.kept = bytearray()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]

    def __enter__(self) -> WireTap:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._server.accept()
            server = socket.create_connection(("127.0.0.1", self._to))
            server.sendall(client.recv(65_536))
            while data := server.recv(65_536):
                self.kept += data
                client.sendall(data)
            client.close()
