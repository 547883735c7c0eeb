"""`genre streams`: list, add, pause, resume and remove streams in a configuration file, without restarting anything.

The fetcher follows its file; this edits that file, whole or not at all, and keeps a person's comments and order. The
dashboard calls the same functions. Not here: listening to a stream. Start at `edited`, then `change`.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import tomlkit
from pydantic import ValidationError
from tomlkit.exceptions import TOMLKitError

from services import files
from services.errors import GenreError, UsageError
from services.settings import loading
from services.settings.schema import Stream

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
        raise UsageError(source, f"can't be edited: {error}", loading.correction(error, text)) from error
    loading.checked(values, source)
    return after


def change(path: Path, edit: Edit) -> None:
    """Apply an edit to a file: the new text replaces the old one at once, or nothing changes.

    Two changes at a time wait for each other; owner and mode of the file are kept.

    Raises:
        GenreError: where the file can't be read or written; UsageError: where the edit is refused.
    """
    path = Path(os.path.realpath(path))
    try:
        with _locked(path):
            content = path.read_bytes()
            text = loading.decoded(content, str(path))
            ends = "\r\n" if "\r\n" in text else "\n"
            after = edited(text.replace("\r\n", "\n"), path.suffix == ".json", edit, str(path)).replace("\n", ends)
            mark = codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""
            _put(path, mark + after.encode("utf-8"), len(content))
    except FileNotFoundError as error:
        remedy = "give the --config that the services have, or make an empty file there to begin with"
        raise GenreError(str(path), "is not there", remedy) from error
    except OSError as error:
        raise GenreError(
            str(path), f"can't be changed ({error.strerror})", "let this user write the file and its folder"
        ) from error


def _put(path: Path, content: bytes, bytes_before: int) -> None:
    """Replace the file; where only the file itself may be changed, as with one that Docker mounts, write into it.

    That is one write, with newlines up to the old length, and only then the cut: whoever reads in between sees the new
    configuration, never none.
    """
    try:
        files.replace(path, content)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        with path.open("r+b", buffering=0) as file:
            file.write(content.ljust(bytes_before, b"\n"))
            file.truncate(len(content))
            os.fsync(file.fileno())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the folder's lock, so that no change is lost between reading and writing."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def stream_of(values: dict[str, Any]) -> Stream:
    """Return a stream made of values a person gave.

    Raises:
        UsageError: naming the key, the value and what is allowed.
    """
    try:
        return Stream.model_validate(values)
    except ValidationError as error:
        raise UsageError("stream", loading.describe(error), "see docs/configuration.md") from error


# --- the command ------------------------------------------------------------------------------------------------------


@click.group()
@click.option("--config", type=click.Path(path_type=Path), envvar="GENRE_CONFIG", help="TOML configuration file.")
@click.pass_context
def streams(ctx: click.Context, config: Path | None) -> None:
    """List, add, pause and remove streams; running services follow within seconds.

    \b
    Example: genre streams --config genre.toml add radio1 https://example.org/live.m3u8
    """
    ctx.obj = config


def _given(config: Path | None) -> Path:
    """Return the configuration to look at or change; asked for late, so that help needs none."""
    if config is None:
        remedy = "write 'genre streams --config FILE ...' or set GENRE_CONFIG"
        raise UsageError("genre streams", "which configuration?", remedy)
    return config


@streams.command("list")
@click.option("--json", "json_lines", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def _list_streams(config: Path | None, json_lines: bool) -> None:
    """List the streams of the configuration.

    \b
    Example: genre streams --config genre.toml list
    """
    for stream in loading.load(_given(config)).streams:
        if json_lines:
            click.echo(json.dumps(stream.model_dump(mode="json")))
        else:
            click.echo(f"{stream.name:24} {'paused' if stream.paused else 'on':7} {stream.url}")


@streams.command("add")
@click.argument("name")
@click.argument("url")
@click.option("--prefer", help="Rendition: NAME, LANGUAGE or GROUP-ID, or 'best'.")
@click.pass_obj
def _add(config: Path | None, name: str, url: str, prefer: str | None) -> None:
    """Add a stream.

    \b
    Example: genre streams --config genre.toml add radio1 https://example.org/live.m3u8
    """
    change(_given(config), add(stream_of({"name": name, "url": url, "prefer": prefer})))


@streams.command("pause")
@click.argument("name")
@click.pass_obj
def _pause(config: Path | None, name: str) -> None:
    """Stop listening to a stream, and keep it in the list.

    \b
    Example: genre streams --config genre.toml pause radio1
    """
    change(_given(config), pause(name, True))


@streams.command("resume")
@click.argument("name")
@click.pass_obj
def _resume(config: Path | None, name: str) -> None:
    """Listen to a paused stream again.

    \b
    Example: genre streams --config genre.toml resume radio1
    """
    change(_given(config), pause(name, False))


@streams.command("remove")
@click.argument("name")
@click.pass_obj
def _remove(config: Path | None, name: str) -> None:
    """Take a stream out of the configuration.

    \b
    Example: genre streams --config genre.toml remove radio1
    """
    change(_given(config), remove(name))
