"""The one error that reaches a person: what happened, to which thing, and what to do about it.

Every command turns a `GenreError` into one line on stderr and exit code 1 (2 for wrong usage or configuration).
Libraries raise it at their boundary; code inside lets other exceptions be what they are: bugs.
"""

from __future__ import annotations

from services.text import clean

MOST_TEXT = 4_000
"""Of each part: a configuration may have many faults, all of which are named."""


class GenreError(Exception):
    """A failure that a person can act on, told on one line: ``thing: reason; remedy``.

    What a server or a file said may be part of it: it is made harmless here, whoever prints or publishes it then.

    Args:
        thing: what it happened to (a URL, a file, a stream's name); never a secret.
        reason: what went wrong.
        remedy: what to do next.
    """

    exit_code = 1

    def __init__(self, thing: str, reason: str, remedy: str) -> None:
        self.thing, self.reason, self.remedy = (
            " ".join(clean(part, MOST_TEXT).split()) for part in (thing, reason, remedy)
        )
        # A name of spaces alone is still the name that was given.
        self.thing = self.thing or repr(clean(thing, MOST_TEXT))
        super().__init__(f"{self.thing}: {self.reason}; {self.remedy}")


class UsageError(GenreError):
    """A wrong option, argument or configuration value."""

    exit_code = 2
