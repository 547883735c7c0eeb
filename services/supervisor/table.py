"""The live table: one row a stream, what plays now, how sure, and whether all is well. Rich draws, nothing is kept.

Start at `table`.
"""

from __future__ import annotations

from collections import Counter

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
SHADES = " ▁▂▃▄▅▆▇█"


def table(observer: Observer, title: str, note: str = "") -> Table:
    """Return the table of everything the observer has seen."""
    # Text, not str: rich would read brackets in what others wrote as markup.
    caption = Text("\n".join(printable(line) for line in note.splitlines()))
    drawn = Table(
        title=Text(printable(title)), caption=caption, title_justify="left", caption_justify="left", expand=False
    )
    drawn.add_column("stream", no_wrap=True, max_width=24)
    drawn.add_column("now", no_wrap=True, min_width=10)
    drawn.add_column("sure", justify="right")
    drawn.add_column("last 30 s", no_wrap=True, min_width=20)
    drawn.add_column("playing", max_width=28, no_wrap=True)
    drawn.add_column("heard", justify="right")
    drawn.add_column("lost", justify="right")
    drawn.add_column("delay", justify="right")
    drawn.add_column("state", no_wrap=True, max_width=40)
    for name, seen in observer.seen().items():
        drawn.add_row(name, *_row(seen))
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
        Text(printable(now), style=COLOURS.get(now, "bold")),
        f"{100 * sure:.0f} %" if sure else "",
        strip(recent),
        Text(printable(playing), overflow="ellipsis"),
        heard,
        Text(lost, style="" if lost == "0" else "yellow"),
        f"{last.latency_ms:.0f} ms" if last else "",
        _state(seen),
    )


def strip(recent: list[Result]) -> Text:
    """Return one coloured block a window, as high as its confidence."""
    text = Text()
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
    event = seen.last_event
    if seen.failed:
        return Text(printable(seen.failed), style="red", overflow="ellipsis")
    if seen.ledger and seen.ledger.ended:
        return Text("ended", style="green")
    if event and event.kind == "silent":
        return Text(f"no results: {event.stage}", style="red")
    if event and event.kind in ("gap", "lost"):
        return Text(printable(f"{event.kind} {event.seconds:.1f} s: {event.cause}"), style="yellow")
    return Text("listening" if seen.results else "starting", style="green" if seen.results else "grey50")


def _clock(samples: int) -> str:
    seconds = samples // SAMPLE_RATE
    return (
        f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        if seconds >= 3600
        else f"{seconds // 60}:{seconds % 60:02}"
    )
