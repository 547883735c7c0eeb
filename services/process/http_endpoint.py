"""The HTTP endpoint of a service: /metrics for Prometheus, /healthz and /readyz for whoever keeps it running.

Healthy is what also feeds systemd's watchdog: the work loop turns. Ready means that the broker is reached. Kubernetes
asks for both; nothing else of a service is served. Start at `serve`.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

Check = Callable[[], bool]
_checks: dict[str, Check] = {}


def answer_for(healthy: Check, ready: Check) -> None:
    """Let the endpoint of this process answer for a service; before that, it says neither."""
    _checks.update({"/healthz": healthy, "/readyz": ready})


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = 10  # a client that says nothing holds a thread no longer

    def log_message(self, *words: Any) -> None:
        """Say nothing of requests."""


def serve(host: str, port: int) -> None:
    """Listen in a thread of its own.

    Raises:
        OSError: where that address can't be had.
    """
    metrics = make_wsgi_app()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path not in ("/healthz", "/readyz"):
            return metrics(environ, start_response)  # type: ignore[no-any-return]
        check = _checks.get(path)
        good = check is not None and check()
        start_response("200 OK" if good else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"yes\n" if good else b"no\n"]

    server = make_server(host, port, app, _Server6 if ":" in host else _Server, _Quiet)
    threading.Thread(target=server.serve_forever, name="endpoint", daemon=True).start()
