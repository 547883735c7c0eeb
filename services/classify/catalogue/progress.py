"""What a person sees while a catalogue is made: a line that moves on a terminal, nothing in a pipe.

Words that matter either way (the scheduler is lost, there are no workers) go to stderr through `say`.
"""

from __future__ import annotations

import sys
from types import TracebackType

import click

from services.text import clean


class Progress:
    """The line, for as long as it is open."""

    def __init__(self) -> None:
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("classifying"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True,
                speed_estimate_period=120,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=None, note="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, total: int | None, errors: int, workers: int) -> None:
        """Move the line on; the total is known once the library is listed."""
        if self._bar is not None:
            rate = self._bar.tasks[0].speed or 0.0
            note = f"{errors} not classified, {workers} workers, {rate:.1f}/s"
            self._bar.update(self._task, completed=done, total=total, note=note)

    def say(self, text: str) -> None:
        """Tell something, above the line where there is one."""
        if self._bar is not None:
            self._bar.console.print(f"genre: {clean(text)}", markup=False, highlight=False)
        else:
            click.echo(f"genre: {clean(text)}", err=True)
