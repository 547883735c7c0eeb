"""What befalls the radio and its box: one method each, and the plan that says what happens when. Start at `plan`.

Where something must be met to prove anything (a full disk, a locked history, a clock that was set), it lasts until the
box shows that it met it.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import datetime

from services.dashboard.history.reader import HistoryReader
from tests.broker.mosquitto import wait_for
from tests.month.box import Box
from tests.month.clocks import ZONE
from tests.month.judge import LEAST_HEARD_S, Heard, Outage, Report
from tests.month.radio import Radio

BACK_S = 25.0
"""Longest until a stream that is there again is heard again: three retries, each after twice the wait, and a window."""
MET_S = 30.0
"""Longest until the box notices: the history is written every ten seconds, and waits for a lock, and tries again."""
START_S = 90.0
LOCKED_S = 14.0
NTP = "NTP sets the clock"
KINDS = {
    NTP, "a new token", "the encoder is restarted", "night: off", "maintenance: maintenance", "on again",
    "a list ends", "the history is locked for 14 s", "the disk is full for the dashboard",
    "the disk is full for the fetcher", "a stream is added", "a stream is removed without the dashboard",
    "a stream is removed without the broker", "the box loses power", "the broker is upgraded", "the clock is wrong",
}  # fmt: skip


class Happenings:
    """Does to the box what `plan` says; notes in the report what it did."""

    def __init__(self, report: Report, box: Box, radio: Radio, stations: tuple[str, ...], seed: int) -> None:
        self._report, self._box, self._radio, self._stations = report, box, radio, stations
        self._draw = random.Random(seed)
        self.heard: list[Heard] = []
        self.outages: list[Outage] = []
        self.excused: list[Outage] = []
        self._away: dict[str, float] = {}
        """By stream: the moment (monotonic) from which on it must be heard again."""
        self._under_way: list[threading.Thread] = []

    def plan(self, number: int, hour: str) -> list[Callable[[], None]]:
        """Return what befalls the box and its stations on this day at this hour; each kind within six days."""
        found = list[Callable[[], None]]()
        if hour == "00:30":
            found += [self._new_token, self._new_encoder]
            found += [lambda: self._off("night")] if number % 2 == 0 else []
            found += [lambda: self._off("maintenance", "maintenance")] if number % 3 == 1 else []
        if hour == "04:30":
            found += [self._locked_history] if number % 3 == 0 else []
            found += [lambda: self._full("dashboard", self._history_waits)] if number % 3 == 1 else []
            found += [self._list_ends] if number % 2 == 1 else []
        if hour == "12:15":
            found += [self.return_everything]
            found += [self._guest_comes] if number % 3 == 0 else []
            found += [lambda: self._guest_goes("dashboard" if number % 6 == 1 else "broker")] if number % 3 == 1 else []
            found += [lambda: self._full("fetcher", self._cursors_wait)] if number % 3 == 2 else []
        if hour == "23:30":
            found += [self._no_power] if number % 8 == 1 else []
            found += [self._new_broker] if number % 4 == 3 else []
            found += [lambda: self._wrong_clock(number)] if number % 3 == 2 else []
        self._draw.shuffle(found)
        return found

    def tell(self, kind: str, what: str = "") -> None:
        """Note what happened."""
        at = datetime.fromtimestamp(self._box.clocks.now, ZONE).strftime("%Y-%m-%d %H:%M")
        self._report.happened.append(f"{at} {what or kind}")
        self._report.kinds[kind] = self._report.kinds.get(kind, 0) + 1
        print(f"{at} {what or kind}", flush=True)

    def plays(self, name: str) -> bool:
        """Whether a station is on, and its stream has had time to come back."""
        station = self._radio.stations[name]
        return station.state == "on" and not station.ended and self._away.get(name, 0.0) < time.monotonic()

    def over(self) -> None:
        """Wait until what takes a while is over: a disk that is full, a history that is locked."""
        for thread in self._under_way:
            thread.join(MET_S + LOCKED_S)
        self._under_way.clear()

    # --- the radio --------------------------------------------------------------------------------------------------

    def _shaken(self, *names: str) -> None:
        """Streams that need not be heard for a while: what happened takes them some seconds."""
        now = time.monotonic()
        for name in names or (*self._stations, "guest"):
            self._away[name] = now + BACK_S
            self.excused.append(Outage(name, now - 1.0, now + BACK_S))

    def _new_token(self) -> None:
        station = self._radio.stations["token"]
        station.token = str(self._draw.randrange(10**6))
        self._shaken("token")
        self.tell("a new token")

    def _new_encoder(self) -> None:
        self._radio.stations["encoder"].restart_encoder()
        self._shaken("encoder")
        self.tell("the encoder is restarted")

    def _off(self, name: str, state: str = "off") -> None:
        self._radio.stations[name].state = state
        self.outages.append(Outage(name, time.monotonic()))
        self.tell(f"{name}: {state}")

    def _list_ends(self) -> None:
        self._radio.stations["returns"].end()
        self.excused.append(Outage("returns", time.monotonic()))
        self.tell("a list ends")

    def return_everything(self) -> None:
        """Let every station play again."""
        for name, station in self._radio.stations.items():
            if station.state != "on" or station.ended:
                for outage in (*self.outages, *self.excused):
                    if outage.stream == name and outage.end == float("inf"):
                        outage.end = time.monotonic()
                if station.ended:
                    station.restart_encoder()
                station.state = "on"
                self._shaken(name)
                self.tell("on again", f"{name}: on again")

    # --- the streams ------------------------------------------------------------------------------------------------

    def _guest_comes(self) -> None:
        self._box.add_stream("guest", self._radio.url("guest"))
        self._shaken("guest")
        self.tell("a stream is added")

    def _guest_goes(self, without: str) -> None:
        """Remove a stream while a part is down: what was announced must be taken back all the same."""
        self._remembered()
        self._shaken()
        self._box.down(without)
        self._box.remove_stream("guest")
        wait_for(lambda: not [*self._box.state.rglob("guest.*")], "the fetcher forgets a removed stream", MET_S)
        self._box.up(without)
        self._back()
        self.tell(f"a stream is removed without the {without}")

    # --- the box ----------------------------------------------------------------------------------------------------

    def _remembered(self) -> None:
        """Wait until the last scene is in the history: who pulls the plug may lose ten seconds of it."""
        last = {each.stream: each.begin + LEAST_HEARD_S for each in self.heard}

        def known() -> bool:
            with HistoryReader(self._box.state / "history.db") as reader:
                return all(any(reader.segments(at, at + 60, [name])) for name, at in last.items())

        wait_for(known, "the last scene is in the history", MET_S)

    def _back(self) -> None:
        """Wait until the box is up again, however long a busy machine takes to start it."""
        wait_for(lambda: self._box.ask("/api/board").get("connected"), "the page and the broker are back", START_S)
        self._shaken()

    def _no_power(self) -> None:
        self._remembered()
        self._shaken()
        self._box.reboot()
        self._back()
        self.tell("the box loses power")

    def _new_broker(self) -> None:
        self._shaken()
        self._box.down("broker", number=15)
        self._box.up("broker")
        self._back()
        self.tell("the broker is upgraded")

    def _meanwhile(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except (AssertionError, sqlite3.Error) as error:
                self._report.problems.append(f"nothing was proved: {error}")

        self._under_way.append(threading.Thread(target=run, daemon=True))
        self._under_way[-1].start()

    def _history_waits(self) -> bool:
        alarms = self._box.ask("/api/board").get("alarms", [])
        return any("history is not being kept" in each["text"] for each in alarms)

    def _cursors_wait(self) -> bool:
        """Whether every cursor is seconds old; they are written every half second."""
        cursors = [path.stat().st_mtime for path in self._box.state.glob("*.cursor.json")]
        return bool(cursors) and time.time() - max(cursors) > 3.0

    def _full(self, name: str, met: Callable[[], bool]) -> None:
        self._box.full_disk(name, True)

        def until_met() -> None:
            try:
                wait_for(met, f"the {name} meets a full disk", MET_S)
            finally:
                self._box.full_disk(name, False)

        self._meanwhile(until_met)
        self.tell(f"the disk is full for the {name}")

    def _locked_history(self) -> None:
        """A backup holds the database for longer than anybody waits."""

        def hold() -> None:
            connection = sqlite3.connect(self._box.state / "history.db", timeout=20, isolation_level=None)
            connection.execute("BEGIN EXCLUSIVE")
            until = time.monotonic() + LOCKED_S
            try:
                wait_for(self._history_waits, "the dashboard meets a locked history", MET_S)
                time.sleep(max(0.0, until - time.monotonic()))  # how long it is locked is a part of what happens
            finally:
                connection.execute("ROLLBACK")
                connection.close()

        self._meanwhile(hold)
        self.tell("the history is locked for 14 s")

    def set_clock(self, unix_s: float) -> float:
        """Set the clock, and wait until the box has seen it; return by how many seconds it moved.

        docs/guarantee.md: a box that loses power before it saw this keeps the wrong dates.
        """
        said = "clock was set by"
        count = self._box.log("dashboard").count(said)
        moved = self._box.clocks.set_to(unix_s)
        wait_for(lambda: self._box.log("dashboard").count(said) > count, "the dashboard sees a clock set", MET_S)
        return moved

    def _wrong_clock(self, number: int) -> None:
        """The clock runs ahead by a year, or back by an hour, until NTP sets it right."""
        right, began = self._box.clocks.now, time.monotonic()
        self.set_clock(right + (365 * 86_400.0 if number % 2 else -3_600.0))
        self.tell("the clock is wrong")
        time.sleep(3.0)  # how long it is wrong is a part of what happens
        self.set_clock(right + time.monotonic() - began)
        self.tell("and right again")
