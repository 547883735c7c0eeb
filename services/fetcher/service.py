"""The fetcher service: wires streams, chunk sender and cursors to one life.

Streams are re-read from the configuration file when it changes, without a restart. Start at `Fetcher.run`.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import click
from prometheus_client import Gauge

from services.contract.messages import Event, Message
from services.contract.windows import SAMPLE_RATE, WINDOW
from services.errors import GenreError
from services.fetcher.delivery.checkpoint import Checkpoints
from services.fetcher.delivery.in_flight import InFlightChunk, Lost
from services.fetcher.delivery.sender import ChunkSender
from services.fetcher.delivery.windower import windows_that_fit
from services.fetcher.stream import StreamTask
from services.process import logs
from services.process.lifecycle import ServiceProcess, serve_metrics
from services.process.readers import ReaderWatch
from services.settings import loading, schema

log = logging.getLogger(__name__)

ACCOUNT = Gauge("genre_stream_seconds", "The ledger in seconds, by place", ["stream", "place"])
MISSING = Gauge("genre_stream_missing_seconds", "Seconds in gaps or lost, by cause", ["stream", "cause"])
SILENT = Gauge("genre_stream_silent", "1 where a stream had no result for too long", ["stream", "stage"])
TICK_S = 0.2
SAVE_S = 1.0
"""Of the time to drain, kept for writing the cursors."""


class Fetcher:
    """All streams of one fetcher process."""

    def __init__(self, config: schema.Settings, path: Path | None, instance: str) -> None:
        self._config, self._path = config, path
        self._stamp = _stamp(path)
        self._lifecycle = ServiceProcess("fetcher", instance, config.broker.root, config.broker)
        self._mqtt = self._lifecycle.connect(durable=True, least_payload_bytes=2 * WINDOW)
        self._streams = config.streams
        self._windows = windows_that_fit(None, config.fetcher.window_hop, config.fetcher.windows_per_chunk)
        self._checkpoints = Checkpoints(config.paths.state_dir, instance)
        reader = ReaderWatch(self._lifecycle, self._mqtt, "featurizer", lambda status: status.service == "featurizer")
        self._sender = ChunkSender(self._mqtt, self._lifecycle.topics, instance, config.fetcher, self._settled, reader)
        self._tasks: dict[str, StreamTask] = {}
        self._told: dict[str, Message] = {}
        self._removed: set[str] = set()
        self._generation = 0
        self._beat = time.monotonic()

    def run(self) -> None:
        """Listen until a signal comes."""
        with self._lifecycle.signals():
            serve_metrics(self._config.metrics)
            self._sender.start()
            self._mqtt.start()
            threading.Thread(target=self._ticking, name="sender", daemon=True).start()
            self._apply(self._config)
            self._lifecycle.run(self._healthy, self._drain, self._turn)

    # --- work ------------------------------------------------------------------------------------------------------

    def _ticking(self) -> None:
        while True:
            self._beat = time.monotonic()
            try:
                self._sender.tick()
            except Exception:
                log.exception("the chunk sender failed")
            time.sleep(TICK_S)

    def _healthy(self) -> bool:
        return time.monotonic() - self._beat < 10

    def _turn(self) -> None:
        """Once a second: follow the configuration file, save cursors, publish ledgers, look for silence."""
        if self._mqtt.generation != self._generation:
            # A broker that restarted without persistence knows no ledger any more: say each of them again.
            self._generation = self._mqtt.generation
            self._told.clear()
            self._fit()
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._apply(loading.load(self._path))
            except GenreError as error:
                log.error("%s; the streams stay as they were", error)
        if self._mqtt.connected:
            for name in self._removed:
                self._mqtt.publish(Message(self._lifecycle.topics.ledger(name), retain=True))
            self._removed.clear()
        self._hear_again()
        for name, task in self._tasks.items():
            stage = task.watch_silence()
            for each in ("source", "broker", "featurizer", "inference"):
                SILENT.labels(name, each).set(each == stage)
            if task.save_due() or task.ledger.ended:
                task.save()
            self._publish_ledger(name, task)

    def _fit(self) -> None:
        """Cut as many windows into a chunk as the broker takes now; begin again at the cursors where that changes."""
        limit, wanted = self._mqtt.limits.payload_bytes, self._config.fetcher.windows_per_chunk
        windows = windows_that_fit(limit, self._config.fetcher.window_hop, wanted)
        if windows in (0, self._windows):
            return  # 0 ends the process: the bus says why
        log.warning("the broker takes payloads of %s bytes: %d windows a chunk from now on", limit, windows)
        self._windows = windows
        for name in list(self._tasks):
            self._end(name)
        self._apply(self._config.model_copy(update={"streams": self._streams}))

    def _hear_again(self) -> None:
        """Begin again with ended streams whose cursor was removed meanwhile (`genre hear-again`)."""
        again = [n for n, task in self._tasks.items() if task.end_is_saved and not self._checkpoints.has(n)]
        for name in again:
            log.info("stream %s is heard again, as a new timeline", name)
            self._end(name)
        if again:
            self._apply(self._config.model_copy(update={"streams": self._streams}))

    def _forget(self, removed: set[str]) -> None:
        """Take back what is said and kept of streams that are no longer configured, removed while we ran or before."""
        for name in removed:
            try:
                self._checkpoints.forget(name)
            except OSError as error:
                log.error("the cursor of %s, which was removed, can't be deleted (%s)", name, error.strerror)
            self._told.pop(name, None)
            for gauge in (ACCOUNT, MISSING, SILENT):
                gauge.remove_by_labels({"stream": name})
        self._removed |= removed

    def _end(self, name: str) -> None:
        """Stop listening to a stream; whoever listens next begins at its cursor."""
        task = self._tasks.pop(name)
        task.end()
        task.join(5.0)
        self._sender.forget(name)

    def _publish_ledger(self, name: str, task: StreamTask) -> None:
        ledger = task.ledger
        message = Message(self._lifecycle.topics.ledger(name), ledger.to_json(), retain=True)
        for place in ("timeline", "classified", "gap", "lost", "short", "in_flight"):
            ACCOUNT.labels(name, place).set(getattr(ledger, place) / SAMPLE_RATE)
        for cause, samples in ledger.causes.items():
            MISSING.labels(name, cause).set(samples / SAMPLE_RATE)
        if message != self._told.get(name) and self._mqtt.connected:
            self._told[name] = message
            self._mqtt.publish(message)

    def _apply(self, config: schema.Settings) -> None:
        """Start, stop and replace streams so that they are as configured."""
        self._streams = config.streams
        wanted = {stream.name: stream for stream in config.streams if not stream.paused}
        before = list(self._tasks.items())
        for name, task in before:
            if wanted.get(name) != task.stream:
                self._end(name)
        self._forget({*dict(before), *self._checkpoints.own_streams()} - {stream.name for stream in config.streams})
        self._removed -= set(wanted)
        fetcher = self._config.fetcher.model_copy(update={"windows_per_chunk": self._windows})
        fitting = self._config.model_copy(update={"fetcher": fetcher})
        for name, stream in wanted.items():
            if name not in self._tasks:
                task = StreamTask(stream, fitting, self._sender, self._checkpoints, self._tell)
                self._tasks[name] = task
                task.start()

    def _drain(self) -> None:
        """Stop listening and wait for acks; chunks without one are heard again after a restart, from the cursor."""
        for task in self._tasks.values():
            task.end()
        deadline = time.monotonic() + self._config.worker.drain_s
        if self._mqtt.connected:
            self._sender.wait_settled(self._config.worker.drain_s - SAVE_S)
        for name, task in self._tasks.items():
            task.join(max(0.05, deadline - time.monotonic()))
            self._publish_ledger(name, task)

    def _settled(self, in_flight: InFlightChunk, outcome: Lost | None) -> None:
        task = self._tasks.get(in_flight.stream)
        if task is not None:  # else its stream was taken off meanwhile
            task.settled(in_flight, outcome)

    def _tell(self, event: Event) -> None:
        self._mqtt.publish(Message(self._lifecycle.topics.events, event.to_json(), content_type="application/json"))


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """Return what changes when the file does."""
    try:
        stat = path.stat() if path else None
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_ino) if stat else None


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML configuration file.")
@click.option("--instance", default="1", show_default=True, help="Name of this replica; stable over restarts.")
def fetcher(config: Path | None, instance: str) -> None:
    """Listen to HLS streams and publish PCM chunks.

    \b
    Example: genre fetcher --config genre.toml
    """
    loaded = loading.load(config)
    logs.set_up(loaded.log, f"fetcher-{instance}")
    Fetcher(loaded, config, instance).run()
