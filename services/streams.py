"""`genre streams`: list, add, pause, resume and remove streams in a configuration file, without restarting anything.

The fetcher follows its file; this edits that file, whole or not at all, and keeps a person's comments and order. The
dashboard calls the same functions. Not here: listening to a stream. Start at `edited`, then `change`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import tomlkit
from pydantic import ValidationError
from tomlkit.exceptions import TOMLKitError

from services import settings
from services.errors import GenreError, UsageError
from services.settings import Stream

Edit = Callable[[Any], None]
"""Changes the parsed document (a mapping with a list "streams") in place."""


def add(stream: Stream) -> Edit:
    """Return the edit that appends a stream.

    Raises (when applied):
        UsageError: where the name is taken.
    """

    def edit(document: Any) -> None:
        if any(each.get("name") == stream.name for each in _list(document)):
            raise UsageError(f"stream {stream.name}", "is there already", "take another name, or remove it first")
        entry = stream.model_dump(mode="json", exclude_defaults=True)
        if isinstance(document, tomlkit.TOMLDocument):
            table = tomlkit.table()
            table.update(entry)
            if not isinstance(document.get("streams"), tomlkit.items.AoT):
                # `streams = []` or an inline list becomes [[streams]] tables, which a person can read.
                earlier = [dict(each) for each in _list(document)]
                document.pop("streams", None)
                document["streams"] = tomlkit.aot()
                for each in earlier:
                    document["streams"].append(tomlkit.item(each))
            document["streams"].append(table)
        else:
            document.setdefault("streams", []).append(entry)

    return edit


def pause(name: str, paused: bool) -> Edit:
    """Return the edit that pauses a stream or lets it go on."""

    def edit(document: Any) -> None:
        entry = _entry(document, name)
        if paused:
            entry["paused"] = True
        else:
            entry.pop("paused", None)

    return edit


def remove(name: str) -> Edit:
    """Return the edit that takes a stream out."""

    def edit(document: Any) -> None:
        document["streams"].remove(_entry(document, name))

    return edit


def _list(document: Any) -> list[Any]:
    found = document.get("streams", [])
    return found if isinstance(found, list) else []


def _entry(document: Any, name: str) -> Any:
    for entry in _list(document):
        if entry.get("name") == name:
            return entry
    known = ", ".join(str(entry.get("name")) for entry in _list(document)) or "none"
    raise UsageError(f"stream {name}", "is not in the configuration", f"there are: {known}")


def edited(text: str, is_json: bool, edit: Edit, source: str) -> str:
    """Return a configuration's text with an edit applied; the rest keeps its form, comments included.

    Raises:
        UsageError: where the text is broken, or the outcome would not be a valid configuration.
    """
    try:
        document: Any = json.loads(text) if is_json else tomlkit.parse(text)
        edit(document)
        after = json.dumps(document, indent=1) if is_json else tomlkit.dumps(document)
        values = json.loads(after) if is_json else tomlkit.parse(after).unwrap()
    except (TOMLKitError, json.JSONDecodeError) as error:
        raise UsageError(source, f"can't be edited: {error}", "mend that line") from error
    settings.checked(values, source)
    return after


def change(path: Path, edit: Edit) -> None:
    """Apply an edit to a file: the new text replaces the old one at once, or nothing changes.

    Two changes at a time wait for each other; owner and mode of the file are kept.

    Raises:
        GenreError: where the file can't be read or written; UsageError: where the edit is refused.
    """
    path = path.resolve()
    try:
        with _locked(path):
            text = path.read_text(encoding="utf-8")
            after = edited(text, path.suffix == ".json", edit, str(path))
            _replace(path, after)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise GenreError(
            str(path), f"can't be changed ({reason})", "let this user write the file and its folder"
        ) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the folder's lock, so that no change is lost between reading and writing."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _replace(path: Path, text: str) -> None:
    before = path.stat()
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    new = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), before.st_mode & 0o777)
            with contextlib.suppress(PermissionError):
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def stream_of(values: dict[str, Any]) -> Stream:
    """Return a stream made of values a person gave.

    Raises:
        UsageError: naming the key, the value and what is allowed.
    """
    try:
        return Stream.model_validate(values)
    except ValidationError as error:
        raise UsageError("stream", settings.describe(error), "see docs/configuration.md") from error


# --- the command ------------------------------------------------------------------------------------------------------


@click.group()
@click.option("--config", type=click.Path(path_type=Path), envvar="GENRE_CONFIG", help="TOML configuration file.")
@click.pass_context
def streams(ctx: click.Context, config: Path | None) -> None:
    """List, add, pause and remove streams; running services follow within seconds.

    \b
    Example: genre streams --config genre.toml add radio1 https://example.org/live.m3u8
    """
    if config is None:
        raise UsageError("genre streams", "which configuration?", "give --config FILE or set GENRE_CONFIG")
    ctx.obj = config


@streams.command("list")
@click.option("--json", "json_lines", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def _list_streams(config: Path, json_lines: bool) -> None:
    """List the streams of the configuration.

    \b
    Example: genre streams --config genre.toml list
    """
    for stream in settings.load(config).streams:
        if json_lines:
            click.echo(json.dumps(stream.model_dump(mode="json")))
        else:
            click.echo(f"{stream.name:24} {'paused' if stream.paused else 'on':7} {stream.url}")


@streams.command("add")
@click.argument("name")
@click.argument("url")
@click.option("--prefer", help="Rendition: NAME, LANGUAGE or GROUP-ID, or 'best'.")
@click.pass_obj
def _add(config: Path, name: str, url: str, prefer: str | None) -> None:
    """Add a stream.

    \b
    Example: genre streams --config genre.toml add radio1 https://example.org/live.m3u8
    """
    change(config, add(stream_of({"name": name, "url": url, "prefer": prefer})))


@streams.command("pause")
@click.argument("name")
@click.pass_obj
def _pause(config: Path, name: str) -> None:
    """Stop listening to a stream, and keep it in the list.

    \b
    Example: genre streams --config genre.toml pause radio1
    """
    change(config, pause(name, True))


@streams.command("resume")
@click.argument("name")
@click.pass_obj
def _resume(config: Path, name: str) -> None:
    """Listen to a paused stream again.

    \b
    Example: genre streams --config genre.toml resume radio1
    """
    change(config, pause(name, False))


@streams.command("remove")
@click.argument("name")
@click.pass_obj
def _remove(config: Path, name: str) -> None:
    """Take a stream out of the configuration.

    \b
    Example: genre streams --config genre.toml remove radio1
    """
    change(config, remove(name))
