"""`fleet`: a thousand boxes on one upstream Mosquitto, as their bridges would be: connections, rates, a storm.

Each box is an MQTT 5 connection of its own over TLS, logs in as itself, has a will, and sends one stream's results and
ledgers and its own status at the rate that a real box was measured at (docs/fleet.md). The boxes live in a few
processes; the broker is the real one, as `genre broker fleet init` makes it. Start at `run`; `boxes` is one process.
"""

from __future__ import annotations

import asyncio
import getpass
import multiprocessing
import random
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import psutil
from click.testing import CliRunner
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.accounting import percentile, usage
from benchmarks.report import Report
from broker.command import broker as broker_command
from services.contract.messages import Ledger, Result, Status
from services.contract.windows import SAMPLE_RATE
from services.errors import GenreError
from services.monitor import fleet
from services.monitor.fleet import Fleet
from services.mqtt.client import MqttClient
from services.mqtt.reader import read
from services.settings.schema import Broker
from services.text import utc

HOP_S = 33_000 / SAMPLE_RATE
SEGMENT_S = 6.0
KEEPALIVE_S = 20
BACKOFF_S = (2.0, 30.0)
"""restart_timeout of the bridge: between these, at random, three times further each time."""
CONNECTING = 8
LABELS = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")


class SimulatedBox:
    """One bridge: its connection, its will, and what one stream makes it send."""

    def __init__(self, name: str, hub: int, ca_file: Path, password: str, loop: asyncio.AbstractEventLoop) -> None:
        self.name, self._hub, self._loop = name, hub, loop
        self.topics = fleet.topics("genre", name)
        self.sent = self.acked = self.refused = self.connects = 0
        self.connected_at = 0.0
        self._draw = random.Random(name)
        client = self.client = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5)
        client.suppress_exceptions = True
        client.max_inflight_messages_set(20)
        client.tls_set(ca_certs=str(ca_file))
        client.username_pw_set(name, password)
        client.will_set(fleet.link(name), b"0", 1, True)
        client.on_connect = self._connect
        client.on_publish = self._puback
        client.on_socket_open = lambda c, u, sock: self._in_loop(self._watch, sock)
        client.on_socket_close = lambda c, u, sock: self._in_loop(self._forget, sock.fileno())
        client.on_socket_register_write = lambda c, u, sock: self._in_loop(self._write, sock)
        client.on_socket_unregister_write = lambda c, u, sock: self._in_loop(self._written, sock)
        self._thread = threading.get_ident()

    def _in_loop(self, call: Callable[[Any], None], sock: Any) -> None:
        """Call at once from the loop's thread; connecting is done in others."""
        if threading.get_ident() == self._thread:
            call(sock)
        else:
            self._loop.call_soon_threadsafe(call, sock)

    def _watch(self, sock: Any) -> None:
        with suppress(ValueError, OSError):
            self._loop.add_reader(sock, self._read, sock)

    def _read(self, sock: Any) -> None:
        self.client.loop_read(1)
        with suppress(ValueError, OSError):
            held: Any = self.client.socket()
            while held is sock and sock.pending():
                self.client.loop_read(1)
                held = self.client.socket()

    def _write(self, sock: Any) -> None:
        with suppress(ValueError, OSError):
            self._loop.add_writer(sock, self.client.loop_write)

    def _written(self, sock: Any) -> None:
        with suppress(ValueError, OSError):
            self._loop.remove_writer(sock)

    def _forget(self, number: int) -> None:
        if number >= 0:
            with suppress(ValueError, OSError):
                self._loop.remove_reader(number)
                self._loop.remove_writer(number)

    def _connect(self, client: Any, userdata: Any, flags: Any, code: Any, properties: Any) -> None:
        if code.is_failure:
            self.refused += 1
            return
        self.connects += 1
        self.connected_at = time.time()
        self.send(fleet.link(self.name), b"1", retain=True)

    def _puback(self, client: Any, userdata: Any, mid: int, code: Any, properties: Any) -> None:
        self.acked += 1
        self.refused += code.is_failure

    def send(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Publish with QoS 1; kept until it is acknowledged, as a bridge does."""
        self.sent += 1
        self.client.publish(topic, payload, 1, retain)

    async def live(self, pool: ThreadPoolExecutor, start_in_s: float) -> None:
        """Connect, stay connected, and send what a stream gives, for ever."""
        await asyncio.sleep(start_in_s)
        hearing = asyncio.create_task(self._hear())
        pause = BACKOFF_S[0]
        first = True
        try:
            while True:
                began = time.monotonic()
                with suppress(OSError):
                    if first:
                        connect = lambda: self.client.connect("127.0.0.1", self._hub, KEEPALIVE_S, clean_start=False)  # noqa: E731
                        await self._loop.run_in_executor(pool, connect)
                        first = False
                    else:
                        await self._loop.run_in_executor(pool, self.client.reconnect)
                    pause = BACKOFF_S[0]
                    while self.client.socket() is not None:
                        await asyncio.sleep(1.0)
                        self.client.loop_misc()
                if time.monotonic() - began > 60:
                    pause = BACKOFF_S[0]
                pause = min(BACKOFF_S[1], self._draw.uniform(BACKOFF_S[0], 3 * pause))
                await asyncio.sleep(pause)
        finally:
            hearing.cancel()

    async def _hear(self) -> None:
        for service in ("fetcher", "featurizer", "inference"):
            status = Status.model_validate(
                {"service": service, "instance": "1", "state": "online", "boot_id": "sim", "version": "0",
                 "since": utc(time.time()),
                 "details": {"model": "genre-sounds", "recipe": "mel96-mel115", "backend": "onnx"}}
            )  # fmt: skip
            self.send(self.topics.status(service, "1"), status.to_json(), retain=True)
        window = 0
        await asyncio.sleep(self._draw.uniform(0, SEGMENT_S))
        due = time.monotonic()
        while True:
            # As measured: a segment's windows come as one burst, each with its ledger moving once or twice around it.
            heard = int(SEGMENT_S / HOP_S)
            self._ledger(window, heard)
            for _ in range(heard):
                self._result(window)
                window += 1
            await asyncio.sleep(1.0)
            self._ledger(window, 0)
            due += heard * HOP_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _result(self, window: int) -> None:
        start_s = window * HOP_S
        weights = [self._draw.random() for _ in LABELS]
        scores = {label: round(weight / sum(weights), 4) for label, weight in zip(LABELS, weights, strict=True)}
        genre = max(scores, key=lambda label: scores[label])
        result = Result(
            id=f"radio1/0/{window * 33_000}/genre-sounds", stream="radio1", genre=genre, confidence=scores[genre],
            kind="music", scores=scores, start_s=round(start_s, 3), end_s=round(start_s + 2.993, 3),
            observed_at=utc(time.time() - 6), epoch=0, padded=False, title="A title of usual length",
            artist="The Examples", level_dbfs=-18.2, model="genre-sounds", model_version="1",
            published_at=utc(time.time()),
            latency_ms=420.0,
        )  # fmt: skip
        self.send(self.topics.results, result.to_json())

    def _ledger(self, window: int, flying: int) -> None:
        heard = window * 33_000
        ledger = Ledger(stream="radio1", timeline=heard, classified=heard, windows=window, in_flight=flying * 33_000)
        self.send(self.topics.ledger("radio1"), ledger.to_json(), retain=True)


def boxes(names: list[str], hub: int, folder: Path, ramp_s: float, pipe: Connection) -> None:
    """Live as some boxes until the pipe says stop; answer every other word with how they are (a process's main)."""

    async def live() -> None:
        loop = asyncio.get_running_loop()
        pool = ThreadPoolExecutor(CONNECTING)
        made = [
            SimulatedBox(n, hub, folder / "ca.crt", (folder / "passwords" / n).read_text().strip(), loop) for n in names
        ]
        tasks = [asyncio.create_task(box.live(pool, i * ramp_s / len(made))) for i, box in enumerate(made)]
        while (await loop.run_in_executor(None, pipe.recv)) != "stop":
            pipe.send(
                {
                    "connected": sum(box.client.is_connected() for box in made),
                    "sent": sum(box.sent for box in made),
                    "acked": sum(box.acked for box in made),
                    "refused": sum(box.refused for box in made),
                    "connects": sum(box.connects for box in made),
                    "connected_at": [box.connected_at for box in made],
                }
            )
        for task in tasks:
            task.cancel()
        for box in made:
            box.client.disconnect()

    asyncio.run(live())


class Hub:
    """The upstream broker."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.folder, state = folder / "hub", folder / "state"
        state.mkdir()
        where = ["--folder", str(self.folder)]
        host = ["--host", "127.0.0.1", "--port", str(self.port), "--state", str(state)]
        for words in (["init", *where, *host], ["box", *where, *names], ["viewer", *where, "reader"]):
            done = CliRunner().invoke(broker_command, ["fleet", *words], catch_exceptions=False)
            if done.exit_code != 0:
                raise GenreError("genre broker fleet", done.output, "repair that first")
        self.config = self.folder / "mosquitto.conf"
        text = self.config.read_text().replace(f"listener {self.port}", f"listener {self.port} 127.0.0.1")
        self.config.write_text(f"user {getpass.getuser()}\n{text}")
        self.start()

    def start(self) -> None:
        """Start it."""
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if program is None:
            raise GenreError("Mosquitto", "is not installed", "run 'make setup'")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([program, "-c", str(self.config)], stdout=log, stderr=log)
        self.pid = self.process.pid

    def stop(self) -> None:
        """End it; it writes its store."""
        self.process.terminate()
        self.process.wait(20)


class Reader:
    """What a dashboard does: reads everything with `Fleet`, and notes how late results come."""

    def __init__(self, hub: Hub) -> None:
        self.latencies_ms: list[float] = []
        self.messages = 0
        self._lock = threading.Lock()
        self.fleet = Fleet("genre", on_result=self._result)
        at = Broker.model_validate(
            {"host": "127.0.0.1", "port": hub.port, "ca_file": hub.folder / "ca.crt", "username": "reader",
             "password_file": hub.folder / "passwords" / "reader"}
        )  # fmt: skip
        self.mqtt = MqttClient(at, "reader", durable=True, receive_maximum=1_000)
        for topic_filter, take in self.fleet.takers.items():
            read(self.mqtt, topic_filter, take)
        self.mqtt.start()
        self.mqtt.wait_connected(20)

    def _result(self, box: str, result: Result, payload: bytes) -> None:
        from datetime import datetime

        published = datetime.fromisoformat(result.published_at.replace("Z", "+00:00")).timestamp()
        with self._lock:
            self.latencies_ms.append(1000 * (time.time() - published))

    def take(self) -> list[float]:
        """Return the latencies since the last call."""
        with self._lock:
            taken, self.latencies_ms = self.latencies_ms, []
            return taken


def run(out: Path, count: int, processes: int, seconds: float, say: Callable[[str], None]) -> Path:
    """Simulate a fleet; return the report's folder."""
    report = Report("fleet", out, {"boxes": count, "processes": processes, "seconds": seconds})
    folder = Path(tempfile.mkdtemp(prefix="genre-fleet-"))
    names = [f"edge-{number:04}" for number in range(count)]
    hub = Hub(folder, names)
    context = multiprocessing.get_context("spawn")
    ends: list[tuple[Any, Connection]] = []
    reader = Reader(hub)
    try:
        empty_mib = usage_mib(hub.pid)
        for part in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=boxes, args=(names[part::processes], hub.port, hub.folder, 20.0, theirs))
            process.start()
            ends.append((process, ours))

        def asked() -> dict[str, Any]:
            for _, pipe in ends:
                pipe.send("how")
            answers = [pipe.recv() for _, pipe in ends]
            total = {key: sum(answer[key] for answer in answers) for key in answers[0] if key != "connected_at"}
            return {**total, "connected_at": [at for answer in answers for at in answer["connected_at"]]}

        def wait_connected(limit_s: float) -> float:
            began = time.monotonic()
            while asked()["connected"] < count:
                if time.monotonic() - began > limit_s:
                    raise GenreError("fleet", f"not {count} boxes connected in {limit_s:g} s", "see the broker's log")
                time.sleep(0.5)
            return time.monotonic() - began

        wait_connected(90)
        time.sleep(10)
        steady = measure(hub, reader, asked, ends, seconds)
        say(f"steady: {steady}")
        storm = restart(hub, reader, asked, count, wait_connected)
        say(f"broker restarted: {storm}")
        seen = reader.fleet.boxes()
        steady["empty_mib"] = round(empty_mib, 1)
        report.values.update(steady=steady, storm=storm)
        report.values["seen"] = {
            "boxes": len(seen), "linked": sum(box.linked is True for box in seen),
            "results": sum(box.results for box in seen), "duplicates": sum(box.duplicates for box in seen),
        }  # fmt: skip
        say(report.table(
            f"{count} boxes on one Mosquitto (TLS, QoS 1, one reader of everything)", ["what", "value"],
            [[key, value] for part in (steady, storm, report.values["seen"]) for key, value in part.items()],
        ))  # fmt: skip
        return report.save()
    finally:
        for process, pipe in ends:
            with suppress(OSError):
                pipe.send("stop")
            process.join(10)
            if process.is_alive():
                process.kill()
        reader.mqtt.stop()
        hub.stop()
        shutil.rmtree(folder, ignore_errors=True)


def usage_mib(pid: int) -> float:
    """Return a process's resident memory now, in MiB."""
    return float(psutil.Process(pid).memory_info().rss) / 2**20


def tcp_bytes(port: int) -> tuple[int, int]:
    """Return the bytes that a server received and sent on its open connections since they were opened, TLS included."""
    argv = ["ss", "-tinH", "state", "established", f"( sport = :{port} )"]
    text = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20).stdout
    received = sum(int(found) for found in re.findall(r"bytes_received:(\d+)", text))
    return received, sum(int(found) for found in re.findall(r"bytes_sent:(\d+)", text))


