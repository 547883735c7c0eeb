"""`genre watch`: the live table of what is playing, from any terminal that reaches the broker; it only reads.

The reading is the observer's and the drawing the table's, both those of `genre up`; here is only the command.
Start at `watch`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import click

from services.contract.messages import Event, Result
from services.errors import GenreError, UsageError
from services.monitor.observer import Observer
from services.monitor.printed import Printed
from services.mqtt.client import MqttClient
from services.number import Number
from services.process import logs
from services.settings import broker_address, loading, schema
from services.text import clean

CONNECT_S = 5.0


def _line(result: Result) -> str:
    """Return one result as a line for a pipe or a person."""
    playing = " - ".join(part for part in (result.artist, result.title) if part)
    genre = f"{result.genre or result.kind:10} {100 * result.confidence:3.0f} %"
    return clean(f"{result.observed_at}  {result.stream}  {genre}  {playing}").rstrip()


def _elsewhere(configured: schema.Broker, address: str) -> dict[str, Any]:
    """Return [broker] for another address: a URL says all of it, a host alone keeps the configured port.

    Raises:
        UsageError: it is no address.
    """
    try:
        said = broker_address.read(address)
    except ValueError as error:
        raise UsageError(f"--broker {address}", str(error), "see 'genre watch --help'") from None
    values = configured.model_dump(mode="json", exclude_none=True)
    if "transport" in said:
        values = {key: value for key, value in values.items() if key not in ("port", "tls")}
    return {**values, **said}


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML configuration file.")
@click.option("--broker", metavar="ADDRESS", help="Broker: HOST[:PORT] or a URL.  [default: from the configuration]")
@click.option("--stream", "only", multiple=True, help="Show only this stream (repeatable).")
@click.option(
    "--json", "json_lines", is_flag=True, help="Print results and events as they come, one JSON object a line."
)
@click.option("--seconds", type=Number(min=0), help="Stop after this long.")
@click.option(
    "--fleet", is_flag=True, help="The broker is upstream of many boxes: one row a box; --stream takes BOX[/STREAM]."
)
def watch(
    config: Path | None, broker: str | None, only: tuple[str, ...], json_lines: bool, seconds: float | None, fleet: bool
) -> None:
    """Show what is playing, live; in a pipe, one line a result.

    \b
    Example: genre watch --broker edge-box.local
    """
    loaded = loading.load(config)
    if broker is not None:
        loaded = loading.checked({"broker": _elsewhere(loaded.broker, broker)}, f"--broker {broker}")
    logs.set_up(schema.Log(level="error"), "genre watch")
    if fleet:
        from services.monitor.watch_fleet import watch_fleet

        watch_fleet(loaded.broker, only, json_lines, seconds)
        return
    drawn = sys.stdout.isatty() and not json_lines
    printed = Printed()

    def on_result(result: Result, payload: bytes) -> None:
        if not drawn and (not only or result.stream in only):
            printed.line(payload.decode() if json_lines else _line(result))

    def on_event(event: Event) -> None:
        if json_lines and (not only or event.stream in only):
            printed.line(json.dumps({"event": event.model_dump(mode="json")}))

    # Not durable and with a name of its own: any number may watch, and none leaves a queue behind.
    client_id = f"{loaded.broker.root}-watch-{socket.gethostname()[:20]}-{os.getpid()}"
    mqtt = MqttClient(loaded.broker, client_id, receive_maximum=500, on_problem=lambda problem: None)
    observer = Observer(mqtt, on_result=on_result, on_event=on_event)
    observer.start()
    deadline = time.monotonic() + seconds if seconds is not None else None
    try:
        observer.mqtt.wait_connected(CONNECT_S)
        if drawn:
            _table(observer, only, deadline)
        else:
            _wait(observer, printed, deadline)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        observer.stop()


def _wait(observer: Observer, printed: Printed, deadline: float | None) -> None:
    """Let results come; say on stderr why none do while the broker is away."""
    said: GenreError | None = None
    while deadline is None or time.monotonic() < deadline:
        printed.check()
        if observer.mqtt.fatal is not None:
            raise observer.mqtt.fatal
        problem = observer.mqtt.problem
        if str(problem) != str(said) and problem is not None:
            click.echo(f"genre watch: {problem}; trying again", err=True)
        said = problem
        time.sleep(0.1)


def _table(observer: Observer, only: tuple[str, ...], deadline: float | None) -> None:
    from rich.live import Live

    from services.monitor.table import table

    with Live(auto_refresh=False, screen=True) as live:
        while deadline is None or time.monotonic() < deadline:
            problem = observer.mqtt.problem
            state = f" - NOT CONNECTED: {problem.reason}; {problem.remedy}" if problem is not None else ""
            if only:
                for name in set(observer.seen()) - set(only):
                    observer.streams.pop(name, None)
            parts = ", ".join(f"{name} {status.state}" for name, status in sorted(observer.status.items()))
            title = f"genre watch: broker {observer.mqtt.name}{state}"
            live.update(table(observer, title, f"{parts}\nCtrl-C ends it"), refresh=True)
            time.sleep(0.5)
