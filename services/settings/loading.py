"""Reads the configuration: one TOML file, environment overrides (GENRE_BROKER__HOST=...), and what is wrong in words.

What there is to set stands in schema.py. Start at `load`.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from services.errors import UsageError
from services.settings import environment
from services.settings.schema import NAME_PATTERN, Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST_BYTES = 8 << 20
_LOGIN = re.compile(r"//[^/\s@]+@")
"""User and password in a URL, which no error shows."""


def load(path: Path | None = None) -> Settings:
    """Read the configuration: file, then environment.

    Args:
        path: the TOML file; None takes $GENRE_CONFIG, or defaults alone where that is not set.

    Raises:
        UsageError: naming the key, the value and what is allowed.
    """
    if path is None and os.environ.get("GENRE_CONFIG"):
        path = Path(os.environ["GENRE_CONFIG"])
    source = str(path) if path else "configuration"
    try:
        values = _read(path) if path else {}
    except OSError as error:
        raise UsageError(
            source, f"can't be read ({error.strerror or error})", "give --config a readable TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise UsageError(source, f"is not TOML: {error}", correction(error, _read_text(path))) from error
    return checked(environment.over(values, os.environ, Settings), source)


def correction(error: Exception, text: str) -> str:
    """Say what to do about a line that is no TOML: of backslashes in a path the reader says only 'hex value'."""
    number = re.search(r"at line (\d+)", str(error))
    line = text.splitlines()[int(number[1]) - 1 : int(number[1])] if number else []
    if line and "\\" in line[0]:
        return "write a path with backslashes in single quotes, '...'"
    return "correct that line"


def checked(values: dict[str, Any], source: str) -> Settings:
    """Return settings made of values alone.

    Raises:
        UsageError: naming the key, the value and what is allowed.
    """
    if (unfit := _unfit(values)) is not None:
        raise UsageError(source, f"{unfit!r} holds a character that no name of a file can have", "take it out")
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise UsageError(source, describe(error), "see docs/configuration.md") from error
    names = [stream.name for stream in settings.streams]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageError(
            source, f"streams: the name {sorted(twice)[0]!r} stands twice", "give each stream its own name"
        )
    return settings


def _unfit(value: object) -> str | None:
    """Return a text below a value that the system takes for no path or name: with a NUL or half a surrogate pair."""
    if isinstance(value, str):
        try:
            return value if b"\0" in os.fsencode(value) else None
        except UnicodeEncodeError:
            return value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next((found for each in inner if (found := _unfit(each)) is not None), None)


def _read_text(path: Path | None) -> str:
    if path is None:
        return ""
    with path.open("rb") as file:
        content = file.read(LARGEST_BYTES + 1)
    return decoded(content, str(path))


def _read(path: Path) -> dict[str, Any]:
    """Read TOML, or JSON as `genre up` writes it for its children."""
    text = _read_text(path)
    values: dict[str, Any] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    return values


def decoded(content: bytes, source: str) -> str:
    """Return a configuration's text, without the byte order mark that Windows puts before it.

    Raises:
        UsageError: it is no UTF-8, or far too long to be a configuration.
    """
    if len(content) > LARGEST_BYTES:
        raise UsageError(source, f"is longer than {LARGEST_BYTES:,} bytes", "give --config a TOML file")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        what = "UTF-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else f"not UTF-8 ({error.reason})"
        raise UsageError(source, f"is {what}", "save it as UTF-8") from error


def describe(error: ValidationError) -> str:
    """Say of each wrong value its key, what it is and what is allowed, on one line."""
    parts: dict[str, str] = {}
    for item in error.errors():
        # Where a setting may be one of several types, the last part is the name of one of them.
        loc, kind = item["loc"], item["type"]
        if len(loc) > 1 and isinstance(loc[-1], str) and section_at(loc[:-1]) is None:
            loc, kind = loc[:-1], "string_pattern_mismatch"
        key = ".".join(str(part) for part in loc)
        words = _words(kind, loc, item["msg"])
        shown = "" if kind in ("missing", "extra_forbidden") else f" = {item['input']!r}"[:120]
        # What is wrong with all values together names them itself.
        parts[key] = f"{key}{_LOGIN.sub('//...@', shown)}: {words}" if key else words
    return "; ".join(parts.values())


def _words(kind: str, loc: tuple[int | str, ...], message: str) -> str:
    """Say what is wrong with a value in words for somebody who writes TOML."""
    name = str(loc[-1]) if loc else ""
    if kind == "extra_forbidden":
        return _not_listed(loc)
    if kind == "tuple_type":
        tables = section_at(loc) is not None
        return f"is a list of tables: write [[{name}]] before each" if tables else 'is a list: write ["..."]'
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        one_of = isinstance(loc[-1], int) if loc else False
        return "is a table with keys of its own" if one_of else f"is one table: write [{name}], and its keys below it"
    if kind == "string_pattern_mismatch" and NAME_PATTERN in message:
        return "is no name: letters, digits, '_', '.' and '-', at most 64, a letter or digit first"
    if kind == "string_pattern_mismatch" and (section := section_at(loc[:-1])) and name in section.model_fields:
        return f"is not what belongs there: {section.model_fields[name].description}"
    if kind == "url_parsing" or kind == "url_scheme":
        return f"is no http or https URL ({message.removeprefix('Input should be a valid URL, ')})"
    if kind == "string_type":
        return "is text: write it in quotes"
    return message.removeprefix("Value error, ")


def section_at(loc: Sequence[int | str]) -> type[BaseModel] | None:
    """Return the section that a place in the configuration lies in, e.g. ("streams", 0) -> Stream."""
    section: type[BaseModel] = Settings
    for part in loc:
        if isinstance(part, int):
            continue
        if part not in section.model_fields:
            return None
        kind = section.model_fields[part].annotation
        inner = [each for each in (kind, *get_args(kind)) if isinstance(each, type) and issubclass(each, BaseModel)]
        if not inner:
            return None
        section = inner[0]
    return section


def _shortened(words: list[str], whole: list[str]) -> bool:
    """Tell whether words are those of a name, cut short, e.g. cert_file for certificate_file."""
    return len(words) == len(whole) and all(name.startswith(word) for word, name in zip(words, whole, strict=True))


def _not_listed(loc: tuple[int | str, ...]) -> str:
    """Say of an unknown key which one may be meant, or which there are."""
    section = section_at(loc[:-1])
    if section is None:
        return "is not known here"
    words = str(loc[-1]).split("_")
    short = [name for name in section.model_fields if _shortened(words, name.split("_"))]
    near = short or get_close_matches(str(loc[-1]), section.model_fields, n=1)
    return (
        f"is not a setting; did you mean {near[0]!r}?"
        if near
        else (f"is not a setting; allowed here: {', '.join(section.model_fields)}")
    )
