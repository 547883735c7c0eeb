"""The dashboard service: reads the bus, keeps the history, serves the page; writes only what it is told to.

`web.py` is the HTTP side, `board.py` what is shown, `announcer.py` what is written. Start at `DashboardService.run`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from pathlib import Path

import click
import uvicorn

from services import logs, settings
from services.dashboard.access import Access
from services.dashboard.announcer import Announcer
from services.dashboard.board import Board
from services.dashboard.history import History
from services.dashboard.metrics import Metrics
from services.dashboard.pulse import Pulse
from services.dashboard.reader import read, read_fleet
from services.dashboard.shown import MOST_EVENTS
from services.dashboard.spectrogram import Spectrograms
from services.dashboard.web import House, app
from services.errors import GenreError, UsageError
from services.lifecycle import Life

log = logging.getLogger(__name__)

KEEPALIVE_S = 4
"""A connection that hangs is given up after two of these and made anew; `pulse.py` says long before that it hangs."""
HISTORY_EVERY_S = 10.0
LOOP_STUCK_S = 20.0


class DashboardService:
    """One dashboard."""

    def __init__(self, config: settings.Settings, path: Path | None, instance: str) -> None:
        self._config, self._path = config, path
        board = config.dashboard
        writes = board.publish_now or board.publish_flat or board.home_assistant
        if board.fleet and writes:
            raise UsageError(
                "dashboard.fleet",
                "shows a fleet and writes nothing",
                "turn publish_now, publish_flat, home_assistant off",
            )
        broker = config.broker.model_copy(update={"keepalive_s": min(config.broker.keepalive_s, KEEPALIVE_S)})
        self._life = Life("dashboard", instance, config.broker.root, broker, writes=writes)
        # Results of while it was away are in the history of nobody: a session that is kept would only flood it.
        self._bus = self._life.connect(durable=False, receive_maximum=500)
        self._board = Board(board.stopped_after_s)
        self._metrics = Metrics(self._board)
        self._history = History(config.paths.state_dir / "history.db", board.history_days, board.history_limit_mb)
        self._spectrograms = (
            Spectrograms(self._bus, self._life.topics) if board.spectrogram and not board.fleet else None
        )
        self._announcer = Announcer(self._bus, self._life.topics, self._board, board, instance) if writes else None
        self._house = House(
            board=self._board,
            history=self._history,
            access=Access(board),
            spectrograms=self._spectrograms,
            config=None if board.fleet else path,
            metrics=self._metrics.text,
            stopping=self._life.stop.is_set,
        )
        self._stamp: tuple[int, int] | None = None
        self._kept_at = time.monotonic()
        self._loop_beat = time.monotonic()
        self._server = uvicorn.Server(
            uvicorn.Config(
                app(self._house),
                log_config=None,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=2,
                limit_concurrency=1_000,
                h11_max_incomplete_event_size=32_768,
                server_header=False,
                ws="none",
                lifespan="off",
            )
        )

    def run(self) -> None:
        """Serve until a signal comes.

        Raises:
            GenreError: where the port can't be had.
        """
        listening = self._listen()
        with self._life.signals():
            self._follow()
            self._board.recall(self._history.latest(MOST_EVENTS))
            if self._config.dashboard.fleet:
                read_fleet(self._bus, self._config.broker.root, self._board, self._metrics.count)
            else:
                read(self._bus, self._life.topics, self._board, self._metrics.count)
            self._bus.start()
            threading.Thread(target=self._watch_bus, name="watch-bus", daemon=True).start()
            web = threading.Thread(target=self._serve, args=(listening,), name="web", daemon=True)
            web.start()
            board = self._config.dashboard
            log.info("the dashboard is at http://%s:%d/", board.host, board.port)
            self._life.run(
                lambda: web.is_alive() and self._beat_age() < LOOP_STUCK_S, lambda: self._end(web), self._turn
            )

    def _listen(self) -> socket.socket:
        board = self._config.dashboard
        try:
            return socket.create_server(
                (board.host, board.port), family=socket.AF_INET6 if ":" in board.host else socket.AF_INET, backlog=128
            )
        except OSError as error:
            raise GenreError(
                f"dashboard address {board.host}:{board.port}",
                f"can't be listened on ({error.strerror or error})",
                "set dashboard.host and dashboard.port to a free address",
            ) from error

    def _serve(self, listening: socket.socket) -> None:
        async def served() -> None:
            beat = asyncio.create_task(self._beating())
            await self._server.serve(sockets=[listening])
            beat.cancel()

        asyncio.run(served())

    async def _beating(self) -> None:
        while True:
            self._loop_beat = time.monotonic()
            await asyncio.sleep(1)

    def _beat_age(self) -> float:
        return time.monotonic() - self._loop_beat

    def _watch_bus(self) -> None:
        """Tell the board whether the broker is there, more often than once a second."""
        pulse = Pulse(self._bus)
        while not self._life.stop.wait(0.2):
            connected = pulse.beat()
            if self._board.connected and not connected:
                self._board.lost_since = time.time()
            self._board.connected = connected

    # --- once a second ---------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._follow()
        self._board.turn()
        if self._spectrograms is not None:
            self._spectrograms.turn()
        if self._announcer is not None:
            self._announcer.turn()
        if time.monotonic() - self._kept_at >= HISTORY_EVERY_S:
            self._keep()

    def _keep(self) -> None:
        self._kept_at = time.monotonic()
        self._history.write(*self._board.take_history())
        self._history.prune(time.time())
        self._board.history_problems = tuple(
            problem for problem in (self._history.problem, self._history.set_aside) if problem
        )

    def _follow(self) -> None:
        """Read the streams anew where the configuration file changed."""
        if self._path is None:
            stamp = (0, 0)
        else:
            try:
                stat = self._path.stat()
            except OSError:
                return
            stamp = (stat.st_mtime_ns, stat.st_ino)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            if not self._config.dashboard.fleet:
                self._board.configured(settings.load(self._path).streams)
        except GenreError as error:
            log.error("%s; the streams stay as they were", error)

    def _end(self, web: threading.Thread) -> None:
        self._server.should_exit = True
        web.join(4.0)
        self._keep()
        self._history.close()


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML configuration file.")
@click.option("--instance", default="1", show_default=True, help="Name of this replica; stable over restarts.")
@click.option("--port", type=click.IntRange(1, 65_535), help="Port of the page.  [default: from the configuration]")
def dashboard(config: Path | None, instance: str, port: int | None) -> None:
    """Serve a web page of what plays where, with history and alarms.

    \b
    Example: genre dashboard --config genre.toml --port 8080
    """
    loaded = settings.load(config)
    if port is not None:
        loaded = loaded.model_copy(update={"dashboard": loaded.dashboard.model_copy(update={"port": port})})
    logs.set_up(loaded.log, f"dashboard-{instance}")
    DashboardService(loaded, config, instance).run()
