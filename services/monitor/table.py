"""The live table: one row a stream, what plays now, how sure, and whether all is well. Rich draws, nothing is kept.

Start at `table`.
"""

from __future__ import annotations

import time

from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from services.contract.messages import Result
from services.contract.smoothing import Judging, lately, smoothed
from services.contract.windows import SAMPLE_RATE
from services.monitor.observer import Observer, Seen
from services.palette import called, colour
from services.text import clean

COLUMNS: tuple[tuple[str, bool, JustifyMethod], ...] = (
    ("stream", True, "left"),
    ("now", False, "left"),
    ("sure", False, "right"),
    ("30 s", True, "left"),
    ("playing", True, "left"),
    ("heard", False, "right"),
    ("lost", False, "right"),
    ("delay", False, "right"),
    ("state", True, "left"),
)
"""Header, whether its text may be cut off, and its side."""
STOPPED_S = 30.0
"""No result of a stream for this long is said in red."""
SHADES = " ▁▂▃▄▅▆▇█"


def table(observer: Observer, title: str, note: str = "") -> Table:
    """Return the table of everything the observer has seen."""
    # Text, not str: rich would read brackets in what others wrote as markup.
    caption = Text("\n".join(clean(line) for line in note.splitlines()))
    drawn = Table(
        title=Text(clean(title)),
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    # On a narrow terminal rich takes width only from columns that may wrap: those whose text may be cut off.
    for header, cut, justify in COLUMNS:
        drawn.add_column(header, no_wrap=not cut, justify=justify)
    for name, seen in observer.seen().items():
        drawn.add_row(Text(clean(name), no_wrap=True, overflow="ellipsis"), *_row(seen, observer.judging))
    return drawn


def _row(seen: Seen, judging: Judging) -> tuple[Text | str, ...]:
    recent = list(seen.recent)
    last = recent[-1] if recent else None
    now = smoothed(lately(recent), judging)
    word = called(now.kind, now.genre) if recent else ""
    playing = " - ".join(part for part in (last.artist, last.title) if part) if last else ""
    ledger = seen.ledger
    heard = _clock(ledger.classified) if ledger else ""
    lost = f"{(ledger.lost + ledger.gap) / SAMPLE_RATE:.1f} s" if ledger and ledger.lost + ledger.gap else "0"
    return (
        Text(clean(word).ljust(9), style=_style(now.kind, now.genre)),
        f"{100 * now.confidence:.0f} %" if now.confidence else "",
        strip(recent),
        Text(clean(playing)[:40], no_wrap=True, overflow="ellipsis"),
        heard,
        Text(lost, style="" if lost == "0" else "yellow"),
        f"{last.latency_ms:.0f} ms" if last else "",
        _state(seen),
    )


def strip(recent: list[Result]) -> Text:
    """Return one coloured block a window, as high as its confidence."""
    text = Text(no_wrap=True, overflow="crop")
    for result in recent:
        block = "·" if result.kind == "silence" else SHADES[min(8, 1 + int(result.confidence * 8))]
        text.append(block, style=_style(result.kind, result.genre))
    return text


def _style(kind: str, genre: str | None) -> str:
    """Return rich's style of what is heard; it knows no hsl(), which genres of other models have."""
    found = colour(kind, genre, dark=True)
    return found if found.startswith("#") else "bold"


def _state(seen: Seen) -> Text:
    said, style = _health(seen)
    return Text(clean(said), style=style, no_wrap=True, overflow="ellipsis")


def _health(seen: Seen) -> tuple[str, str]:
    """Return what a stream's state is called, and its style."""
    event = seen.last_event
    if seen.failed:
        return seen.failed, "red"
    if seen.ledger and seen.ledger.ended:
        return "ended", "green"
    quiet = time.monotonic() - seen.heard_at
    if seen.heard_at and quiet > STOPPED_S:
        where = f": {event.stage}" if event and event.kind == "silent" and event.stage else ""
        return f"no result {quiet:.0f} s{where}", "red"
    if event and event.kind == "silent":
        return f"no results: {event.stage}", "red"
    if event and event.kind in ("gap", "lost"):
        return f"{event.kind} {event.seconds:.1f} s: {event.cause}", "yellow"
    return ("listening", "green") if seen.results else ("starting", "grey50")


def _clock(samples: int) -> str:
    seconds = samples // SAMPLE_RATE
    return (
        f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        if seconds >= 3600
        else f"{seconds // 60}:{seconds % 60:02}"
    )
