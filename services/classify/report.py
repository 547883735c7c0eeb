"""What `genre classify` prints: a table for people, JSON lines or CSV for programs, an SVG timeline a file.

Pure: values in, text out. Start at `as_json`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from services.classify.files import shown
from services.classify.pipeline import Classified, Window
from services.contract.smoothing import Verdict
from services.inference.card import Card
from services.palette import called, colour
from services.text import clean

SHARES = ("music", "speech", "other", "silence")
COLUMNS = (
    "file", "genre", "confidence", "kind", "seconds", "windows", "title", "artist", "problem", *SHARES,
    "model", "model_version",
)  # fmt: skip
"""Of a CSV; a column `score_LABEL` for each of the model's genres follows."""


def _scores(verdict: Verdict, labels: Sequence[str]) -> dict[str, float]:
    return {label: round(verdict.scores.get(label, 0.0), 4) for label in labels}


def _kinds(verdict: Verdict) -> dict[str, float] | None:
    return {name: round(share, 4) for name, share in verdict.kinds.items()} if verdict.kinds else None


def shares(windows: Sequence[Window]) -> dict[str, float]:
    """Return which share of a file's windows is music, speech, other and silence; what is unsure is music."""
    counts = dict.fromkeys(SHARES, 0)
    for each in windows:
        kind = each.verdict.kind
        counts["music" if kind == "unsure" else kind] += 1
    return {kind: round(count / max(1, len(windows)), 4) for kind, count in counts.items()}


def as_json(found: Classified, card: Card, windows: bool) -> str:
    """Return one file as a JSON line; with each window where asked for."""
    verdict, labels = found.verdict, card.labels
    values: dict[str, Any] = {
        "file": found.file,
        "genre": verdict.genre if verdict else None,
        "confidence": round(verdict.confidence, 4) if verdict else 0.0,
        "kind": verdict.kind if verdict else "",
        "kinds": _kinds(verdict) if verdict else None,
        "scores": _scores(verdict, labels) if verdict else {},
        "shares": shares(found.windows),
        "seconds": round(found.seconds, 3),
        "title": found.title,
        "artist": found.artist,
        "problem": found.problem,
        "model": card.name,
        "model_version": card.version,
    }
    if windows:
        values["windows"] = [
            {
                "start_s": round(each.start_s, 3),
                "end_s": round(each.end_s, 3),
                "genre": each.verdict.genre,
                "confidence": round(each.verdict.confidence, 4),
                "kind": each.verdict.kind,
                "level_dbfs": round(each.level_dbfs, 2),
                "kinds": _kinds(each.verdict),
                "sounds": each.sounds,
                "scores": _scores(each.verdict, labels),
            }
            for each in found.windows
        ]
    # What a terminal obeys, and bytes that are no UTF-8, are escapes that json.loads and os.fsencode turn back.
    return re.sub(
        r"[^ -~]",
        lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1],
        json.dumps(values, ensure_ascii=False),
    )


def csv_line(values: Sequence[object]) -> str:
    """Return one CSV line, without its newline."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(values)
    return out.getvalue()


def csv_header(card: Card) -> str:
    """Return the first line of a CSV."""
    return csv_line((*COLUMNS, *(f"score_{label}" for label in card.labels)))


def as_csv(found: Classified, card: Card, on_terminal: bool = False) -> str:
    """Return one file as a CSV line, in the order of `csv_header`; a file without an answer has no scores.

    Args:
        on_terminal: a person's terminal shows it, which would obey what a name holds; a file keeps the true name.
    """
    verdict, name = found.verdict, shown(found.file)
    scores = _scores(verdict, card.labels).values() if verdict else [""] * len(card.labels)
    return csv_line(
        (
            _no_formula(clean(name, len(name)) if on_terminal else name),
            verdict.genre or "" if verdict else "",
            f"{verdict.confidence:.4f}" if verdict else "",
            verdict.kind if verdict else "",
            f"{found.seconds:.3f}",
            len(found.windows),
            _no_formula(found.title),
            _no_formula(found.artist),
            _no_formula(found.problem),
            *(f"{share:.4f}" for share in shares(found.windows).values()),
            card.name,
            card.version,
            *scores,
        )
    )


def _no_formula(text: str) -> str:
    """Return text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def as_row(found: Classified, width: int) -> str:
    """Return one file as a line of the table: name, genre, how sure, what it rests on."""
    name = clean(found.file)
    name = name if len(name) <= width else "…" + name[1 - width :]
    if found.verdict is None:
        return f"{name:{width}}  {'-':10}       {clean(found.problem)}"
    genre = called(found.verdict.kind, found.verdict.genre)
    note = f"  {clean(found.problem)}" if found.problem else ""
    return f"{name:{width}}  {genre:10} {100 * found.verdict.confidence:4.0f} %  {strip(found.windows)}{note}"


