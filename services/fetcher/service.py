"""The fetcher service: wires streams, courier and cursors to one life.

Streams are re-read from the configuration file when it changes, without a restart. Start at `Fetcher.run`.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import click
from prometheus_client import Gauge

from services import logs, settings
from services.contract import SAMPLE_RATE, WINDOW, Event, Message
from services.errors import GenreError
from services.fetcher.chunks import Cut, windows_that_fit
from services.fetcher.courier import Courier
from services.fetcher.cursor import Cursors
from services.fetcher.stream_task import StreamTask
from services.lifecycle import Life, serve_metrics

log = logging.getLogger(__name__)

ACCOUNT = Gauge("genre_stream_seconds", "The ledger in seconds, by place", ["stream", "place"])
MISSING = Gauge("genre_stream_missing_seconds", "Seconds in gaps or lost, by cause", ["stream", "cause"])
SILENT = Gauge("genre_stream_silent", "1 where a stream had no result for too long", ["stream", "stage"])
TICK_S = 0.2
SAVE_S = 1.0
"""Of the time to drain, kept for writing the cursors."""


class Fetcher:
    """All streams of one fetcher process."""

    def __init__(self, config: settings.Settings, path: Path | None, instance: str) -> None:
        self._config, self._path = config, path
        self._stamp = _stamp(path)
        self._life = Life("fetcher", instance, config.broker.root, config.broker)
        self._bus = self._life.connect(durable=True, least_payload_bytes=2 * WINDOW)
        self._windows, self._streams = config.fetcher.windows_per_chunk, config.streams
        self._cursors = Cursors(config.paths.state_dir)
        self._courier = Courier(self._bus, self._life.topics, instance, config.fetcher, self._lost)
        self._tasks: dict[str, StreamTask] = {}
        self._told: dict[str, Message] = {}
        self._generation = 0
        self._beat = time.monotonic()

    def run(self) -> None:
        """Listen until a signal comes."""
        with self._life.signals():
            serve_metrics(self._config.metrics)
            self._courier.start()
            self._bus.start()
            threading.Thread(target=self._ticking, name="courier", daemon=True).start()
            self._apply(self._config)
            self._life.run(self._healthy, self._drain, self._turn)

    # --- work ------------------------------------------------------------------------------------------------------

    def _ticking(self) -> None:
        while True:
            self._beat = time.monotonic()
            try:
                self._courier.tick()
            except Exception:
                log.exception("the courier failed")
            time.sleep(TICK_S)

    def _healthy(self) -> bool:
        return time.monotonic() - self._beat < 10

    def _turn(self) -> None:
        """Once a second: follow the configuration file, save cursors, publish ledgers, look for silence."""
        if self._bus.generation != self._generation:
            # A broker that restarted without persistence knows no ledger any more: say each of them again.
            self._generation = self._bus.generation
            self._told.clear()
            self._fit()
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._apply(settings.load(self._path))
            except GenreError as error:
                log.error("%s; the streams stay as they were", error)
        for name, task in self._tasks.items():
            stage = task.watch_silence()
            for each in ("source", "broker", "featurizer", "inference"):
                SILENT.labels(name, each).set(each == stage)
            if task.save_due() or task.ledger.ended:
                task.save()
            self._publish_ledger(name, task)

    def _fit(self) -> None:
        """Cut as many windows into a chunk as the broker takes now; begin again at the cursors where that changes."""
        limit, wanted = self._bus.limits.payload_bytes, self._config.fetcher.windows_per_chunk
        windows = windows_that_fit(limit, self._config.fetcher.window_hop, wanted)
        if windows in (0, self._windows):
            return  # 0 ends the process: the bus says why
        log.warning("the broker takes payloads of %s bytes: %d windows a chunk from now on", limit, windows)
        self._windows = windows
        for name in list(self._tasks):
            self._end(name)
        self._apply(self._config.model_copy(update={"streams": self._streams}))

    def _end(self, name: str) -> None:
        """Stop listening to a stream; whoever listens next begins at its cursor."""
        task = self._tasks.pop(name)
        task.end()
        task.join(5.0)
        self._courier.forget(name)

    def _publish_ledger(self, name: str, task: StreamTask) -> None:
        ledger = task.ledger
        message = Message(self._life.topics.ledger(name), ledger.to_json(), retain=True)
        for place in ("timeline", "classified", "gap", "lost", "short", "in_flight"):
            ACCOUNT.labels(name, place).set(getattr(ledger, place) / SAMPLE_RATE)
        for cause, samples in ledger.causes.items():
            MISSING.labels(name, cause).set(samples / SAMPLE_RATE)
        if message != self._told.get(name) and self._bus.connected:
            self._told[name] = message
            self._bus.publish(message)

    def _apply(self, config: settings.Settings) -> None:
        """Start, stop and replace streams so that they are as configured."""
        self._streams = config.streams
        wanted = {stream.name: stream for stream in config.streams if not stream.paused}
        for name, task in list(self._tasks.items()):
            if wanted.get(name) != task.stream:
                self._end(name)
        fetcher = self._config.fetcher.model_copy(update={"windows_per_chunk": self._windows})
        fitting = self._config.model_copy(update={"fetcher": fetcher})
        for name, stream in wanted.items():
            if name not in self._tasks:
                task = StreamTask(stream, fitting, self._courier, self._cursors, self._tell)
                self._tasks[name] = task
                task.start()

    def _drain(self) -> None:
        """Stop listening and wait for acks; chunks without one are heard again after a restart, from the cursor."""
        for task in self._tasks.values():
            task.end()
        deadline = time.monotonic() + self._config.worker.drain_s
        if self._bus.connected:
            self._courier.wait_settled(self._config.worker.drain_s - SAVE_S)
        for name, task in self._tasks.items():
            task.join(max(0.05, deadline - time.monotonic()))
            self._publish_ledger(name, task)

    def _lost(self, cut: Cut, cause: str, reason: str) -> None:
        task = self._tasks.get(cut.stretch.stream)
        if task is not None:
            task.lost(cut, cause, reason)

    def _tell(self, event: Event) -> None:
        self._bus.publish(Message(self._life.topics.events, event.to_json(), content_type="application/json"))


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
    loaded = settings.load(config)
    logs.set_up(loaded.log, f"fetcher-{instance}")
    Fetcher(loaded, config, instance).run()
