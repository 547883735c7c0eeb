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

import click

from services import logs, settings
from services.contract import Event, Result
from services.errors import UsageError
from services.supervisor.observer import Observer
from services.terminal import printable

CONNECT_S = 5.0


def _line(result: Result) -> str:
    """Return one result as a line for a pipe or a person."""
    playing = " - ".join(part for part in (result.artist, result.title) if part)
    genre = f"{result.genre or result.kind:10} {100 * result.confidence:3.0f} %"
    return printable(f"{result.observed_at}  {result.stream}  {genre}  {playing}").rstrip()


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML configuration file.")
@click.option("--broker", metavar="HOST[:PORT]", help="Broker to read from.  [default: from the configuration]")
@click.option("--stream", "only", multiple=True, help="Show only this stream (repeatable).")
@click.option(
    "--json", "json_lines", is_flag=True, help="Print results and events as they come, one JSON object a line."
)
@click.option("--seconds", type=click.FloatRange(min=0), help="Stop after this long.")
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
    loaded = settings.load(config)
    if broker is not None:
        host, _, port = broker.rpartition(":") if broker.count(":") == 1 else (broker, "", "")
        if port and not port.isdigit():
            raise UsageError(f"--broker {broker}", f"{port!r} is not a port", "write --broker host:1883")
        values = {**loaded.broker.model_dump(mode="json"), "host": host or broker}
        merged = {"broker": {**values, "port": int(port) if port else loaded.broker.port}}
        loaded = settings.checked(merged, f"--broker {broker}")
    logs.set_up(settings.Log(level="error"), "genre watch")
    if fleet:
        from services.watch_fleet import watch_fleet

        watch_fleet(loaded.broker, only, json_lines, seconds)
        return
    drawn = sys.stdout.isatty() and not json_lines

    def on_result(result: Result, payload: bytes) -> None:
        if not drawn and (not only or result.stream in only):
            click.echo(payload.decode() if json_lines else _line(result))

    def on_event(event: Event) -> None:
        if json_lines and (not only or event.stream in only):
            click.echo(json.dumps({"event": event.model_dump(mode="json")}))

    # Not durable and with a name of its own: any number may watch, and none leaves a queue behind.
    client_id = f"{loaded.broker.root}-watch-{socket.gethostname()[:20]}-{os.getpid()}"
    observer = Observer(loaded.broker, client_id, on_result=on_result, on_event=on_event)
    observer.start()
    deadline = time.monotonic() + seconds if seconds is not None else None
    try:
        observer.bus.wait_connected(CONNECT_S)
        if drawn:
            _table(observer, loaded.broker, only, deadline)
        else:
            _wait(deadline)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        observer.stop()


def _wait(deadline: float | None) -> None:
    while deadline is None or time.monotonic() < deadline:
        time.sleep(0.1)


def _table(observer: Observer, broker: settings.Broker, only: tuple[str, ...], deadline: float | None) -> None:
    from rich.live import Live

    from services.supervisor.table import table

    with Live(auto_refresh=False, screen=True) as live:
        while deadline is None or time.monotonic() < deadline:
            state = "" if observer.bus.connected else " - NOT CONNECTED, trying again"
            if only:
                for name in set(observer.seen()) - set(only):
                    observer.streams.pop(name, None)
            parts = ", ".join(f"{name} {status.state}" for name, status in sorted(observer.status.items()))
            title = f"genre watch: broker {broker.host}:{broker.port}{state}"
            live.update(table(observer, title, f"{parts}\nCtrl-C ends it"), refresh=True)
            time.sleep(0.5)
