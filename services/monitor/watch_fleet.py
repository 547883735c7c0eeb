"""`genre watch --fleet`: one row a box, from the broker upstream of all boxes; in a pipe, one line a result.

The reading is `fleet.py`'s; here is only what a person sees. Start at `watch_fleet`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from services.contract.messages import Event, Result
from services.monitor.fleet import Box, Fleet
from services.monitor.printed import Printed
from services.mqtt.client import MqttClient
from services.mqtt.reader import read
from services.settings import schema
from services.text import clean

if TYPE_CHECKING:
    from rich.table import Table

CONNECT_S = 5.0
STOPPED_AFTER_S = 60.0
SHOWN = 40
"""Rows of the table: boxes with a problem come first, for no terminal shows a thousand."""


def watch_fleet(broker: schema.Broker, only: tuple[str, ...], json_lines: bool, seconds: float | None) -> None:
    """Show a fleet until Ctrl-C or for some seconds.

    Args:
        only: names of boxes, or box/stream; empty is all.

    Raises:
        GenreError: the upstream broker can't be reached, or can't do what is needed.
    """
    drawn = sys.stdout.isatty() and not json_lines
    printed = Printed()

    def wanted(box: str, stream: str) -> bool:
        return not only or box in only or f"{box}/{stream}" in only

    def on_result(box: str, result: Result, payload: bytes) -> None:
        if not drawn and wanted(box, result.stream):
            printed.line(json.dumps({"box": box, **json.loads(payload)}) if json_lines else _line(box, result))

    def on_event(box: str, event: Event) -> None:
        if json_lines and wanted(box, event.stream):
            printed.line(json.dumps({"box": box, "event": event.model_dump(mode="json")}))

    fleet = Fleet(broker.root, on_result, on_event)
    mqtt = MqttClient(
        broker,
        f"{broker.root}-watch-{socket.gethostname()[:20]}-{os.getpid()}",
        receive_maximum=500,
        on_problem=lambda problem: None,
    )
    for topic_filter, take in fleet.takers.items():
        read(mqtt, topic_filter, take)
    mqtt.start()
    deadline = time.monotonic() + seconds if seconds is not None else None
    try:
        mqtt.wait_connected(CONNECT_S)
        if drawn:
            _live(mqtt, fleet, only, deadline)
        while not drawn and (deadline is None or time.monotonic() < deadline):
            printed.check()
            if mqtt.fatal is not None:
                raise mqtt.fatal
            time.sleep(0.1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        mqtt.stop()


def _line(box: str, result: Result) -> str:
    playing = " - ".join(part for part in (result.artist, result.title) if part)
    genre = f"{result.genre or result.kind:10} {100 * result.confidence:3.0f} %"
    return clean(f"{result.observed_at}  {box}/{result.stream}  {genre}  {playing}").rstrip()


def _live(mqtt: MqttClient, fleet: Fleet, only: tuple[str, ...], deadline: float | None) -> None:
    from rich.live import Live

    with Live(auto_refresh=False, screen=True) as live:
        while deadline is None or time.monotonic() < deadline:
            state = f" - NOT CONNECTED: {mqtt.problem.reason}" if mqtt.problem is not None else ""
            boxes = [box for box in fleet.boxes() if not only or box.name in {each.split("/")[0] for each in only}]
            live.update(table(boxes, f"genre watch --fleet: broker {mqtt.name}{state}"), refresh=True)
            time.sleep(0.5)


def table(boxes: list[Box], title: str) -> Table:
    """Return the table of boxes, those with a problem first."""
    from rich.table import Table
    from rich.text import Text

    problems = {box.name: box.problem(STOPPED_AFTER_S) for box in boxes}
    first = sorted(boxes, key=lambda box: (not problems[box.name], box.name))[:SHOWN]
    bad = sum(bool(problem) for problem in problems.values())
    more = f"; {len(boxes) - SHOWN} more are not shown" if len(boxes) > SHOWN else ""
    caption = f"{len(boxes)} boxes, {bad} with a problem{more}\nCtrl-C ends it"
    drawn = Table(
        title=Text(clean(title)), caption=Text(caption), title_justify="left", caption_justify="left", expand=False
    )
    for name in ("box", "uplink", "parts", "streams", "now", "last result", "delay", "state"):
        drawn.add_column(name, no_wrap=True, max_width=60 if name == "state" else 24)
    now = time.monotonic()
    for box in first:
        lasts = [stream.last for stream in box.streams.values() if stream.last is not None]
        genres = Counter(last.genre or last.kind for last in lasts).most_common(3)
        age = f"{now - box.heard_at:.0f} s ago" if box.heard_at else "never"
        delay = f"{max(last.latency_ms for last in lasts):.0f} ms" if lasts else ""
        uplink = {True: "up", False: "down", None: "?"}[box.linked]
        playing = ", ".join(genre if count == 1 else f"{count} {genre}" for genre, count in genres)
        problem = problems[box.name]
        drawn.add_row(
            *(Text(clean(text)) for text in (box.name, uplink, f"{box.online}/{len(box.parts)}",
              str(len(box.streams)), playing, age, delay)),
            Text(clean(problem or "fine"), style="red" if problem else "green", overflow="ellipsis"),
        )  # fmt: skip
    return drawn
