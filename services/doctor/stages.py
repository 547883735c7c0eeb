"""Stages: checks in the order in which one needs the other; a part stops at its first failure, other parts go on.

Pure but for the clock. A check returns what it found, or raises a GenreError that says what to do. Start at `examine`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from services.errors import GenreError

State = Literal["ok", "warning", "failed", "not tried"]


class Concern(GenreError):  # noqa: N818  # not a failure: the part goes on
    """Something that works and still should be known."""


@dataclass(frozen=True)
class Finding:
    """What one stage found.

    Attributes:
        part: e.g. "broker"; stage: e.g. "TLS"; text: what was found, or the reason; remedy: what to do, "" where ok.
    """

    part: str
    stage: str
    state: State
    text: str
    remedy: str
    seconds: float


@dataclass(frozen=True)
class Part:
    """A chain of checks: name of the part, and (name of the stage, check) in order."""

    name: str
    stages: Sequence[tuple[str, Callable[[], str]]]


def examine(parts: Sequence[Part]) -> Iterator[Finding]:
    """Run every part and yield each finding as it comes."""
    for part in parts:
        stopped_at = ""
        for stage, check in part.stages:
            if stopped_at:
                yield Finding(part.name, stage, "not tried", f"stopped at {stopped_at}", "", 0.0)
                continue
            began = time.monotonic()
            state: State = "ok"
            remedy = ""
            try:
                text = check()
            except Concern as error:
                state, text, remedy = "warning", f"{error.thing}: {error.reason}", error.remedy
            except GenreError as error:
                state, text, remedy, stopped_at = "failed", f"{error.thing}: {error.reason}", error.remedy, stage
            except Exception as error:
                state, text, stopped_at = "failed", f"{type(error).__name__}: {error}", stage
                remedy = "this is a defect; please report it with 'genre support-bundle'"
            yield Finding(part.name, stage, state, text, remedy, time.monotonic() - began)