def heard(reader: Reader) -> list[float]:
    """Return the latencies since the last call, sorted: where nobody read anything, nothing was measured."""
    if not (late := sorted(reader.take())):
        raise GenreError("fleet", "the reader got no result", "see the broker's log")
    return late


def measure(hub: Hub, reader: Reader, asked: Callable[[], Any], ends: Any, seconds: float) -> dict[str, Any]:
    """Account for some seconds of steady life."""
    reader.take()
    before, broker, began = asked(), usage(hub.pid).cpu_s, time.monotonic()
    mine = psutil.Process().cpu_times()
    wire = tcp_bytes(hub.port)
    time.sleep(seconds)
    wall, after, used = time.monotonic() - began, asked(), usage(hub.pid).cpu_s
    now = psutil.Process().cpu_times()
    late = heard(reader)
    received, sent = (now_ - then for now_, then in zip(tcp_bytes(hub.port), wire, strict=True))
    return {
        "messages_in_per_s": round((after["acked"] - before["acked"]) / wall, 1),
        "results_read_per_s": round(len(late) / wall, 1),
        "broker_received_kb_per_s": round(received / wall / 1000, 1),
        "broker_sent_kb_per_s": round(sent / wall / 1000, 1),
        "broker_cores": round((used - broker) / wall, 3),
        "broker_mib": round(usage_mib(hub.pid), 1),
        "reader_cores": round((now.user + now.system - mine.user - mine.system) / wall, 3),
        "p50_ms": round(percentile(late, 0.5), 1),
        "p99_ms": round(percentile(late, 0.99), 1),
        "most_ms": round(late[-1], 1),
        "refused": after["refused"],
        "waiting": after["sent"] - after["acked"],
    }


