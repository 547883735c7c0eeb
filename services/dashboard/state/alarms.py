"""What a person should look at, in words: the lines at the top of the page. Pure; start at `of_stream`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from services.contract.messages import Status
from services.dashboard.state.stream_state import State, StreamState
from services.monitor.fleet import Box

MISSED_S = 120.0
"""How long the page says that seconds went missing, after the last that did."""
MOST_BOXES = 20
"""Alarms of boxes on the page at once."""
NEEDED = ("fetcher", "featurizer", "inference")
Level = Literal["alarm", "note"]
MISSED: tuple[tuple[str, Level, str], ...] = (
    ("lost", "alarm", "Seconds of it are being given up ({}): this machine is too slow or a part is stuck."),
    ("gap", "note", "Its source leaves gaps ({})."),
)


@dataclass(frozen=True)
class Alarm:
    """Something a person should look at.

    Attributes:
        level: "alarm" where results are missing or wrong, "note" where all still works.
        since: Unix time it began, where that is known; kept out of the text, which would change all the time.
    """

    level: Level
    text: str
    stream: str = ""
    since: float | None = None


def of_broker(connected: bool, lost_since: float, problem: str) -> Iterable[Alarm]:
    """Yield the alarm of a broker that is not there, with why and what to do, as far as that is known."""
    if not connected:
        text = "No connection to the MQTT broker: what is shown is old."
        yield Alarm("alarm", f"{text} {problem}".strip(), since=lost_since)


def of_parts(parts: Iterable[Status]) -> Iterable[Alarm]:
    """Yield an alarm for each service that was there and of which no replica is online."""
    parts = list(parts)
    for service in NEEDED:
        ours = [part for part in parts if part.service == service]
        if ours and not any(part.state == "online" for part in ours):
            yield Alarm("alarm", f"No {service} is running.")


def of_boxes(boxes: Iterable[Box], stopped_after_s: float) -> Iterable[Alarm]:
    """Yield an alarm for each box of a fleet that has a problem; beyond MOST_BOXES only how many more."""
    bad = [(box.name, problem) for box in boxes if (problem := box.problem(stopped_after_s))]
    yield from (Alarm("alarm", f"Box {name}: {problem}.") for name, problem in bad[:MOST_BOXES])
    if len(bad) > MOST_BOXES:
        yield Alarm("alarm", f"{len(bad) - MOST_BOXES} more boxes have a problem; 'genre watch --fleet' lists them.")


def of_stream(view: StreamState, state: State) -> Alarm | None:
    """Return the most serious problem of a stream, if it has one."""
    if view.ledger is not None and not view.ledger.adds_up:
        return Alarm("alarm", "Its ledger does not add up: seconds went missing without a reason.", view.name)
    if state == "failed":
        return Alarm("alarm", f"It can't be heard: {view.failed}", view.name)
    if state == "stopped":
        where = f" It stops at the {view.silent_stage}." if view.silent_stage else ""
        if not view.heard_at:
            return Alarm("alarm", f"It has given no result yet.{where}", view.name)
        since = round(time.time() - (time.monotonic() - view.heard_at))
        return Alarm("alarm", f"Results have stopped.{where}", view.name, since)
    for place, level, text in MISSED:
        at, cause = view.missed.get(place, (0.0, ""))
        if at and time.monotonic() - at < MISSED_S:
            return Alarm(level, text.format(cause or "no cause given"), view.name)
    return None
