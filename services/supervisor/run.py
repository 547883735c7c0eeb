"""One run of everything: what is started in which order, when it is over, and whether it went well.

`household.py` knows the parts, `processes.py` keeps them running, `observer.py` watches the results; options are read
in `up.py`. Start at `Run`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from services import settings
from services.contract import Result
from services.errors import GenreError, UsageError
from services.inference.card import load_card
from services.supervisor import household, music_hls
from services.supervisor.household import Plan
from services.supervisor.observer import Observer
from services.supervisor.processes import Household

START_S = 20.0
MOST_REFUSALS = 3
GRACE_S = 10.0
"""How long results may trail the ledger that counts them."""


class Run:
    """One `genre up`, from its first child to its last.

    Args:
        replicas: how many of each service.
        explicit_backend: the user chose the backend; it is then never exchanged for another.
        page: run the dashboard, too.
    """

    def __init__(
        self,
        config: settings.Settings,
        plan: Plan,
        replicas: dict[str, int],
        *,
        json_lines: bool,
        explicit_backend: bool,
        page: bool,
    ) -> None:
        self._config, self._plan, self._replicas = config, plan, replicas
        self._json, self._explicit_backend, self._page = json_lines, explicit_backend, page
        self._house = Household()
        self._observer: Observer | None = None

    # --- starting --------------------------------------------------------------------------------------------------

    def start(self, music: Path | None, until_end: bool) -> None:
        """Start everything, in the order in which it is needed.

        Raises:
            GenreError: for the first part that does not come up.
        """
        plan = self._plan
        plan.check_ports()
        load_card(self._config.inference.models_dir, self._config.inference.model)
        broker = self._house.add(household.broker(plan))
        self._with(broker={"host": "127.0.0.1", "port": plan.port("broker")})
        self._start_triton()
        if music is not None:
            self._with(streams=[*self._dumped()["streams"], *self._music_streams(music, until_end)])
        if not self._config.streams:
            raise UsageError("streams", "there is nothing to listen to", "give --stream NAME=URL or --music DIR")
        household.wait_port(broker, plan.port("broker"), START_S)
        self._observer = Observer(
            self._config.broker, f"{self._config.broker.root}-up", durable=True, on_result=self._printer()
        )
        self._observer.start()
        self._observer.bus.wait_connected(START_S)
        # After a restart of the broker a worker may be back before the observer: its results wait for it.
        self._with(inference={**self._dumped()["inference"], "wait_for_reader": True})
        if self._page:
            self._with(dashboard=household.dashboard_settings(plan, self._config))
        path = plan.configuration(self._config)
        if self._page:
            self._house.add(household.service(plan, "dashboard", path))
            self._say_where()
        for name in ("inference", "featurizer", "fetcher"):
            for number in range(1, self._replicas.get(name, 1) + 1):
                self._house.add(household.service(plan, name, path, str(number)))

    def _say_where(self) -> None:
        page = self._config.dashboard
        click.echo(
            f"genre up: web page http://{page.host}:{page.port}/ (password to change streams: {page.password_file})",
            err=True,
        )

    def _start_triton(self) -> None:
        if self._config.inference.backend != "triton":
            return
        try:
            self._house.add(household.triton(self._plan, self._config))
        except GenreError as error:
            if self._explicit_backend:
                raise
            click.echo(f"genre up: {error.thing}: {error.reason}; using --backend onnx instead", err=True)
            self._with(inference={**self._dumped()["inference"], "backend": "onnx"})
            return
        url = f"127.0.0.1:{self._plan.port('triton')}"
        self._with(inference={**self._dumped()["inference"], "triton_url": url})

    def _music_streams(self, music: Path, until_end: bool) -> list[dict[str, Any]]:
        """Package music as HLS and serve it: to its end as VOD, else as endless live streams."""
        hls = music_hls.cached(music)
        names = music_hls.packaged(music, hls)
        origin = self._house.add(household.origin(self._plan, hls))
        port = self._plan.port("origin")
        household.wait_port(origin, port, START_S)
        base = f"http://127.0.0.1:{port}"
        return [
            # Live streams that all began a segment at the same moment would be heard in bursts: shift each by a bit.
            {
                "name": name,
                "url": f"{base}/{name}.m3u8" if until_end else f"{base}/live/{name}.m3u8?shift={number * 0.7:g}",
            }
            for number, name in enumerate(names)
        ]

    def _dumped(self) -> dict[str, Any]:
        return self._config.model_dump(mode="json", exclude_none=True)

    def _with(self, **sections: Any) -> None:
        """Merge values into the configuration."""
        merged = self._dumped()
        for name, value in sections.items():
            merged[name] = {**merged[name], **value} if isinstance(value, dict) else value
        self._config = settings.checked(merged, "genre up")

    def _printer(self) -> Callable[[Result, bytes], None] | None:
        if self._json:
            return lambda result, payload: click.echo(payload.decode())
        if sys.stdout.isatty():
            return None
        return lambda r, payload: click.echo(
            f"{r.observed_at}  {r.stream}  {r.start_s:9.3f} s  {r.genre or r.kind:10} {100 * r.confidence:3.0f} %"
        )

    # --- running ---------------------------------------------------------------------------------------------------

    def watch(self, until_end: bool) -> int:
        """Keep everything going until it is over; return the exit code."""
        assert self._observer is not None
        with ExitStack() as stack:
            show: Callable[[], None] = lambda: None  # noqa: E731
            if sys.stdout.isatty() and not self._json:
                from rich.live import Live

                from services.supervisor.table import table

                live = stack.enter_context(Live(auto_refresh=False, screen=False))
                observer = self._observer

                def show() -> None:
                    live.update(table(observer, "genre-edge", self._note()), refresh=True)

            while True:
                self._house.keep()
                self._check_children()
                show()
                if self._all_failed():
                    return 1
                if until_end and self._all_over():
                    self._settle()
                    show()
                    return self._verdict()
                time.sleep(0.25)

    def _check_children(self) -> None:
        """End the run where a part refuses to work at all: its own words say why.

        Raises:
            GenreError: with that part's last line.
        """
        for child in self._house.children():
            if child.refusals >= MOST_REFUSALS:
                words = child.last_words().removeprefix("genre: ") or "it said nothing"
                if child.name.startswith("dashboard"):
                    # Results matter more than their picture.
                    click.echo(f"genre up: the web page can't be served: {words}", err=True)
                    self._house.remove(child)
                    continue
                raise GenreError(child.name, f"ended {child.refusals} times at once ({words})", f"see {child.log_file}")

    def _note(self) -> str:
        config = self._config
        restarts = f", {self._house.restarts} restarts" if self._house.restarts else ""
        page = f"http://{config.dashboard.host}:{config.dashboard.port}/ · " if self._page else ""
        return (
            f"{page}model {config.inference.model} on {config.inference.backend}{restarts} · "
            f"mosquitto_sub -p {config.broker.port} -t {config.broker.root}/results · "
            f"logs {self._plan.folder / 'logs'} · Ctrl-C ends all of it"
        )

    def _all_failed(self) -> bool:
        """Whether no stream ever gave a result and every one of them failed; then going on makes no sense."""
        assert self._observer is not None
        seen = self._observer.seen()
        if any(name not in seen or not seen[name].failed or seen[name].results for name in self._names()):
            return False
        for name in self._names():
            click.echo(f"genre up: stream {name}: {seen[name].failed}", err=True)
        return True

    def _all_over(self) -> bool:
        assert self._observer is not None
        seen = self._observer.seen()
        return all(name in seen and _ended(seen[name]) for name in self._names())

    def _settle(self) -> None:
        """Let the last results arrive."""
        assert self._observer is not None
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            seen = self._observer.seen()
            if all(not _ended(s) or s.results >= s.ledger.windows for s in seen.values() if s.ledger):
                return
            time.sleep(0.05)

    def _verdict(self) -> int:
        """Return 0 where every stream ended and its ledger adds up; else say which did not and return 1."""
        assert self._observer is not None
        code, seen = 0, self._observer.seen()
        for name in self._names():
            stream = seen[name]
            if stream.failed:
                problem = stream.failed
            elif stream.ledger is None or not stream.ledger.adds_up:
                problem = f"its ledger does not add up: {stream.ledger}"
            elif stream.results < stream.ledger.windows:
                problem = f"{stream.results} results were seen for {stream.ledger.windows} windows"
            else:
                continue
            code = 1
            click.echo(f"genre up: stream {name}: {problem}", err=True)
        return code

    def _names(self) -> list[str]:
        return [stream.name for stream in self._config.streams if not stream.paused]

    # --- ending ----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """End every child; print the ledger where JSON was asked for."""
        if self._observer is not None:
            ledgers = self._observer.ledgers()
            self._observer.stop()
            if self._json:
                click.echo(json.dumps({"ledger": ledgers}))
        self._house.end()


def _ended(seen: Any) -> bool:
    return seen.ledger is not None and seen.ledger.ended