def restart(
    hub: Hub, reader: Reader, asked: Callable[[], Any], count: int, wait_connected: Callable[[float], float]
) -> dict[str, Any]:
    """Restart the broker under every box and see them all come back, with everything that waited."""
    hub.stop()
    time.sleep(5)
    reader.take()
    cut = asked()
    began, at = time.monotonic(), time.time()
    hub.start()
    wait_connected(180)
    back = sorted(when - at for when in asked()["connected_at"])
    deadline = time.monotonic() + 120
    while (left := asked())["sent"] - left["acked"] > 2 * count and time.monotonic() < deadline:
        time.sleep(0.5)
    caught_up = time.monotonic() - began
    if left["sent"] - left["acked"] > 2 * count:
        raise GenreError("fleet", f"still has {left['sent'] - left['acked']} messages waiting", "see the broker's log")
    late = heard(reader)
    return {
        "half_back_s": round(back[len(back) // 2], 1),
        "all_back_s": round(back[-1], 1),
        "caught_up_s": round(caught_up, 1),
        "waited_messages": cut["sent"] - cut["acked"],
        "broker_cpu_s_until_caught_up": round(usage(hub.pid).cpu_s, 1),
        "storm_p99_ms": round(percentile(late, 0.99), 1),
        "broker_mib_after": round(usage_mib(hub.pid), 1),
    }
