"""What `genre classify` prints: a table for people, JSON lines or CSV for programs, an SVG timeline a file.

Pure: values in, text out. Start at `as_json`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from html import escape
from typing import Any

from services.classify.pipeline import Classified, Window
from services.inference.verdict import Verdict
from services.terminal import printable

COLOURS = {
    "blues": "#2f6fdb", "classical": "#a98300", "country": "#b8652a", "disco": "#b93fc0", "hiphop": "#7a5ad6",
    "jazz": "#0f8d86", "metal": "#39434e", "pop": "#e04f8f", "reggae": "#379239", "rock": "#d3382f",
}  # fmt: skip
COLUMNS = ("file", "genre", "confidence", "kind", "seconds", "windows", "title", "artist", "problem")


def _scores(verdict: Verdict, labels: Sequence[str]) -> dict[str, float]:
    return {label: round(float(score), 4) for label, score in zip(labels, verdict.scores, strict=True)}


def as_json(found: Classified, labels: Sequence[str], windows: bool) -> str:
    """Return one file as a JSON line; with each window where asked for."""
    verdict = found.verdict
    values: dict[str, Any] = {
        "file": found.file,
        "genre": verdict.genre if verdict else None,
        "confidence": round(verdict.confidence, 4) if verdict else 0.0,
        "kind": verdict.kind if verdict else "",
        "scores": _scores(verdict, labels) if verdict else {},
        "seconds": round(found.seconds, 3),
        "title": found.title,
        "artist": found.artist,
        "problem": found.problem,
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
                "scores": _scores(each.verdict, labels),
            }
            for each in found.windows
        ]
    return json.dumps(values, ensure_ascii=False)


def csv_line(values: Sequence[object]) -> str:
    """Return one CSV line, without its newline."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(values)
    return out.getvalue()


def as_csv(found: Classified) -> str:
    """Return one file as a CSV line, in the order of COLUMNS."""
    verdict = found.verdict
    return csv_line(
        (
            _no_formula(found.file),
            verdict.genre or "" if verdict else "",
            f"{verdict.confidence:.4f}" if verdict else "",
            verdict.kind if verdict else "",
            f"{found.seconds:.3f}",
            len(found.windows),
            _no_formula(found.title),
            _no_formula(found.artist),
            _no_formula(found.problem),
        )
    )


def _no_formula(text: str) -> str:
    """Return text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def as_row(found: Classified, width: int) -> str:
    """Return one file as a line of the table: name, genre, how sure, what it rests on."""
    name = printable(found.file)
    name = name if len(name) <= width else "…" + name[1 - width :]
    if found.verdict is None:
        return f"{name:{width}}  {'-':10}       {printable(found.problem)}"
    genre = found.verdict.genre or "silence"
    genre += "?" if found.verdict.kind == "unsure" else ""
    note = f"  {printable(found.problem)}" if found.problem else ""
    return f"{name:{width}}  {genre:10} {100 * found.verdict.confidence:4.0f} %  {strip(found.windows)}{note}"


def strip(windows: Sequence[Window], most: int = 32) -> str:
    """Return the course of a file in a few letters: the first two of each genre, runs joined, e.g. 'ja ro ja'."""
    runs: list[str] = []
    for window in windows:
        word = window.verdict.genre[:2] if window.verdict.genre else "--"
        if not runs or runs[-1] != word:
            runs.append(word)
    shown = " ".join(printable(run) for run in runs[:most])
    return shown + (" …" if len(runs) > most else "")


_ANCHORED = ' text-anchor="end"'
"""For the last mark, which would stand out of the picture."""


def svg(found: Classified, width: int = 1000) -> str:
    """Return a file's timeline as SVG: a bar a window, coloured by genre, as tall as the model was sure."""
    labels = sorted({each.verdict.genre for each in found.windows if each.verdict.genre})
    total = max(found.seconds, 0.001)
    bars = []
    for index, each in enumerate(found.windows):
        until = found.windows[index + 1].start_s if index + 1 < len(found.windows) else each.end_s
        left, wide = 20 + (width - 40) * each.start_s / total, (width - 40) * max(0.0, until - each.start_s) / total
        tall = 80 * each.verdict.confidence if each.verdict.genre else 2
        what = f"{each.start_s:.1f} s: {each.verdict.genre or 'silence'} {100 * each.verdict.confidence:.0f} %"
        bars.append(
            f'<rect x="{left:.1f}" y="{120 - tall:.1f}" width="{wide + 0.4:.1f}" height="{tall:.1f}" '
            f'fill="{colour(each.verdict.genre)}"><title>{escape(what)}</title></rect>'
        )
    step = next(s for s in (5, 10, 30, 60, 300, 600, 1800, 3600, 10**9) if total / s <= 12)
    marks = []
    for at in range(0, int(total) + 1, step):
        anchor = _ANCHORED if at > 0.95 * total else ""
        marks.append(f'<text x="{20 + (width - 40) * at / total:.1f}" y="138"{anchor}>{_clock(at)}</text>')
    legend = "".join(
        f'<rect x="{20 + 95 * i}" y="150" width="11" height="11" fill="{colour(label)}"/>'
        f'<text x="{35 + 95 * i}" y="160">{escape(label)}</text>'
        for i, label in enumerate(labels)
    )
    verdict = found.verdict
    summary = f"{verdict.genre or 'silence'}, {100 * verdict.confidence:.0f} %" if verdict else "not classified"
    if verdict and verdict.kind == "unsure":
        summary += " (unsure)"
    title = escape(printable(found.file.rsplit("/", 1)[-1]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 172" font-family="sans-serif" font-size="12">'
        f'<rect width="{width}" height="172" fill="#fff"/><g fill="#18202a">'
        f'<text x="20" y="22" font-size="15">{title}: {escape(summary)}</text>'
        f'<path d="M20 120H{width - 20}M20 40H{width - 20}" stroke="#d5dae1"/>'
        f'<text x="{width - 20}" y="35" text-anchor="end" fill="#4d5968">100 % sure</text>'
        f'<g shape-rendering="crispEdges">{"".join(bars)}</g>{"".join(marks)}{legend}</g></svg>\n'
    )


def colour(genre: str | None) -> str:
    """Return a genre's colour; labels of other models get one of their own."""
    if genre is None:
        return "#9aa4b0"
    return COLOURS.get(genre) or f"hsl({sum((i + 1) * ord(c) for i, c in enumerate(genre)) * 47 % 360} 55% 45%)"


def _clock(seconds: int) -> str:
    return (
        f"{seconds // 60}:{seconds % 60:02}"
        if seconds < 3600
        else f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    )
