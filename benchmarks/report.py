"""Results on disk: one JSON file, Markdown tables and pictures for each benchmark, in a folder of its own.

docs/benchmarks.md shows the latest. Nothing is measured here. Start at `Report`; pictures are made by `bars` and
`lines`, drawn alike so that a reader learns them once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from services.errors import GenreError

INK, GREY, ACCENT = "#1f2933", "#9aa5b1", "#1d6fa5"
SERIES = ("#1d6fa5", "#d1495b", "#3a8f5d", "#8a5fbf", "#c98a1b", "#5c6b7a")


class Report:
    """Everything one benchmark found.

    Args:
        name: of the benchmark.
        out: the results folder; files go to out/<name>/.
        options: how it was run, for whoever repeats it.
    """

    def __init__(self, name: str, out: Path, options: Mapping[str, object]) -> None:
        self.name, self.folder = name, out / name
        self.values: dict[str, Any] = {"benchmark": name, "options": dict(options), "machine": machine.describe()}
        self._tables: list[str] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GenreError(str(self.folder), f"can't be written ({error.strerror})", "name another --out") from error

    def table(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
        """Add a table and return it as text: Markdown that is also readable on a terminal."""
        text = markdown(title, heads, rows)
        self._tables.append(text)
        return text

    def save(self) -> Path:
        """Write results.json and tables.md; return the folder."""
        (self.folder / "results.json").write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")
        (self.folder / "tables.md").write_text("\n\n".join([*self._tables, ""]), encoding="utf-8")
        return self.folder

    def picture(self, name: str) -> Path:
        """Return where a picture of that name goes."""
        return self.folder / f"{name}.png"


def markdown(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table with its title as Markdown."""
    cells = [[str(cell) for cell in row] for row in [heads, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([f"**{title}**", "", *lines])


def _axes(title: str, width: float = 8.0, height: float = 4.2) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), dpi=110)
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9)
    return figure, axes


def _finish(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def bars(
    path: Path,
    title: str,
    unit: str,
    values: Mapping[str, tuple[float, float, float]],
    goals: Mapping[str, float] | None = None,
    *,
    log: bool = False,
) -> None:
    """Draw one horizontal bar each: label -> (median, least, largest); a goal is a mark across its bar."""
    figure, axes = _axes(title, height=1.3 + 0.38 * len(values))
    labels = list(values)
    for place, label in enumerate(labels):
        median, least, largest = values[label]
        axes.barh(place, median, color=ACCENT, height=0.62)
        axes.plot([least, largest], [place, place], color=INK, linewidth=1.2)
        axes.annotate(f" {median:,.3g}", (max(median, largest), place), va="center", fontsize=9, color=INK)
        if goals and label in goals:
            axes.plot([goals[label]] * 2, [place - 0.42, place + 0.42], color=SERIES[1], linewidth=2)
    if goals:
        axes.plot([], [], color=SERIES[1], linewidth=2, label="goal")
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    if log:
        axes.set_xscale("log")
    axes.set_xlabel(unit, fontsize=9, color=INK)
    axes.margins(x=0.12)
    _finish(figure, path)


def lines(
    path: Path,
    title: str,
    x: tuple[str, Sequence[float]],
    y: str,
    series: Mapping[str, Sequence[float]],
    dashed: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Draw lines over common x values, from zero up; `dashed` ones are what would be ideal."""
    figure, axes = _axes(title)
    for index, (label, values) in enumerate(series.items()):
        axes.plot(x[1], values, marker="o", markersize=4, color=SERIES[index % len(SERIES)], label=label)
    for index, (label, values) in enumerate((dashed or {}).items()):
        axes.plot(x[1], values, linestyle="--", linewidth=1, color=SERIES[index % len(SERIES)], label=label)
    axes.set_xlabel(x[0], fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    if len(series) + len(dashed or {}) > 1:
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))  # beside: it hides no line
    _finish(figure, path)
