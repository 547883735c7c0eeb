"""Lines that the bus's thread prints, of a command whose reader may go away (`| head`). Start at `Printed`."""

from __future__ import annotations

import click


class Printed:
    """Standard output, written from any thread."""

    def __init__(self) -> None:
        self._error: OSError | None = None

    def line(self, text: str) -> None:
        """Print a line, unless one before it could not be printed."""
        if self._error is None:
            try:
                click.echo(text)
            except OSError as error:
                self._error = error

    def check(self) -> None:
        """Raise, in the command's own thread, what kept a line from being printed.

        Raises:
            OSError: who read is gone (BrokenPipeError), or the disk under a file is full.
        """
        if self._error is not None:
            raise self._error
