"""A TCP proxy that misbehaves on demand: cut, delay, half-open (swallow), drip.

One proxy a link, one thread for all of its connections. Start at `FaultProxy`.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field

CHUNK = 65_536
MOST_WAITING = 4 << 20


@dataclass(eq=False)
class _Pipe:
    """One direction of one connection."""

    source: socket.socket
    sink: socket.socket
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    held: int = 0
    ended: bool = False


class FaultProxy:
    """Forwards a port to another one; `mode` changes what it does to every connection, now and to come.

    Modes: "" forwards; "cut" closes what is open and refuses what comes; "delay" adds `amount` seconds each way;
    "half-open" keeps connections and forwards nothing; "drip" forwards `amount` bytes a second.
    """

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.mode, self.amount = "", 0.0
        self._pipes: list[_Pipe] = []
        self._allowance, self._refilled = 0.0, time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{target_port}", daemon=True)
        self._thread.start()

    def set(self, mode: str, amount: float = 0.0) -> None:
        """Change what it does. Leaving "half-open" cuts: what was swallowed can't be given back."""
        if self.mode == "half-open" and mode != "half-open":
            self.mode = "cut"
            time.sleep(0.05)
        self.amount, self.mode = amount, mode

    def close(self) -> None:
        """End the thread and every connection."""
        self._stop.set()
        self._thread.join(5)
        self._drop_all()
        self._listener.close()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        selector = selectors.DefaultSelector()
        while not self._stop.is_set():
            selector.close()
            selector = selectors.DefaultSelector()
            selector.register(self._listener, selectors.EVENT_READ)
            for pipe in self._pipes:
                if not pipe.ended and pipe.held < MOST_WAITING:
                    with contextlib.suppress(KeyError, ValueError):
                        selector.register(pipe.source, selectors.EVENT_READ, pipe)
            busy = any(pipe.waiting for pipe in self._pipes)
            for key, _ in selector.select(0.002 if busy else 0.02):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
            if self.mode == "cut":
                self._drop_all()
            self._write()
        selector.close()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        if self.mode == "cut":
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target), timeout=2)
        except OSError:
            client.close()
            return
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pipes += [_Pipe(client, server), _Pipe(server, client)]

    def _read(self, pipe: _Pipe) -> None:
        try:
            data = pipe.source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            pipe.ended = True
            return
        if self.mode == "half-open":
            return
        due = time.monotonic() + (self.amount if self.mode == "delay" else 0.0)
        pipe.waiting.append((due, data))
        pipe.held += len(data)

    def _write(self) -> None:
        now = time.monotonic()
        if self.mode == "drip":
            self._allowance = min(self._allowance + (now - self._refilled) * self.amount, self.amount)
        self._refilled = now
        for pipe in self._pipes:
            while pipe.waiting and pipe.waiting[0][0] <= now and self.mode != "half-open":
                due, data = pipe.waiting.popleft()
                part = data
                if self.mode == "drip":
                    part = data[: int(self._allowance)]
                    self._allowance -= len(part)
                try:
                    sent = pipe.sink.send(part) if part else 0
                except BlockingIOError:
                    sent = 0
                except OSError:
                    pipe.ended, sent = True, len(data)
                pipe.held -= sent
                if sent < len(data):
                    pipe.waiting.appendleft((due, data[sent:]))
                    break
        over = [pipe for pipe in self._pipes if pipe.ended and not pipe.waiting]
        if over:
            ends = {id(end) for pipe in over for end in (pipe.source, pipe.sink)}
            gone = [pipe for pipe in self._pipes if id(pipe.source) in ends or id(pipe.sink) in ends]
            self._drop(gone)

    def _drop(self, pipes: list[_Pipe]) -> None:
        for pipe in pipes:
            for end in (pipe.source, pipe.sink):
                with contextlib.suppress(OSError):
                    end.close()
        self._pipes = [pipe for pipe in self._pipes if pipe not in pipes]

    def _drop_all(self) -> None:
        self._drop(list(self._pipes))
