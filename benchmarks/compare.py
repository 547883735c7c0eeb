"""Two runs of a benchmark side by side: what became slower, by more than the runs' own spread.

A figure is slower where the best repeat of the later run is worse than the worst one of the earlier run: then no
repeat of the two could be taken for one of the other. One run alone has no spread and is shown without a verdict, as
are memory and bytes: they say nothing about speed. Start at `compared`.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accounting import Spread, figure
from benchmarks.report import markdown
from services.errors import GenreError

FILE = "results.json"
MOST_BYTES = 64 * 2**20
# By how a figure's key begins or ends. What is none of them (counts, goals, options) is not compared.
_TIMES = ("_ms", "_s", "cpu_ms_per_audio_s", "cpu_ms_per_request")
_RATES = ("audio_s_per_cpu_s", "audio_s_per_s", "windows_per_s", "ratio_to_script", "kept_up")
_SIZES = ("_mib", "_bytes", "rss_mib_fetcher", "peak_mib")
_NOT_COSTS = ("seconds", "audio_s", "others_busy")
# These choose which figures there are; any other option changes what a figure means.
_CHOICES = ("repeats", "models", "backends", "counts", "only")


Run = Mapping[str, Any]
"""What a results.json holds."""


class Verdict(NamedTuple):
    """What became of one figure; `slower` only where the spreads say so."""

    name: str
    before: Spread
    after: Spread
    said: str
    slower: bool


def compared(before: Mapping[str, Run], after: Mapping[str, Run]) -> tuple[str, bool]:
    """Compare what two runs have in common, benchmark by benchmark.

    Returns:
        Tables as text, and whether anything became slower.

    Raises:
        GenreError: they have no benchmark in common, or one was run with other options.
    """
    names = [name for name in after if name in before]
    if not names:
        reason = f"of {', '.join(after)} there is no earlier run, only of {', '.join(before)}"
        raise GenreError("--compare", reason, "compare runs of one benchmark")
    found = [_compared(name, before[name], after[name]) for name in names]
    return "\n\n".join(text for text, _ in found), any(slower for _, slower in found)


def runs(place: Path) -> dict[str, Run]:
    """Read runs by the names of their benchmarks: of a results.json, of its folder, or of a folder of such folders.

    Raises:
        GenreError: there are none, or a file was not written by a benchmark.
    """
    if place.is_dir():
        files = [place / FILE] if (place / FILE).exists() else sorted(place.glob(f"*/{FILE}"))
    else:
        files = [place]
    if not files:
        raise GenreError(str(place), f"holds no {FILE}", "name the folder of results of an earlier 'genre bench'")
    read = [_read(path) for path in files]
    return {str(run["benchmark"]): run for run in read}


def _read(path: Path) -> Run:
    remedy = f"name a {FILE} that 'genre bench' wrote, or its folder"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise GenreError(str(path), f"is larger than {MOST_BYTES >> 20} MiB", remedy)
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GenreError(str(path), f"can't be read ({error.strerror})", remedy) from error
    except (ValueError, RecursionError) as error:
        raise GenreError(str(path), f"is no JSON ({str(error)[:80]})", remedy) from error
    if not (isinstance(values, dict) and isinstance(values.get("benchmark"), str)):
        raise GenreError(str(path), "does not say which benchmark it is of", remedy)
    return values


def _compared(name: str, before: Run, after: Run) -> tuple[str, bool]:
    """Compare two runs of one benchmark."""
    _check_alike(name, before, after)
    old, new = figures(before), figures(after)
    common = [one for one in old if one in new]
    if not common:
        raise GenreError(name, "the two runs have no figure in common", "run both with the same models")
    verdicts = [verdict(one, old[one], new[one]) for one in common]
    rows = [[v.name, v.before, v.after, _change(v), v.said] for v in verdicts]
    text = markdown(f"{name}: before and after", ["", "before", "after", "change", ""], rows)
    if left := len(old) + len(new) - 2 * len(common):
        text += f"\n\n{left} figures are of one run only."
    if _place(before) != _place(after):
        text += f"\n\nNot of one machine and the same versions: {_place(before)}; {_place(after)}."
    return text, any(v.slower for v in verdicts)


def figures(values: Run) -> dict[str, Spread]:
    """Return every figure of a run that has a better and a worse, by its path."""
    found: dict[str, Spread] = {}
    for key, value in values.items():
        if key not in ("benchmark", "options", "machine", "goals"):
            for name, numbers in _walk((key,), [value]):
                if _kind(name):
                    found.setdefault(", ".join(name), _spread(numbers))
    return found


def verdict(name: str, before: Spread, after: Spread) -> Verdict:
    """Say what became of a figure."""
    kind = _kind(tuple(name.split(", ")))
    if kind == "size":
        said, slower = ("", False)
    elif min(before.n, after.n) < 2:
        said, slower = "one run: no verdict", False
    else:
        up, down = after.least > before.largest, after.largest < before.least
        slower, faster = (up, down) if kind == "time" else (down, up)
        said = "SLOWER" if slower else "faster" if faster else ""
    return Verdict(name, before, after, said, slower)


def _walk(path: tuple[str, ...], values: Sequence[Any]) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Yield (path, repeats) of every number below some repeats of one value."""
    first = values[0]
    if _is_number(first) or _is_spread(first):
        alike = [value for value in values if _is_number(value) or _is_spread(value)]
        yield path, alike
    elif isinstance(first, dict):
        for key in first:
            below = [value[key] for value in values if isinstance(value, dict) and key in value]
            yield from _walk(path if key == "repeats" else (*path, str(key)), below)
    elif isinstance(first, list) and first and isinstance(first[0], dict):
        if "streams" in first[0]:  # a row for each number of streams
            for row in first:
                if isinstance(row, dict) and "streams" in row:
                    yield from _walk((*path, str(row["streams"])), [row])
        else:
            yield from _walk(path, first)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_spread(value: object) -> bool:
    return isinstance(value, dict) and all(_is_number(value.get(key)) for key in ("median", "min", "max", "n"))


