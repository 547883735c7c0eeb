"""`make month`: a month of real radio, seeded, in at most 20 minutes; five minutes of it belong to `make test`.

A day is a few scenes of some seconds; between them the machine sleeps, so that its clocks go on and nothing else does.
In each scene something befalls the radio or the box (happenings.py); what must hold at the end stands in judge.py.
Start at `month`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import wave
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from services.contract.messages import Ledger, parse
from services.origin.packager import Packaging, package_folder
from tests.chaos.streams import tiny_model, write_music
from tests.month.box import Box
from tests.month.clocks import local
from tests.month.happenings import KINDS, NTP, Happenings
from tests.month.judge import Heard, Judge, Outage, Report
from tests.month.radio import Radio, Station, programme

STATIONS = ("token", "encoder", "maintenance", "night", "returns", "steady")
HOURS = ("00:30", "04:30", "12:15", "23:30")
"""The first and the last are less than an hour from midnight: summer time reckoned wrong puts them on another day."""


def days_of(count: int) -> list[str]:
    """Return the dates played: around the day when summer time begins, then around the day when it ends."""
    spring = (count + 1) // 2
    found = []
    for first, middle, number in (("2026-03-29", 0.5, spring), ("2026-10-25", 0.5, count - spring)):
        begin = datetime.fromisoformat(first) - timedelta(days=int(number * middle))
        found += [(begin + timedelta(days=day)).strftime("%Y-%m-%d") for day in range(number)]
    return found


def _talk(folder: Path) -> Path:
    """Write what to a machine is like somebody talking: bursts of noise, four a second, and pauses for breath."""
    folder.mkdir()
    t = np.arange(9 * 22_050) / 22_050
    syllables = np.clip(np.sin(2 * np.pi * 4 * t), 0, 1) * (t % 3 < 2.2)
    pcm = np.random.default_rng(5).normal(0, 4_000, t.size) * syllables
    with wave.open(str(folder / "talk.wav"), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(22_050)
        out.writeframes(pcm.astype("<i2").tobytes())
    return folder


class Month:
    """The run: its radio, its box, and what happens to them."""

    def __init__(self, folder: Path, seed: int, days: int, scene_s: float) -> None:
        self.report, self._scene_s = Report(seed, days), scene_s
        self._folder = folder
        models = folder / "models"
        tiny_model(models)
        self._radio = Radio([Station(name, items) for name, items in self._programmes()])
        self._radio.stations["token"].token = "0"
        self.box = Box(folder / "box", models, {name: self._radio.url(name) for name in STATIONS})
        self._happenings = Happenings(self.report, self.box, self._radio, STATIONS, seed)
        self._days = days_of(days)

    def _programmes(self) -> Iterator[tuple[str, list[Any]]]:
        music = write_music(self._folder / "music", {f"piece{n}": 27.0 + n for n in range(3)})
        package_folder(music, self._folder / "hls", Packaging(segment_s=2.0, coder="fast"))
        spots = write_music(self._folder / "spots", {"spot": 9.0})
        package_folder(spots, self._folder / "ads", Packaging(segment_s=2.0, coder="fast", format="aac"))
        package_folder(_talk(self._folder / "speech"), self._folder / "talk", Packaging(segment_s=2.0, coder="fast"))
        pieces = [sorted(each.parent.glob("*.ts")) for each in sorted((self._folder / "hls").glob("*/*/audio.m3u8"))]
        ads = sorted((self._folder / "ads").glob("*/*/*.aac"))
        talk = sorted((self._folder / "talk").glob("*/*/*.ts"))
        assert all(pieces) and ads and talk, "the packager's layout is another one"
        for number, name in enumerate((*STATIONS, "guest")):
            yield name, programme(pieces[number % 3 :] + pieces[: number % 3], talk, ads)

    def run(self) -> Report:
        """Play it and judge it."""
        began = time.monotonic()
        box, happenings = self.box, self._happenings
        box.clocks.set_to(120.0)  # a box without a clock of its own wakes up in 1970
        early: dict[str, int] = {}
        try:
            starting = [Outage(name, time.monotonic()) for name in STATIONS]
            happenings.excused += starting
            box.start()
            self._wait_flowing(90)
            for each in starting:
                each.end = time.monotonic()
            self._scene("1970")
            happenings.heard.clear()
            first = box.clocks.now - self._scene_s
            moved = happenings.set_clock(local(f"{self._days[0]} 00:20"))
            happenings.tell(NTP)
            happenings.heard += [Heard(name, first + moved, first + moved + self._scene_s) for name in STATIONS]
            self._scene("after NTP")
            for number, day in enumerate(self._days):
                for hour in HOURS:
                    box.clocks.sleep_until(max(box.clocks.now + 1, local(f"{day} {hour}")))
                    for what in happenings.plan(number, hour):
                        what()
                    self._scene(f"{day} {hour}")
                if number == len(self._days) // 3:
                    early = box.files()
            happenings.return_everything()
            self._wait_flowing(60)
            judge = Judge(self.report, box, happenings.heard, happenings.outages, happenings.excused)
            judge.everything(self._days, KINDS, early)
        except AssertionError as error:
            self.report.problems.append(str(error))
        finally:
            left = box.end()
            self._radio.close()
        self.report.problems += [f"a process is left over: {line[:200]}" for line in left]
        self.report.seconds = round(time.monotonic() - began, 1)
        return self.report

    def _scene(self, name: str) -> None:
        """Let it play; note which streams were there all the time."""
        begin = self.box.clocks.now
        playing = [each for each in STATIONS if self._happenings.plays(each)]
        time.sleep(self._scene_s)  # how long a scene is; what came of it is judged at the end
        self._happenings.over()
        now = self.box.clocks.now
        self._happenings.heard += [Heard(each, begin, now) for each in playing if self._happenings.plays(each)]
        self.report.scenes += 1

    def _ledgers(self) -> dict[str, Ledger]:
        found = {t.split("/")[-2]: p for t, p in self.box.retained().items() if t.endswith("/ledger")}
        return {name: parse(Ledger, payload) for name, payload in found.items()}

    def _wait_flowing(self, timeout_s: float) -> None:
        """Wait until the ledger of each stream moves."""
        before = self._ledgers()
        deadline, still = time.monotonic() + timeout_s, sorted(self.box.streams)
        while still and time.monotonic() < deadline:
            time.sleep(1.0)
            now = self._ledgers()
            still = [
                name
                for name in self.box.streams
                if name not in now or (name in before and now[name].classified <= before[name].classified)
            ]
        if still:
            self.report.problems.append(f"not flowing: {still}")


def month(folder: Path, *, seed: int = 1, days: int = 30, scene_s: float = 9.0) -> Report:
    """Play so many days; return what was found."""
    return Month(folder, seed, days, scene_s).run()


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--days", type=int, default=28, help="28 take 18 minutes, 6 take five; fewer prove too little")
    parser.add_argument("--report", type=Path, default=Path("month-report.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="genre-month-") as name:
        report = month(Path(name), seed=given.seed, days=given.days)
        given.report.write_text(json.dumps(asdict(report), indent=1))
        if report.problems:
            for log in ("fetcher", "dashboard"):
                print(f"--- {log}\n{(Path(name) / 'box' / f'{log}.log').read_text()[-4000:]}")
    print(f"{report.days} days, {report.scenes} scenes, {report.seconds:.0f} s, {report.outages} outages;")
    print(
        f"{report.hours_heard} stream-hours heard are in the history, {report.least_heard_s:g} s of each scene or more"
    )
    for problem in report.problems:
        print("PROBLEM", problem)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
