"""`genre scale`: how many replicas of a service an installed system runs, now and after every boot.

Template instances of systemd, numbered from 1; `genre up --replicas` is the same for one machine without systemd.
Start at `steps`.
"""

from __future__ import annotations

import re

import click

from services.errors import UsageError
from services.process.systemctl import systemctl

SCALED = ("featurizer", "inference")
MOST = 64


def steps(service: str, wanted: int, running: list[int]) -> list[tuple[str, ...]]:
    """Return the systemctl calls that lead from the running instances to 1..wanted; new ones start first.

    Instance 1 belongs to genre.target itself and is only started.
    """
    unit = f"genre-{service}@{{}}.service"
    calls: list[tuple[str, ...]] = [("start", unit.format(1))] if 1 not in running else []
    new = [unit.format(n) for n in range(2, wanted + 1)]
    old = [unit.format(n) for n in running if n > wanted]
    if new:
        calls.append(("enable", "--now", *new))
    if old:
        calls.append(("disable", "--now", *old))
    return calls


def instances(listing: str) -> list[int]:
    """Return the numbers in a listing of units such as "genre-featurizer@2.service loaded active ..."."""
    return sorted({int(number) for number in re.findall(r"^\S*@(\d+)\.service", listing, re.MULTILINE)})


def parse(word: str) -> tuple[str, int]:
    """Split "featurizer=3".

    Raises:
        UsageError: it is anything else.
    """
    service, _, number = word.partition("=")
    if service not in SCALED:
        raise UsageError(word, f"{service!r} can't be scaled", f"give one of {', '.join(SCALED)}, e.g. featurizer=3")
    if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= MOST:
        raise UsageError(word, f"{number!r} is no number of replicas", f"give 1 to {MOST}")
    return service, int(number)


@click.command()
@click.argument("changes", nargs=-1, metavar="SERVICE=N...")
def scale(changes: tuple[str, ...]) -> None:
    """Change how many replicas run, or show it.

    \b
    Example: sudo genre scale featurizer=3 inference=2
    """
    wanted = dict(parse(change) for change in changes)
    for service in wanted or SCALED:
        pattern = f"genre-{service}@*.service"
        running = instances(systemctl("list-units", "--plain", "--no-legend", "--state=active,activating", pattern))
        if service in wanted:
            enabled = instances(systemctl("list-unit-files", "--plain", "--no-legend", "--state=enabled", pattern))
            for call in steps(service, wanted[service], sorted({*running, *enabled})):
                systemctl(*call)
            running = instances(systemctl("list-units", "--plain", "--no-legend", "--state=active", pattern))
        click.echo(f"{service}: {len(running)} running")
