"""The type of every option that takes a number with a fraction: click's own lets "nan" through any range.

Start at `Number`.
"""

from __future__ import annotations

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A float in a range; "nan" is in none, nor is "inf"."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or refuse the value as click does."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number.", param, ctx)
        return number
