"""Messages as the pipeline would send them, for any number of streams; made with the contract, so never out of date."""

from __future__ import annotations

import math
import random
import time

from services.contract.messages import Event, Ledger, Message, Result, Status
from services.contract.topics import Topics
from services.text import utc

LABELS = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")


def scores(genre: str, sure: float) -> dict[str, float]:
    """Return scores with one genre on top."""
    rest = (1 - sure) / (len(LABELS) - 1)
    return {label: round(sure if label == genre else rest, 4) for label in LABELS}


def result(
    stream: str, start_s: float = 0.0, genre: str | None = "jazz", sure: float = 0.8, **changes: object
) -> Result:
    """Return one window's result; genre None is silence."""
    values: dict[str, object] = {
        "id": f"{stream}/0/{int(start_s * 22_050)}/genre-sounds",
        "stream": stream,
        "genre": genre,
        "confidence": sure if genre else 0.0,
        "kind": "music" if genre else "silence",
        "scores": scores(genre or "jazz", sure),
        "start_s": start_s,
        "end_s": start_s + 2.993,
        "observed_at": utc(time.time() - 3),
        "epoch": 0,
        "padded": False,
        "title": "",
        "artist": "",
        "level_dbfs": -18.0 if genre else -90.0,
        "model": "genre-sounds",
        "model_version": "1",
        "published_at": utc(time.time()),
        "latency_ms": 420.0,
    }
    return Result.model_validate({**values, **changes})


def sent(topics: Topics, *things: Result | Event | Ledger | Status) -> list[Message]:
    """Return things as messages on their own topics."""
    out = []
    for thing in things:
        topic, retain = {
            Result: lambda t: (topics.results, False),
            Event: lambda t: (topics.events, False),
            Ledger: lambda t: (topics.ledger(t.stream), True),
            Status: lambda t: (topics.status(t.service, t.instance), True),
        }[type(thing)](thing)
        out.append(Message(topic, thing.to_json(), retain=retain))
    return out


def status(service: str, state: str = "online", boot: str = "a1", instance: str = "1", **details: str) -> Status:
    """Return a part's status."""
    return Status.model_validate(
        {"service": service, "instance": instance, "state": state, "boot_id": boot, "version": "0.1.0",
         "since": utc(time.time()), "details": details}
    )  # fmt: skip


def ledger(stream: str, seconds: float, gap_s: float = 0.0, **changes: object) -> Ledger:
    """Return a ledger that adds up."""
    whole, gap = int(seconds * 22_050), int(gap_s * 22_050)
    values = {"stream": stream, "timeline": whole, "classified": whole - gap, "gap": gap, "windows": int(seconds / 1.5)}
    causes = {"http-404": gap} if gap else {}
    return Ledger.model_validate({**values, "causes": causes, **changes})


def event(stream: str, kind: str, **changes: object) -> Event:
    """Return an event."""
    return Event.model_validate({"kind": kind, "stream": stream, "at": utc(time.time()), **changes})


class Radio:
    """A stream that changes its genre and title now and then."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self._random = name, random.Random(seed)
        self._left, self.at_s = 0, 0.0
        self._genre, self._title = "jazz", ""

    def next(self) -> Result:
        """Return the next window."""
        if self._left == 0:
            self._left = self._random.randint(20, 160)
            self._genre = self._random.choice(LABELS)
            self._title = f"{self._genre.title()} no. {self._random.randint(1, 99)}"
        self._left -= 1
        sure = min(0.97, 0.7 + 0.25 * math.sin(self.at_s / 40) + self._random.uniform(-0.15, 0.1))
        quiet = self._left == 0
        made = result(self.name, round(self.at_s, 3), None if quiet else self._genre, max(0.25, sure),
                      title=self._title, artist="The Examples", latency_ms=self._random.uniform(200, 900))  # fmt: skip
        self.at_s += 1.4966
        return made
