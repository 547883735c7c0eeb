"""`genre check-config`: is this configuration right, before a service is started with it.

First the file itself (services/settings.py says key, value and what is allowed), then what it points at: files that
must be there, folders that must be writable. No network: that is `genre doctor`. Start at `findings`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import click

from services import credentials, settings
from services.configuration_documents import schema
from services.errors import GenreError, UsageError

_HEADER = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ \t]*\S")


def findings(config: settings.Settings) -> Iterator[str]:
    """Yield one line for each thing that a valid configuration points at and that is not as it must be."""
    for key, path in (("broker.password_file", config.broker.password_file),
                      ("dashboard.password_file", config.dashboard.password_file)):  # fmt: skip
        try:
            credentials.password(path)
        except GenreError as error:
            yield f"{key}: {error.thing} {error.reason}"
    for key, path in (("broker.ca_file", config.broker.ca_file), ("hls.ca_file", config.hls.ca_file)):
        if path is not None and "-----BEGIN CERTIFICATE-----" not in (_text(path) or ""):
            yield f"{key}: {path} is not a readable PEM certificate"
    for stream in config.streams:
        yield from _stream(stream)
    if config.broker.username is not None and config.broker.password_file is None:
        yield "broker.username: there is no broker.password_file to go with it"
    if not _can_write(config.paths.state_dir):
        yield f"paths.state_dir: {config.paths.state_dir} can't be written by this user"
    card = config.inference.models_dir / config.inference.model / "card.json"
    if not card.is_file():
        yield f"inference.model: {config.inference.model!r} is not in {config.inference.models_dir} (no {card})"
    board = config.dashboard
    if board.host not in ("127.0.0.1", "::1", "localhost") and board.password_file is None:
        yield f"dashboard.host: {board.host} lets the network in, and there is no dashboard.password_file"
    if board.login_to_view and board.password_file is None:
        yield "dashboard.login_to_view: there is no dashboard.password_file"


def _stream(stream: settings.Stream) -> Iterator[str]:
    """Yield what is wrong around one stream."""
    parts = urlsplit(stream.url)
    if parts.username or parts.password:
        yield f"streams.{stream.name}.url: carries a password; put it into headers_file instead"
    if stream.headers_file is not None:
        text = _text(stream.headers_file)
        lines = [] if text is None else [line for line in text.splitlines() if line.strip()]
        if text is None:
            yield f"streams.{stream.name}.headers_file: {stream.headers_file} can't be read"
        elif wrong := [number for number, line in enumerate(lines, 1) if not _HEADER.match(line)]:
            yield f"streams.{stream.name}.headers_file: line {wrong[0]} is not 'Name: value'"


def _text(path: Path) -> str | None:
    """Return a small file's text; None where there is none to read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _can_write(folder: Path) -> bool:
    """Tell whether a folder, or the nearest one above it that is there, can be written."""
    there = next((each for each in (folder.absolute(), *folder.absolute().parents) if each.exists()), folder)
    return there.is_dir() and os.access(there, os.W_OK)


@click.command("check-config")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--config", type=click.Path(path_type=Path), help="The same as FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole configuration, environment included, as JSON.")
@click.option("--schema", "as_schema", is_flag=True, help="Print the JSON Schema for editors.")
def check_config(file: Path | None, config: Path | None, as_json: bool, as_schema: bool) -> None:
    """Check a configuration: the file, the environment over it, and what they point at.

    \b
    Example: genre check-config genre.toml
    """
    if as_schema:
        click.echo(schema(), nl=False)
        return
    path = file or config
    loaded = settings.load(path)
    wrong = list(findings(loaded))
    for line in wrong:
        click.echo(f"genre check-config: {line}", err=True)
    if wrong:
        count = "1 thing is" if len(wrong) == 1 else f"{len(wrong)} things are"
        raise UsageError(str(path or "configuration"), f"{count} not as needed", "see the lines above")
    if as_json:
        click.echo(json.dumps(loaded.model_dump(mode="json", exclude_none=True), indent=2))
        return
    paused = sum(stream.paused for stream in loaded.streams)
    streams = f"{len(loaded.streams)} streams" + (f", {paused} of them paused" if paused else "")
    click.echo(f"{path or 'configuration'}: good ({streams}; broker {loaded.broker.host}:{loaded.broker.port})")
