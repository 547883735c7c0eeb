"""A TCP proxy between two parties on loopback: it counts and delays, speaks TLS, and fails on demand.

A delay is a round trip: half of it each way, and one whole round trip more for a new connection, as TCP's handshake
would take. Faults are modes of the whole link: cut, half-open, drip. In a test it runs in a thread (`FaultProxy`); in
a benchmark in a process of its own, so that its work is nobody's (`Running`, `python -m benchmarks.rigs.proxy`).
Start at `Proxy`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import ssl
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import click

from services.number import Number

_BLOCK = 256 * 1024
_BLOCKS_UNDER_WAY = 16
DRIP_TURN_S = 0.02
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Counts:
    """What went through: connections, and bytes towards the origin and back (TCP payload, without TLS's share)."""

    connections: int = 0
    sent: int = 0
    received: int = 0


class Proxy:
    """Forwards every connection to one address.

    Args:
        host, port: the origin.
        delay_s: round-trip time to add.
        certificate, key: PEM files; given, clients speak TLS to the proxy and it speaks plainly to the origin.

    Attributes:
        mode: "" forwards; "cut" closes what is open and refuses what comes; "delay" adds `amount` seconds each way;
            "half-open" keeps connections and forwards nothing; "drip" forwards `amount` bytes a second in all.
    """

    def __init__(
        self, host: str, port: int, delay_s: float = 0.0, certificate: Path | None = None, key: Path | None = None
    ) -> None:
        self._host, self._port, self._delay_s = host, port, delay_s
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate, key)
        self.counts = Counts()
        self.mode, self.amount = "", 0.0
        self._open: set[asyncio.StreamWriter] = set()
        self._drip_at = 0.0

    async def listen(self) -> asyncio.Server:
        """Begin to accept on a free port of loopback."""
        return await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls, limit=_BLOCK, backlog=512)

    def set(self, mode: str, amount: float = 0.0) -> None:
        """Change what it does. Leaving "half-open" cuts: what was swallowed can't be given back."""
        if mode == "cut" or (self.mode == "half-open" and mode != "half-open"):
            self.drop()
        self.mode, self.amount = mode, amount

    def drop(self) -> None:
        """Close what is open."""
        for writer in self._open:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "cut":
            writer.transport.abort()
            return
        self.counts.connections += 1
        began = asyncio.get_running_loop().time()
        try:
            there_reader, there_writer = await asyncio.open_connection(self._host, self._port, limit=_BLOCK)
        except OSError:
            writer.close()
            return
        ends = {writer, there_writer}
        self._open |= ends
        try:
            # A connect() to the proxy returns at once; its handshake's round trip is paid by the first bytes instead.
            await asyncio.gather(
                self._pump(reader, there_writer, "sent", began + self._delay_s),
                self._pump(there_reader, writer, "received", 0.0),
                return_exceptions=True,
            )
        finally:
            self._open -= ends

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str, not_before: float
    ) -> None:
        """Copy one direction; every block leaves half a round trip after it came, the rate is not limited."""
        loop = asyncio.get_running_loop()
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=_BLOCKS_UNDER_WAY)

        def due() -> float:
            return loop.time() + self._delay_s / 2 + (self.amount if self.mode == "delay" else 0.0)

        async def leave() -> None:
            broken = False  # then what still comes is thrown away until its source ends, too
            while True:
                at, block = await line.get()
                wait_s = at - loop.time()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                if not block:
                    with contextlib.suppress(OSError):
                        writer.close()
                    return
                if not broken:
                    try:
                        await self._forward(writer, block)
                    except OSError:
                        broken = True

        leaving = asyncio.ensure_future(leave())
        try:
            while block := await reader.read(_BLOCK):
                setattr(self.counts, way, getattr(self.counts, way) + len(block))
                if self.mode != "half-open":
                    await line.put((max(due(), not_before + self._delay_s / 2), block))
        except (OSError, ssl.SSLError):
            pass
        await line.put((due(), b""))
        await leaving

    async def _forward(self, writer: asyncio.StreamWriter, block: bytes) -> None:
        loop = asyncio.get_running_loop()
        while block and self.mode == "drip":
            part = block[: max(1, int(self.amount * DRIP_TURN_S))]
            # One after the other, whatever connection they are of: the link as a whole is slow.
            self._drip_at = max(self._drip_at, loop.time()) + len(part) / self.amount
            await asyncio.sleep(self._drip_at - loop.time())
            writer.write(part)
            block = block[len(part) :]
        if block and self.mode != "half-open":
            writer.write(block)
        await writer.drain()


class FaultProxy:
    """A proxy in a thread of its own, whose mode a test changes."""

    def __init__(self, target_port: int) -> None:
        self._proxy = Proxy("127.0.0.1", target_port)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self.port = 0
        self._thread = threading.Thread(target=self._run, name=f"proxy-{target_port}", daemon=True)
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the proxy does not listen")

    def set(self, mode: str, amount: float = 0.0) -> None:
        """Change what it does to every connection, now and to come; see `Proxy`."""
        done = threading.Event()

        def change() -> None:
            self._proxy.set(mode, amount)
            done.set()

        self._loop.call_soon_threadsafe(change)
        done.wait(10)

    def close(self) -> None:
        """End the thread and every connection."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(self._proxy.listen())
        self.port = int(server.sockets[0].getsockname()[1])
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._proxy.drop()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()


async def _run(proxy: Proxy) -> None:
    """Serve until SIGTERM; say the port first. SIGUSR1 prints the counts, and starts them again from zero."""
    server = await proxy.listen()
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def report() -> None:
        print(json.dumps(asdict(proxy.counts)), flush=True)
        proxy.counts = Counts()

    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, report)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    server.close()


class Running:
    """A proxy process for as long as it is open.

    Example:
        with Running("127.0.0.1:8080", delay_ms=50) as proxy:
            requests.get(f"http://127.0.0.1:{proxy.port}/radio.m3u8")
            print(proxy.counts().connections)
    """

    def __init__(
        self, to: str, delay_ms: float = 0.0, certificate: Path | None = None, key: Path | None = None
    ) -> None:
        argv = [sys.executable, "-m", "benchmarks.rigs.proxy", "--to", to, "--delay-ms", str(delay_ms)]
        if certificate is not None:
            argv += ["--certificate", str(certificate), "--key", str(key)]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, cwd=ROOT)
        self.port = int(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the proxy ended with {self.process.wait()}")
        return line

    def counts(self) -> Counts:
        """Return what went through since the last call."""
        self.process.send_signal(signal.SIGUSR1)
        return Counts(**json.loads(self._line()))

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


@click.command()
@click.option("--to", required=True, metavar="HOST:PORT", help="Where to.")
@click.option("--delay-ms", type=Number(0, 10_000), default=0.0, help="Round-trip time to add.")
@click.option("--certificate", type=click.Path(path_type=Path), help="Speak TLS to clients with this PEM certificate.")
@click.option("--key", type=click.Path(path_type=Path), help="Its key.")
def main(to: str, delay_ms: float, certificate: Path | None, key: Path | None) -> None:
    """Forward a free port of loopback to HOST:PORT."""
    host, _, port = to.rpartition(":")
    asyncio.run(_run(Proxy(host, int(port), delay_ms / 1000, certificate, key)))


if __name__ == "__main__":
    main()
