"""Settings from the environment: GENRE_<SECTION>__<KEY>, over the file.

Text is left as it is, because the types of schema.py read it; lists and sections are JSON. pydantic-settings
would do this, for 240 CPU-ms and 16 MiB in each service (asyncio, argparse and more come with it). Start at `over`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from services.errors import UsageError

PREFIX = "GENRE_"


def over(values: Mapping[str, Any], environ: Mapping[str, str], settings: type[BaseModel]) -> dict[str, Any]:
    """Return values with those of the environment over them; a variable that is like no setting is none of ours.

    Args:
        values: of the file, by section.
        settings: what they are to become; tells which are lists and sections.

    Raises:
        UsageError: a list or section is not JSON, or a name is nearly that of a setting; naming the variable.
    """
    merged = dict(values)
    # Shorter names first: GENRE_BROKER as JSON, then GENRE_BROKER__HOST over it.
    for name in sorted(environ, key=len):
        keys = name[len(PREFIX) :].lower().split("__")
        if name.upper().startswith(PREFIX) and keys[0] in settings.model_fields:
            merged = _merge(merged, keys, _value(name, environ[name], settings, keys))
        elif name.upper().startswith(PREFIX) and (meant := _meant(name.upper(), settings)):
            raise UsageError(name, "is no setting", f"write {meant}, or unset it")
    return merged


def _meant(name: str, settings: type[BaseModel]) -> str:
    """Return the variable that an unknown name was probably meant to be; '' where it resembles none."""
    ours = {}
    for section, field in settings.model_fields.items():
        ours[f"{PREFIX}{section}".upper()] = f"{PREFIX}{section}".upper()
        for key in getattr(field.annotation, "model_fields", {}):
            ours[f"{PREFIX}{section}_{key}".upper()] = f"{PREFIX}{section}__{key}".upper()
    near = get_close_matches(name.replace("__", "_"), ours, n=1, cutoff=0.6 if "__" in name else 0.85)
    sections = ", ".join(f"{PREFIX}{section}__KEY".upper() for section in settings.model_fields)
    return ours[near[0]] if near else f"one of {sections}" if "__" in name else ""


def _merge(values: Mapping[str, Any], keys: list[str], value: object) -> dict[str, Any]:
    """Return values with one replaced; sections on the way are copied, and those that clash give way."""
    inner = values.get(keys[0])
    section = inner if isinstance(inner, Mapping) else {}
    if len(keys) > 1:
        value = _merge(section, keys[1:], value)
    elif isinstance(value, Mapping):
        value = {**section, **value}
    return {**values, keys[0]: value}


def _value(name: str, text: str, settings: type[BaseModel], keys: list[str]) -> object:
    """Return the text, or what it says as JSON where a list or a section is wanted."""
    kind: Any = settings
    for key in keys:
        fields = getattr(kind, "model_fields", {})
        if key not in fields:
            return text  # an unknown key: refused with its name by the settings
        kind = fields[key].annotation
    if get_origin(kind) is not tuple and not any(hasattr(each, "model_fields") for each in (kind, *get_args(kind))):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(name, f"is not JSON ({error})", "see docs/configuration.md") from error