_SHORT = {"silence": "--", "speech": "talk"}


def strip(windows: Sequence[Window], most: int = 32) -> str:
    """Return the course of a file in a few letters: the first two of each genre, runs joined, e.g. 'ja talk ja'."""
    runs: list[str] = []
    for window in windows:
        verdict = window.verdict
        word = verdict.genre[:2] if verdict.genre else _SHORT.get(verdict.kind, "..")
        if not runs or runs[-1] != word:
            runs.append(word)
    shown = " ".join(clean(run) for run in runs[:most])
    return shown + (" …" if len(runs) > most else "")


_ANCHORED = ' text-anchor="end"'
"""For the last mark, which would stand out of the picture."""


def svg(found: Classified, width: int = 1000) -> str:
    """Return a file's timeline as SVG: a bar a window, coloured by genre, as tall as the model was sure."""
    named = {(each.verdict.genre or "", "" if each.verdict.genre else each.verdict.kind) for each in found.windows}
    labels = [*sorted(pair for pair in named if pair[0]), *sorted(pair for pair in named if not pair[0])]
    total = max(found.seconds, 0.001)
    bars = []
    for index, each in enumerate(found.windows):
        until = found.windows[index + 1].start_s if index + 1 < len(found.windows) else each.end_s
        left, wide = 20 + (width - 40) * each.start_s / total, (width - 40) * max(0.0, until - each.start_s) / total
        verdict = each.verdict
        tall = 2 if verdict.kind == "silence" else 80 * verdict.confidence
        what = f"{each.start_s:.1f} s: {called(verdict.kind, verdict.genre)} {100 * verdict.confidence:.0f} %"
        bars.append(
            f'<rect x="{left:.1f}" y="{120 - tall:.1f}" width="{wide + 0.4:.1f}" height="{tall:.1f}" '
            f'fill="{colour(verdict.kind, verdict.genre)}"><title>{escape(what)}</title></rect>'
        )
    step = next(s for s in (5, 10, 30, 60, 300, 600, 1800, 3600, 10**9) if total / s <= 12)
    marks = []
    for at in range(0, int(total) + 1, step):
        anchor = _ANCHORED if at > 0.95 * total else ""
        marks.append(f'<text x="{20 + (width - 40) * at / total:.1f}" y="138"{anchor}>{_clock(at)}</text>')
    legend = "".join(
        f'<rect x="{20 + 95 * i}" y="150" width="11" height="11" fill="{colour(kind, genre or None)}"/>'
        f'<text x="{35 + 95 * i}" y="160">{escape(called(kind, genre or None))}</text>'
        for i, (genre, kind) in enumerate(labels)
    )
    whole = found.verdict
    summary = "not classified"
    if whole:
        summary = f"{whole.genre or called(whole.kind, None)}, {100 * whole.confidence:.0f} %"
        summary += " (unsure)" if whole.kind == "unsure" else ""
    title = escape(clean(found.file.rsplit("/", 1)[-1]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 172" font-family="sans-serif" font-size="12">'
        f'<rect width="{width}" height="172" fill="#fff"/><g fill="#18202a">'
        f'<text x="20" y="22" font-size="15">{title}: {escape(summary)}</text>'
        f'<path d="M20 120H{width - 20}M20 40H{width - 20}" stroke="#d5dae1"/>'
        f'<text x="{width - 20}" y="35" text-anchor="end" fill="#4d5968">100 % sure</text>'
        f'<g shape-rendering="crispEdges">{"".join(bars)}</g>{"".join(marks)}{legend}</g></svg>\n'
    )


def _clock(seconds: int) -> str:
    return (
        f"{seconds // 60}:{seconds % 60:02}"
        if seconds < 3600
        else f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    )
