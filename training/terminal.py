"""What a long job lets a person see: progress on a terminal, nothing in a pipe, no chatter of libraries.

Start at `show`, which has the signature that the long functions of training/ call.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click


def show(what: str, done: int, of: int) -> None:
    """Show progress on a terminal; nothing in a pipe."""
    if sys.stderr.isatty():
        filled = 30 * done // max(of, 1)
        click.echo(f"\r{what:<16} [{'#' * filled}{'.' * (30 - filled)}] {done}/{of} ", err=True, nl=done >= of)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what C++ libraries write to stderr while they are loaded; no setting stops TensorFlow's first lines."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
