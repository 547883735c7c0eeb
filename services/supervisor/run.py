"""One run of everything: what is started in which order, when it is over, and whether it went well.

`children.py` knows the parts, `processes.py` keeps them running, `observer.py` watches the results; options are read
in `up.py`. Start at `Run`.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from services.contract.messages import Ledger, Result
from services.errors import GenreError, UsageError
from services.fetcher.delivery.checkpoint import Checkpoints
from services.inference.card import load_card
from services.monitor.observer import Observer
from services.monitor.printed import Printed
from services.process.lifecycle import ServiceProcess
from services.settings import loading, schema
from services.supervisor import children, music_hls
from services.supervisor.children import Plan
from services.supervisor.config_file import ConfigFile
from services.supervisor.processes import ProcessGroup

START_S = 20.0
MOST_REFUSALS = 3
OBSERVER = "up"
GRACE_S = 10.0
"""How long results may trail the ledger that counts them."""


class Run:
    """One `genre up`, from its first child to its last.

    Args:
        replicas: how many of each service.
        config_file: the file that a person edits while it runs.
        explicit_backend: the user chose the backend; it is then never exchanged for another.
        page: run the dashboard, too.
    """

    def __init__(
        self,
        config: schema.Settings,
        plan: Plan,
        replicas: dict[str, int],
        config_file: ConfigFile,
        *,
        json_lines: bool,
        explicit_backend: bool,
        page: bool,
    ) -> None:
        self._config, self._plan, self._replicas = config, plan, replicas
        self._config_file, self._written = config_file, Path()
        self._json, self._explicit_backend, self._page = json_lines, explicit_backend, page
        self._group = ProcessGroup()
        self._printed = Printed()
        self._observer: Observer | None = None
        self._before: dict[str, Ledger] = {}

    # --- starting --------------------------------------------------------------------------------------------------

    def start(self, music: Path | None, until_end: bool) -> None:
        """Start everything, in the order in which it is needed.

        Raises:
            GenreError: for the first part that does not come up.
        """
        plan = self._plan
        plan.check_ports()
        load_card(self._config.inference.models_path, self._config.inference.model)
        broker = self._group.add(children.broker(plan))
        self._with(broker={"host": "127.0.0.1", "port": plan.port("broker")})
        self._start_triton()
        if music is not None:
            self._with(streams=[*self._dumped()["streams"], *self._music_streams(music, until_end)])
        if not self._config.streams:
            raise UsageError("streams", "there is nothing to listen to", "give --stream NAME=URL or --music DIR")
        checkpoints = Checkpoints(self._config.paths.state_dir)
        for stream in self._config.streams:
            if saved := checkpoints.load(stream.name, stream.url):
                self._before[stream.name] = saved.ledger
        children.wait_port(broker, plan.port("broker"), START_S)
        # Its status tells inference that the reader of results is there again, e.g. after a restart of the broker.
        watching = ServiceProcess("supervisor", OBSERVER, self._config.broker.root, self._config.broker)
        mqtt = watching.connect(durable=True, receive_maximum=500)
        self._observer = Observer(mqtt, on_result=self._printer())
        self._observer.start()
        self._observer.mqtt.wait_connected(START_S)
        # After a restart of the broker a worker may be back before the observer: its results wait for it.
        self._with(inference={**self._dumped()["inference"], "wait_for_reader": f"supervisor/{OBSERVER}"})
        if self._page:
            self._with(dashboard=children.dashboard_settings(plan, self._config))
        path = self._written = plan.configuration(self._config)
        if self._page:
            self._group.add(children.service(plan, "dashboard", path))
            self._say_where()
        for name in ("inference", "featurizer", "fetcher"):
            for number in range(1, self._replicas.get(name, 1) + 1):
                self._group.add(children.service(plan, name, path, str(number)))

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
            self._group.add(children.triton(self._plan, self._config))
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
        origin = self._group.add(children.origin(self._plan, hls))
        port = self._plan.port("origin")
        children.wait_port(origin, port, START_S)
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
        self._config = loading.checked(merged, "genre up")

    def _printer(self) -> Callable[[Result, bytes], None] | None:
        if self._json:
            return lambda result, payload: self._printed.line(payload.decode())
        if sys.stdout.isatty():
            return None
        return lambda r, payload: self._printed.line(
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

                from services.monitor.table import table

                live = stack.enter_context(Live(auto_refresh=False, screen=False))
                observer = self._observer

                def show() -> None:
                    live.update(table(observer, "genre-edge", self._note()), refresh=True)

            while True:
                self._printed.check()
                self._group.supervise()
                self._check_children()
                self._follow()
                show()
                if self._all_failed():
                    return 1
                if until_end and self._all_over():
                    self._settle()
                    show()
                    return self._verdict()
                time.sleep(0.25)

    def _follow(self) -> None:
        """Take over what was changed in the file given with --config, its streams, at once; and on the page into it."""
        try:
            self._config_file.keep(self._written)
            changed = self._config_file.changes(lambda: loading.load(self._written).streams)
        except GenreError as error:
            click.echo(f"genre up: {error}", err=True)
            return
        if changed is None:
            return
        streams, other = changed
        if other:
            click.echo(f"genre up: {other} changed; that takes a restart of genre up", err=True)
        self._with(streams=[stream.model_dump(mode="json", exclude_none=True) for stream in streams])
        self._plan.configuration(self._config)

    def _check_children(self) -> None:
        """End the run where a part refuses to work at all: its own words say why.

        Raises:
            GenreError: with that part's last line.
        """
        for child in self._group.children():
            if child.refusals >= MOST_REFUSALS:
                words = child.last_words().removeprefix("genre: ") or "it said nothing"
                if child.name.startswith("dashboard"):
                    # Results matter more than their picture.
                    click.echo(f"genre up: the web page can't be served: {words}", err=True)
                    self._group.remove(child)
                    continue
                raise GenreError(child.name, f"ended {child.refusals} times at once ({words})", f"see {child.log_file}")

    def _note(self) -> str:
        config = self._config
        restarts = f", {self._group.restarts} restarts" if self._group.restarts else ""
        page = f"http://{config.dashboard.host}:{config.dashboard.port}/ · " if self._page else ""
        return (
            f"{page}model {config.inference.model} on {config.inference.backend}{restarts} · "
            f"{self._reader()} · "
            f"logs {self._plan.folder / 'logs'} · Ctrl-C ends all of it"
        )

    def _reader(self) -> str:
        """Return a command that prints the results on this machine: Mosquitto's clients are a package of their own."""
        broker = self._config.broker
        if shutil.which("mosquitto_sub"):
            return f"mosquitto_sub -p {broker.port} -t {broker.root}/results"
        return f"{sys.argv[0]} watch --json --broker 127.0.0.1:{broker.port}"

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
            if all(not _ended(s) or self._expected(s.ledger) <= s.results for s in seen.values() if s.ledger):
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
            elif stream.results < self._expected(stream.ledger):
                problem = f"{stream.results} results were seen for {self._expected(stream.ledger)} windows"
            else:
                self._say_heard_before(name)
                continue
            code = 1
            click.echo(f"genre up: stream {name}: {problem}", err=True)
        return code

    def _expected(self, ledger: Ledger) -> int:
        """Return how many windows this run has to give results of; an earlier one in this folder gave the others."""
        before = self._before.get(ledger.stream)
        return ledger.windows - (before.windows if before and before.timeline_id == ledger.timeline_id else 0)

    def _say_heard_before(self, name: str) -> None:
        before = self._before.get(name)
        if before is not None and before.ended:
            again = f"'genre hear-again {name} --state-dir {self._config.paths.state_dir}' hears it again"
            said = f"heard to its end before ({before.windows} windows); {again}"
            click.echo(f"genre up: stream {name}: {said}", err=True)

    def _names(self) -> list[str]:
        return [stream.name for stream in self._config.streams if not stream.paused]

    # --- ending ----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """End every child; print the ledger where JSON was asked for."""
        if self._observer is not None:
            ledgers = self._observer.ledgers()
            self._observer.stop()
            if self._json:
                self._printed.line(json.dumps({"ledger": ledgers}))
        self._group.end()


def _ended(seen: Any) -> bool:
    return seen.ledger is not None and seen.ledger.ended
