"""What must hold at the end of a month. Start at `Judge`; each of its questions adds to the report's problems."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from services.contract.messages import Ledger, parse
from services.contract.topics import Topics
from services.dashboard.history.reader import HistoryReader
from services.dashboard.history.tables import LOG_BYTES
from services.dashboard.take_back import Owned
from tests.broker.mosquitto import wait_for
from tests.month.box import Box
from tests.month.clocks import ZONE, local
from tests.month.radio import ARTIST

RAISED_S = 20.0
"""Longest until an alarm is on the page: dead_after_s or stopped_after_s, and what a busy machine adds."""
TAKEN_BACK_S = 30.0
"""Longest until it is gone: three retries, each after twice the wait, a window, and what a busy machine adds."""
LEAST_HEARD_S = 1.0
"""Of each scene: a segment of HLS, a window and a result lie between what is played and the history."""
LEAST_SHARE = 0.25
"""Of scenes and streams: the others are those in which something befell a stream, or had just done so."""
NOT_A_CAUSE = {"", "unaccounted"}
LEAST_SAMPLES = 60
MOST_LOG_MB = 5.0
PREFIX = "homeassistant"


@dataclass
class Heard:
    """A scene in which a stream played all the time, in Unix time as the box had it."""

    stream: str
    begin: float
    end: float


@dataclass
class Outage:
    """A time (monotonic) in which a station was away, or in which something else explains an alarm of it."""

    stream: str
    begin: float
    end: float = float("inf")


@dataclass
class Report:
    """What a month found.

    Attributes:
        kinds: how often each thing befell the box or its radio.
        least_heard_s: the least that the history has of any scene, which is `scene_s` long.
        memory_mb: of the longest life of each part: after its warm-up, and at its end.
    """

    seed: int
    days: int
    scenes: int = 0
    seconds: float = 0.0
    happened: list[str] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)
    hours_heard: int = 0
    least_heard_s: float = float("inf")
    outages: int = 0
    ledgers: dict[str, dict[str, Any]] = field(default_factory=dict)
    memory_mb: dict[str, tuple[float, float]] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Judge:
    """Asks the box what became of all that befell it.

    Args:
        outages: stations that were away: each must have raised an alarm.
        excused: times in which a stream may have an alarm for another reason.
    """

    def __init__(
        self, report: Report, box: Box, heard: list[Heard], outages: list[Outage], excused: list[Outage]
    ) -> None:
        self._report, self._box = report, box
        self._heard, self._outages, self._excused = heard, outages, excused

    def _problem(self, text: str) -> None:
        self._report.problems.append(text)

    def everything(self, days: list[str], expected: set[str], early: dict[str, int]) -> None:
        """Ask all of it.

        Args:
            days: local dates that were played.
            expected: kinds of things that must have happened, or the month proved nothing.
            early: the box's files after a third of the month.
        """
        if missing := expected - set(self._report.kinds):
            self._problem(f"these never happened, so nothing was proved of them: {sorted(missing)}")
        questions: list[Callable[[], None]] = [
            self.alarms, self.ledgers, lambda: self.history(days), self.nothing_of_what_is_gone,
            lambda: self.growth(early),
        ]  # fmt: skip
        for question in questions:
            try:
                question()
            except Exception as error:  # one that can't be answered hides none of the others
                self._problem(f"{type(error).__name__}: {error}")

    def ledgers(self) -> None:
        """Each stream has one, it adds up, and its gaps and losses have causes."""
        kept = self._box.retained()
        found = {topic.split("/")[-2]: parse(Ledger, kept[topic]) for topic in kept if topic.endswith("/ledger")}
        if set(found) != self._box.streams:
            self._problem(f"ledgers of {sorted(found)} instead of {sorted(self._box.streams)}")
        for name, ledger in sorted(found.items()):
            self._report.ledgers[name] = ledger.model_dump()
            if not ledger.adds_up or not ledger.classified:
                self._problem(f"the ledger of {name} does not add up, or nothing was classified: {ledger}")
            if strange := NOT_A_CAUSE & set(ledger.causes):
                self._problem(f"the ledger of {name} has gaps with cause {strange}: {ledger.causes}")
            if sum(ledger.causes.values()) != ledger.gap + ledger.lost:
                self._problem(f"causes do not add up to what {name} misses: {ledger}")
            if ledger.ended or ledger.failed:
                self._problem(f"{name} plays and its ledger says ended or failed: {ledger}")

    def history(self, days: list[str]) -> None:
        """Every scene is known, and each second stands under the local day on which it was heard."""
        now = self._box.clocks.now

        def written() -> bool:
            with HistoryReader(self._box.state / "history.db") as reader:
                return all(any(reader.segments(now, now + 600, [name])) for name in self._box.streams)

        wait_for(written, "the end of the month is in the history", 60)
        of_day: Counter[str] = Counter()
        missing = []
        with HistoryReader(self._box.state / "history.db") as reader:
            for heard in self._heard:
                seconds = sum(
                    min(each.end, heard.end) - max(each.start, heard.begin)
                    for each in reader.segments(heard.begin, heard.end, [heard.stream])
                )
                self._report.least_heard_s = round(min(self._report.least_heard_s, seconds), 1)
                if seconds < LEAST_HEARD_S:
                    missing.append(heard)
            for day in days:
                begin, after = local(f"{day} 00:00"), datetime.fromisoformat(day) + timedelta(days=1)
                end = local(f"{after:%Y-%m-%d} 00:00")
                of_day[day] = sum(min(s.end, end) - max(s.start, begin) for s in reader.segments(begin, end))
            total = sum(each.end - each.start for each in reader.segments())
            artists = {each.artist for each in reader.segments(streams=["steady"])}
        self._report.hours_heard = len(self._heard) - len(missing)
        if len(self._heard) < LEAST_SHARE * self._report.scenes * len(self._box.streams):
            self._problem(
                f"only in {len(self._heard)} scenes did a stream play all the time: too few to prove anything"
            )
        for heard in missing[:10]:
            at = datetime.fromtimestamp(heard.begin, ZONE).strftime("%Y-%m-%d %H:%M")
            self._problem(f"the history does not know that {heard.stream} was heard at {at}")
        if ARTIST not in artists:
            self._problem(f"the history knows no titles: {sorted(artists)}")
        if abs(total - sum(of_day.values())) > 1:
            self._problem(f"{total - sum(of_day.values()):.0f} s of the history are of days that were never played")
        self._page_of_days(of_day)

    def _page_of_days(self, of_day: Counter[str]) -> None:
        """The page has the same seconds under the same dates; borders of days are reckoned here anew."""
        today = datetime.fromtimestamp(self._box.clocks.now, ZONE).date()
        count = min(400, (today - datetime.fromisoformat(min(of_day)).date()).days + 1)
        answer = self._box.ask("/api/shares", by="day", count=count, tz=ZONE.key)
        shown = {
            datetime.fromtimestamp(begin + 1, ZONE).strftime("%Y-%m-%d"): sum(slice_.values())
            for begin, slice_ in zip(answer.get("borders", [])[:-1], answer.get("slices", []), strict=False)
        }
        last = max(of_day)  # still being heard
        wrong = {
            day: (round(shown.get(day, 0.0)), round(of_day[day]))
            for day in {*shown, *of_day}
            if day != last and abs(shown.get(day, 0.0) - of_day[day]) > 1.0
        }
        if wrong or not shown.get(last):
            self._problem(f"days on the page with other seconds than were heard (page, history): {wrong}, {last}")

    def alarms(self) -> None:
        """Each outage raised one in time, which went when it was over; nothing else raised any; none is left."""
        wait_for(lambda: self._box.ask("/api/board"), "the page answers", 20)
        polls = self._box.polls
        for outage in self._outages:
            self._report.outages += 1
            lasted = f"{outage.stream} was away for {outage.end - outage.begin:.0f} s"
            said = [at for at, alarms in polls if outage.begin < at < outage.begin + RAISED_S]
            if not any(outage.stream in alarms for at, alarms in polls if at in said):
                self._problem(f"no alarm in time when {lasted}")
            # From the first answer on: the page itself may have been down.
            answered = next((at for at, _ in polls if at > outage.end), outage.end)
            after = [alarms for at, alarms in polls if outage.end < at < answered + TAKEN_BACK_S]
            if all(outage.stream in alarms for alarms in after):
                self._problem(f"the alarm was not taken back after {lasted}: {after[-1:]}")
        for at, alarms in polls:
            for stream in alarms:
                if stream and not any(
                    each.begin <= at <= each.end + TAKEN_BACK_S
                    for each in (*self._outages, *self._excused)
                    if each.stream == stream
                ):
                    self._problem(f"an alarm without a reason: {stream}: {alarms[stream]}")
                    return
        deadline = time.monotonic() + TAKEN_BACK_S
        while (left := self._alarms_now()) and time.monotonic() < deadline:
            time.sleep(0.5)
        if left:
            self._problem(f"alarms that were not taken back: {left}")

    def _alarms_now(self) -> list[dict[str, Any]]:
        """Return the alarms on the page now; that the page does not answer is one, too."""
        silent = [{"level": "alarm", "text": "no answer"}]
        found: list[dict[str, Any]] = self._box.ask("/api/board").get("alarms", silent)
        return [each for each in found if each["level"] == "alarm"]

    def nothing_of_what_is_gone(self) -> None:
        """What the broker keeps, the page tells Prometheus and the state folder holds is of streams that are there."""
        owned, streams = Owned(Topics(), PREFIX), self._box.streams

        def left() -> list[str]:
            found = []
            for topic, payload in self._box.retained().items():
                stream = topic.split("/")[-2] if topic.endswith("/ledger") else owned.stream(topic, payload)
                if stream is not None and stream not in streams:
                    found.append(topic)
                if "/status/" in topic and json.loads(payload)["state"] != "online":
                    found.append(f"{topic} {json.loads(payload)['state']}")
            for family in text_string_to_metric_families(self._box.metrics()):
                gone = {sample.labels.get("stream", "") for sample in family.samples} - streams - {"", "other"}
                found += [f"metric {family.name} of {sorted(gone)}"] if gone else []
            return found

        deadline = time.monotonic() + TAKEN_BACK_S
        while (found := left()) and time.monotonic() < deadline:
            time.sleep(0.5)
        if found:
            self._problem(f"kept of what is gone: {found[:5]}")

        def announced() -> bool:
            return {owned.stream(topic, payload) for topic, payload in self._box.retained().items()} - {None} == streams

        wait_for(announced, f"just {sorted(streams)} are announced", TAKEN_BACK_S)

    def growth(self, early: dict[str, int]) -> None:
        """No process, no file and no memory grew: a process by its longest life, files from a third of the month on."""
        lives: dict[str, list[tuple[float, int, int]]] = {}
        for (name, _), samples in self._box.lives.items():
            lives[name] = max(lives.get(name, []), samples, key=len)
        for name, samples in lives.items():
            if len(samples) < LEAST_SAMPLES:
                self._problem(
                    f"no process of {name} lived long enough to tell whether it grows: {len(samples)} samples"
                )
                continue
            quarter = len(samples) // 4
            before = [median(each[place] for each in samples[quarter : 2 * quarter]) for place in range(3)]
            after = [median(each[place] for each in samples[-quarter:]) for place in range(3)]
            self._report.memory_mb[name] = (round(before[0], 1), round(after[0], 1))
            if after[0] > 1.15 * before[0] and after[0] - before[0] > 10:
                self._problem(f"{name} grew from {before[0]:.0f} to {after[0]:.0f} MB")
            for place, what in ((1, "descriptors"), (2, "threads")):
                if after[place] > before[place] + 4:
                    self._problem(f"{name} has {after[place]:.0f} {what} after {before[place]:.0f}")
        running = self._box.processes()
        if len(running) != len(lives):
            self._problem(f"{len(running)} processes instead of {len(lives)}: {running}")
        self._files(early)

    def _files(self, early: dict[str, int]) -> None:
        late = self._report.files = self._box.files()
        new = {name for name in set(late) - set(early) if "guest" not in name}
        deadline = time.monotonic() + TAKEN_BACK_S
        while new and time.monotonic() < deadline:  # one that is just being written has another name for a moment
            time.sleep(0.1)
            new &= set(self._box.files())
        if new:
            self._problem(f"files that were not there before: {sorted(new)[:10]}")
        for name, size in late.items():
            if name.endswith(".log"):
                allowed = MOST_LOG_MB * 1e6
            elif name.startswith("mosquitto.db"):  # what is under way, too: at most the fetcher's credits
                allowed = 64 * 400e3
            elif name.endswith("history.db-wal"):  # and what one transaction adds before it is written back
                allowed = 1.25 * LOG_BYTES
            elif "history.db" in name:  # a month's history is three times that of a third
                allowed = 1e6 + 4 * early.get(name, 0)
            else:
                allowed = 16e3 + 2 * early.get(name, 0)
            if size > allowed:
                self._problem(f"{name} grew from {early.get(name, 0)} to {size} bytes")
