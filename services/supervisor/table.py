"""The live table: one row a stream, what plays now, how sure, and whether all is well. Rich draws, nothing is kept.

Start at `table`.
"""

from __future__ import annotations

import time
from collections import Counter

from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from services.contract import SAMPLE_RATE, Result
from services.supervisor.observer import Observer, Seen
from services.terminal import printable

COLOURS = {
    "blues": "dodger_blue2",
    "classical": "khaki1",
    "country": "dark_orange",
    "disco": "magenta",
    "hiphop": "medium_purple1",
    "jazz": "gold3",
    "metal": "red",
    "pop": "hot_pink",
    "reggae": "green3",
    "rock": "orange_red1",
}
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
    caption = Text("\n".join(printable(line) for line in note.splitlines()))
    drawn = Table(
        title=Text(printable(title)),
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
        drawn.add_row(Text(printable(name), no_wrap=True, overflow="ellipsis"), *_row(seen))
    return drawn


def _row(seen: Seen) -> tuple[Text | str, ...]:
    recent = list(seen.recent)
    last = recent[-1] if recent else None
    now, sure = _smoothed(recent)
    playing = " - ".join(part for part in (last.artist, last.title) if part) if last else ""
    ledger = seen.ledger
    heard = _clock(ledger.classified) if ledger else ""
    lost = f"{(ledger.lost + ledger.gap) / SAMPLE_RATE:.1f} s" if ledger and ledger.lost + ledger.gap else "0"
    return (
        Text(printable(now).ljust(9), style=COLOURS.get(now, "bold")),
        f"{100 * sure:.0f} %" if sure else "",
        strip(recent),
        Text(printable(playing)[:40], no_wrap=True, overflow="ellipsis"),
        heard,
        Text(lost, style="" if lost == "0" else "yellow"),
        f"{last.latency_ms:.0f} ms" if last else "",
        _state(seen),
    )


def strip(recent: list[Result]) -> Text:
    """Return one coloured block a window, as high as its confidence."""
    text = Text(no_wrap=True, overflow="crop")
    for result in recent:
        block = SHADES[min(8, 1 + int(result.confidence * 8))] if result.genre else "·"
        text.append(block, style=COLOURS.get(result.genre or "", "grey50"))
    return text


def _smoothed(recent: list[Result]) -> tuple[str, float]:
    """Return the genre with the highest mean probability over the windows that are music."""
    music = [result for result in recent if result.genre]
    if not music:
        return ("silence", 0.0) if recent else ("", 0.0)
    total: Counter[str] = Counter()
    for result in music:
        for genre, score in result.scores.items():
            total[genre] += score  # type: ignore[assignment]  # Counter holds any number
    genre, score = total.most_common(1)[0]
    return genre, score / len(music)


def _state(seen: Seen) -> Text:
    said, style = _health(seen)
    return Text(printable(said), style=style, no_wrap=True, overflow="ellipsis")


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
