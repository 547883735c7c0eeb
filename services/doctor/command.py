"""`genre doctor`: goes through everything in stages and says where it stopped, why, and what to do.

Exit code 0 where nothing failed. Start at `parts_of`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import click

from services.doctor import broker, engine, hls, machine
from services.doctor.stages import Concern, Finding, Part, examine
from services.errors import GenreError
from services.settings import check, loading
from services.settings.schema import Settings

MARKS = {"ok": "ok  ", "warning": "note", "failed": "FAIL", "not tried": "-   "}


def parts_of(config: Settings) -> list[Part]:
    """Return every part that this configuration has."""
    return [
        Part("configuration", [("values", lambda: "valid"), ("what it points at", lambda: _points_at(config))]),
        broker.part(config.broker),
        *(hls.part(stream, config.hls) for stream in config.streams if not stream.paused),
        engine.part(config.inference),
        *machine.parts(config.paths.state_dir),
    ]


def _points_at(config: Settings) -> str:
    found = [*check.findings(config), *check.notes(config)]
    if found:
        raise Concern("configuration", "; ".join(found), "'genre check-config' lists them one by one")
    return f"{len(config.streams)} streams" if config.streams else "no streams yet: 'genre streams add NAME URL'"


def diagnose(path: Path | None) -> list[Finding]:
    """Run every stage with the configuration in path and return the findings."""
    found: list[Finding] = []
    _run(path, found.append)
    return found


def _run(path: Path | None, tell: Callable[[Finding], None]) -> None:
    try:
        config = loading.load(path)
    except GenreError as error:
        tell(Finding("configuration", "values", "failed", f"{error.thing}: {error.reason}", error.remedy, 0.0))
        return
    for finding in examine(parts_of(config)):
        tell(finding)


def line(finding: Finding) -> str:
    """Return a finding as a person reads it."""
    remedy = f"\n{'':30}-> {finding.remedy}" if finding.remedy else ""
    return f"{MARKS[finding.state]}  {finding.part:16.24} {finding.stage:18} {finding.text}{remedy}"


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="TOML configuration file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a stage.")
def doctor(path: Path | None, as_json: bool) -> None:
    """Check everything in stages: where it stops, why, and what to do.

    \b
    Example: genre doctor --config /etc/genre-edge/genre.toml
    """
    # What the stages find is said once, by them.
    logging.basicConfig(level=logging.CRITICAL)
    failed: list[Finding] = []

    def tell(finding: Finding) -> None:
        click.echo(json.dumps(dataclasses.asdict(finding)) if as_json else line(finding))
        if finding.state == "failed":
            failed.append(finding)

    _run(path, tell)
    if failed:
        sys.exit(1)
