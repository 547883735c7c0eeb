"""`genre check-config`: is this configuration right, before a service is started with it.

First the file itself (schema.py says key, value and what is allowed), then what it points at: files that must be there,
folders that must be writable. No network: that is `genre doctor`. Start at `findings`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import click

from services.errors import GenreError, UsageError
from services.settings import credentials, headers_file, json_schema, loading, schema

LONG_S = 600.0
FAR_FROM_USUAL = 100
"""A time of so many times its default was probably meant in milliseconds."""


def findings(config: schema.Settings) -> Iterator[str]:
    """Yield one line for each thing that a valid configuration points at and that is not as it must be."""
    for key, path in (("broker.password_file", config.broker.password_file),
                      ("dashboard.password_file", config.dashboard.password_file)):  # fmt: skip
        try:
            credentials.password(path, key)
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
    models = config.inference.models_path
    if not (models / config.inference.model / "card.json").is_file():
        yield f"inference.model: {config.inference.model!r} is not in {models} (no {config.inference.model}/card.json)"
    board = config.dashboard
    if board.host not in ("127.0.0.1", "::1", "localhost") and board.password_file is None:
        yield f"dashboard.host: {board.host} lets the network in, and there is no dashboard.password_file"
    if board.login_to_view and board.password_file is None:
        yield "dashboard.login_to_view: there is no dashboard.password_file"


def notes(config: schema.Settings) -> Iterator[str]:
    """Yield one line for each thing that is allowed and still looks like a slip."""
    names: dict[str, str] = {}
    for stream in config.streams:
        other = names.setdefault(stream.name.lower(), stream.name)
        if other != stream.name:
            yield f"streams: {other!r} and {stream.name!r} differ by case alone; Home Assistant can't tell them apart"
    for section, values in config:
        for key, field in type(values).model_fields.items() if isinstance(values, schema.Section) else ():
            value, usual = getattr(values, key), field.default
            if not key.endswith("_s") or not isinstance(usual, int | float):
                continue
            if value >= max(LONG_S, FAR_FROM_USUAL * usual):
                yield f"{section}.{key} = {value:g}: times are in seconds, so this is {value / 60:.0f} minutes"


def _stream(stream: schema.Stream) -> Iterator[str]:
    """Yield what is wrong around one stream."""
    parts = urlsplit(stream.url)
    if parts.username or parts.password:
        yield f"streams.{stream.name}.url: carries a password; put it into headers_file instead"
    try:
        headers_file.read_headers(stream)
    except GenreError as error:
        yield f"streams.{stream.name}.headers_file: {error.thing} {error.reason}"


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
        click.echo(json_schema.schema(), nl=False)
        return
    path = file or config
    loaded = loading.load(path)
    for line in notes(loaded):
        click.echo(f"genre check-config: note: {line}", err=True)
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
