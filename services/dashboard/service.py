"""The dashboard service: reads the bus, keeps the history, serves the page; writes only what it is told to.

`http/` answers browsers, `state/` is what is shown, `history/` what is kept, `retained_publisher.py` what is written.
Start at `DashboardService.run`.
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

from services.contract.messages import Message
from services.dashboard.broker_ping import BrokerPing
from services.dashboard.history.store import History
from services.dashboard.http.access import Access
from services.dashboard.http.routes import AppState, app
from services.dashboard.metrics import Metrics
from services.dashboard.retained_publisher import RetainedPublisher
from services.dashboard.spectrogram import Spectrograms
from services.dashboard.state.bus_reader import read, read_fleet
from services.dashboard.state.clock_steps import ClockSteps
from services.dashboard.state.json_view import MOST_EVENTS
from services.dashboard.state.live_state import LiveState
from services.dashboard.take_back import Owned, TakeBack
from services.errors import GenreError, UsageError
from services.process import logs
from services.process.lifecycle import ServiceProcess
from services.settings import loading, schema

log = logging.getLogger(__name__)

KEEPALIVE_S = 4
"""A connection that hangs is given up after two of these and made again; `broker_ping.py` says so long before."""
HISTORY_EVERY_S = 10
LOOP_STUCK_S = 20.0


class DashboardService:
    """One dashboard."""

    def __init__(self, config: schema.Settings, path: Path | None, instance: str) -> None:
        self._config, self._path = config, path
        page = config.dashboard
        writes = page.publish_now or page.publish_flat or page.home_assistant
        if page.fleet and writes:
            raise UsageError(
                "dashboard.fleet",
                "shows a fleet and writes nothing",
                "turn publish_now, publish_flat, home_assistant off",
            )
        broker = config.broker.model_copy(update={"keepalive_s": min(config.broker.keepalive_s, KEEPALIVE_S)})
        self._lifecycle = ServiceProcess("dashboard", instance, config.broker.root, broker, writes=writes)
        # Results of while it was away are in the history of nobody: a session that is kept would only flood it.
        self._mqtt = self._lifecycle.connect(durable=False, receive_maximum=500)
        self._live_state = LiveState(page.stopped_after_s)
        self._metrics = Metrics(self._live_state)
        self._history = History(config.paths.state_dir / "history.db", page.history_days, page.history_limit_mb)
        self._spectrograms = (
            Spectrograms(self._mqtt, self._lifecycle.topics) if page.spectrogram and not page.fleet else None
        )
        self._publisher = (
            RetainedPublisher(self._mqtt, self._lifecycle.topics, self._live_state, page, instance) if writes else None
        )
        # Left from a start on which it wrote, it tells a later one, told to write nothing, to take that back.
        self._wrote = config.paths.state_dir / "announced"
        if writes:
            self._remember_writing()
        self._take_back = TakeBack(self._mqtt, Owned(self._lifecycle.topics, page.home_assistant_prefix))
        self._state = AppState(
            live_state=self._live_state,
            history=self._history,
            access=Access(page),
            spectrograms=self._spectrograms,
            config=None if page.fleet else path,
            metrics=self._metrics.text,
            stopping=self._lifecycle.stop.is_set,
            base_path=page.base_path,
            frame_ancestors=page.frame_ancestors,
        )
        self._stamp: tuple[int, int] | None = None
        self._clock = ClockSteps()
        self._loop_beat = time.monotonic()
        self._server = uvicorn.Server(
            uvicorn.Config(
                app(self._state),
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
        with self._lifecycle.signals():
            self._follow()
            self._live_state.recall(self._history.read(lambda history: history.latest(MOST_EVENTS), []))
            if self._config.dashboard.fleet:
                read_fleet(self._mqtt, self._config.broker.root, self._live_state, self._metrics.count)
            else:
                read(self._mqtt, self._lifecycle.topics, self._live_state, self._metrics.count)
            self._mqtt.start()
            web = threading.Thread(target=self._serve, args=(listening,), name="web", daemon=True)
            threads = [
                threading.Thread(target=self._watch_bus, name="watch-bus", daemon=True),
                threading.Thread(target=self._keep_history, name="history", daemon=True),
                web,
            ]
            for thread in threads:
                thread.start()
            page = self._config.dashboard
            where = f"[{page.host}]" if ":" in page.host else page.host
            log.info("the dashboard is at http://%s:%d%s/", where, page.port, page.base_path)
            self._lifecycle.run(
                lambda: all(thread.is_alive() for thread in threads) and self._beat_age() < LOOP_STUCK_S,
                lambda: self._end(web),
                self._turn,
            )

    def _listen(self) -> socket.socket:
        page = self._config.dashboard
        try:
            both = page.host == "::" and socket.has_dualstack_ipv6()
            return socket.create_server(
                (page.host, page.port),
                family=socket.AF_INET6 if ":" in page.host else socket.AF_INET,
                backlog=128,
                dualstack_ipv6=both,
            )
        except OSError as error:
            raise GenreError(
                f"dashboard address {page.host}:{page.port}",
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
        """Note whether the broker is there, more often than once a second."""
        ping = BrokerPing(self._mqtt)
        while not self._lifecycle.stop.wait(0.2):
            connected = ping.beat()
            if self._live_state.connected and not connected:
                self._live_state.lost_since = time.time()
            self._live_state.connected = connected
            problem = self._mqtt.problem
            self._live_state.broker_problem = f"{problem.thing}: {problem.reason}; {problem.remedy}" if problem else ""

    # --- once a second ---------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._follow()
        self._live_state.turn()
        if self._spectrograms is not None:
            self._spectrograms.turn()
        if self._publisher is not None:
            self._publisher.turn()
            self._take_back.turn(self._publisher.topics())
        elif self._wrote.exists() and self._take_back.turn(set()):
            self._mqtt.publish(
                Message(self._lifecycle.topics.status("dashboard", self._lifecycle.instance), retain=True)
            )
            self._wrote.unlink(missing_ok=True)

    def _keep_history(self) -> None:
        """Write the history every few seconds; not in the loop that feeds the watchdog, because a disk may be slow."""
        turns = 0
        while not self._lifecycle.stop.wait(1.0):
            self._mind_the_clock()
            turns += 1
            if turns % HISTORY_EVERY_S == 0:
                self._keep()

    def _remember_writing(self) -> None:
        try:
            self._wrote.parent.mkdir(parents=True, exist_ok=True)
            self._wrote.touch()
        except OSError as error:
            log.warning("%s: %s; what is announced can't be taken back by itself later", self._wrote, error)

    def _mind_the_clock(self) -> None:
        step = self._clock.step()
        if step:
            log.warning("this machine's clock was set by %+.0f s; what it dated meanwhile moves along", step)
            self._live_state.clock_stepped(step, time.time(), self._clock.now)
            self._history.clock_stepped(step, self._clock.now)

    def _keep(self) -> None:
        self._mind_the_clock()
        self._history.write(*self._live_state.take_history())
        self._history.prune(time.time())
        self._live_state.history_problems = tuple(
            problem for problem in (self._history.problem, self._history.set_aside) if problem
        )

    def _follow(self) -> None:
        """Read the streams again where the configuration file changed."""
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
            streams = loading.load(self._path).streams
            # Without a file of its own it is a window to another machine's streams, whichever they are.
            if not self._config.dashboard.fleet and (self._path is not None or streams):
                self._live_state.configured(streams)
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
    loaded = loading.load(config)
    if port is not None:
        loaded = loaded.model_copy(update={"dashboard": loaded.dashboard.model_copy(update={"port": port})})
    logs.set_up(loaded.log, f"dashboard-{instance}")
    DashboardService(loaded, config, instance).run()
