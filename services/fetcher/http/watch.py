"""Ends a stream's request from outside, when the stream is stopped or the time of the whole response is up.

A blocked read returns only when something comes or its own timeout is over: a stopping service would hang, and a server
that sends one byte now and then would never time out. One thread for all streams looks four times a second and shuts
the sockets of whoever has nothing more to wait for. Not the timeouts of a single wait (those are the socket's own).
Start at `RequestWatch`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import weakref

LOOK_S = 0.25


class StoppedError(Exception):
    """The stream was told to stop while it waited."""


class RequestWatch:
    """The connections of one stream and how long its current request may take; one thread, one request at a time.

    Args:
        stop: when it is set, every wait of the stream ends.

    Attributes:
        connections: how many TCP connections were opened so far.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self.connections = 0
        self._deadline = float("inf")
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()

    def begin(self, deadline: float) -> None:
        """Watch over a request until this monotonic time."""
        with self._lock:
            self._deadline = deadline
        _LOOKOUT.add(self)

    def end(self) -> None:
        """The request is over; its connection may stay open."""
        _LOOKOUT.remove(self)
        with self._lock:
            self._deadline = float("inf")

    def opened(self, sock: socket.socket) -> None:
        """Take a new connection under watch; it is forgotten with its socket."""
        with self._lock:
            self._sockets.add(sock)

    def check(self) -> None:
        """Raise StoppedError or TimeoutError where there is nothing more to wait for."""
        if self.stop.is_set():
            raise StoppedError
        if time.monotonic() > self._deadline:
            raise TimeoutError("the whole response took too long")

    def look(self) -> None:
        """Shut the connections where there is nothing more to wait for: a blocked read then ends at once."""
        with self._lock:
            if not self.stop.is_set() and time.monotonic() <= self._deadline:
                return
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    # Not SSLSocket.shutdown: that one would read on in clear text.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Lookout:
    """The thread that looks; it starts with the first request."""

    def __init__(self) -> None:
        self._watches: set[RequestWatch] = set()
        self._busy = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, watch: RequestWatch) -> None:
        with self._busy:
            self._watches.add(watch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="request-watch", daemon=True)
                self._thread.start()
            elif len(self._watches) == 1:
                self._busy.notify()

    def remove(self, watch: RequestWatch) -> None:
        with self._busy:
            self._watches.discard(watch)

    def _run(self) -> None:
        while True:
            with self._busy:
                while not self._watches:
                    self._busy.wait()
                watches = list(self._watches)
            for watch in watches:
                watch.look()
            time.sleep(LOOK_S)


_LOOKOUT = _Lookout()
