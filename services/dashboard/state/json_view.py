"""The board's values as JSON for the page; docs/dashboard-builder.md explains them. Pure; start at `stream`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from services.contract.messages import Event, Ledger, Result
from services.contract.windows import SAMPLE_RATE
from services.dashboard.state.stream_state import StreamState

MOST_EVENTS = 50
PLACES = ("timeline", "classified", "gap", "lost", "short", "in_flight")


def stream(view: StreamState) -> dict[str, Any]:
    """Return one stream."""
    last, run = view.recent[-1] if view.recent else None, view.run
    return {
        "name": view.name,
        "genre": view.verdict.genre,
        "confidence": round(view.verdict.confidence, 3),
        "kind": view.verdict.kind,
        "scores": {label: round(score, 4) for label, score in view.verdict.scores.items()},
        "since": view.since,
        "title": view.track[0],
        "artist": view.track[1],
        "configured": view.configured is not None,
        "kinds": view.verdict.kinds and {kind: round(share, 4) for kind, share in view.verdict.kinds.items()},
        "recent": [[each.genre, round(each.confidence, 2), each.kind] for each in view.recent],
        "run": [run.start, run.end, run.genre, round(run.confidence, 2), run.kind] if run else None,
        "window": last and _window(last),
        "ledger": view.ledger and _ledger(view.ledger),
        "results": view.results,
    }


def _window(result: Result) -> dict[str, Any]:
    fields = {
        *("genre", "confidence", "kind", "kinds", "sounds", "scores", "start_s", "end_s"),
        *("level_dbfs", "latency_ms", "model", "model_version"),
    }
    return result.model_dump(include=fields)


def _ledger(ledger: Ledger) -> dict[str, Any]:
    """Return a ledger in seconds."""
    return {
        **{place: round(getattr(ledger, place) / SAMPLE_RATE, 1) for place in PLACES},
        "windows": ledger.windows,
        "causes": {cause: round(samples / SAMPLE_RATE, 1) for cause, samples in ledger.causes.items()},
        "adds_up": ledger.adds_up,
    }


def events(events: Iterable[tuple[float, Event]]) -> list[dict[str, Any]]:
    """Return the last events, oldest first."""
    return [
        {
            "at": at,
            "stream": event.stream,
            "kind": event.kind,
            "seconds": event.seconds,
            "cause": event.cause,
            "reason": event.reason or " - ".join(word for word in (event.artist, event.title) if word),
        }
        for at, event in list(events)[-MOST_EVENTS:]
    ]