def _spread(values: Sequence[Any]) -> Spread:
    """Return the spread of repeats, or the one that was written down."""
    if isinstance(values[0], dict):
        one = values[0]
        return Spread(one["median"], one["min"], one["max"], int(one["n"]))
    return Spread(statistics.median(values), min(values), max(values), len(values))


def _kind(path: tuple[str, ...]) -> str:
    """Say whether the nearest part of the path that tells is a time, a rate or a size; empty where none is."""
    for part in reversed(path):
        if part in _NOT_COSTS:
            return ""
        for kind, ends in (("rate", _RATES), ("size", _SIZES), ("time", _TIMES)):
            if part.endswith(ends):
                return kind
    return ""


def _change(one: Verdict) -> str:
    """Return the change of the medians in percent."""
    if not one.before.median:
        return figure(one.after.median - one.before.median)
    return f"{100 * (one.after.median / one.before.median - 1):+.1f} %"


def _check_alike(name: str, before: Run, after: Run) -> None:
    """Refuse runs whose figures mean different things."""
    old, new = (one["options"] if isinstance(one.get("options"), dict) else {} for one in (before, after))
    for key in sorted({*old, *new} - {*_CHOICES}):
        if old.get(key) != new.get(key):
            reason = f"was run with {key} {new.get(key)}, the earlier run with {old.get(key)}"
            raise GenreError(name, reason, "run it with the same options")


def _place(values: Run) -> str:
    """Return where a run was, without what differs from minute to minute."""
    machine = values.get("machine")
    known = machine if isinstance(machine, dict) else {}
    packages = known.get("packages")
    parts = [str(known.get("processor")), f"Python {known.get('python')}"]
    return ", ".join(parts + [f"{n} {v}" for n, v in (packages if isinstance(packages, dict) else {}).items()])
