"""Writes docs/configuration.md and docs/configuration.schema.json from services/settings/schema.py.

Settings are described in one place only; a test fails while these documents are older than it. Start at `page`.
Run it with `make configuration`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from services.settings.json_schema import schema
from services.settings.loading import section_at
from services.settings.schema import Settings

DOCS = Path(__file__).resolve().parents[1] / "docs"

_HEAD = """\
# Configuration

One TOML file, given as `--config FILE` or `$GENRE_CONFIG`. Every setting has a default, so a file holds only what
differs. This page is made from services/settings/schema.py (`make configuration`).

```toml
#:schema ./configuration.schema.json

[broker]
host = "127.0.0.1"

[[streams]]
name = "radio1"
url = "https://example.org/live/radio1.m3u8"

[[streams]]
name = "radio2"
url = "https://example.org/live/radio2.m3u8"
paused = true
```

- **Check it** before a service starts with it; a wrong value is named with its key and what is allowed:

  ```sh
  genre check-config genre.toml
  ```

- **Completion in an editor**: the first line above points Taplo ("Even Better TOML") at the JSON Schema beside
  this page; `genre check-config --schema` prints it.
- **Environment**: `GENRE_<SECTION>__<KEY>` wins over the file, e.g. `GENRE_BROKER__HOST=broker.local`. A list is JSON:
  `GENRE_STREAMS='[{"name": "radio1", "url": "https://example.org/live/radio1.m3u8"}]'`.
  A `GENRE_` variable that is nearly a setting, e.g. `GENRE_BROKER_HOST`, is refused with the name that is meant.
- **The file** is UTF-8; a byte order mark and CRLF line ends, as Windows editors write them, are read and kept. A
  single file that Docker mounts is changed in place. A relative `inference.models_dir` that does not hold the model
  means the folder of models that came with the program.
- **Streams without a restart**: the fetcher looks at its file every second. Add, pause and remove them with an editor,
  with `genre streams`, or on the dashboard. Everything else takes effect at the next start.

  ```sh
  genre streams --config genre.toml list
  genre streams --config genre.toml add radio3 https://example.org/live/radio3.m3u8
  genre streams --config genre.toml pause radio3
  genre streams --config genre.toml resume radio3
  genre streams --config genre.toml remove radio3
  ```

- **Secrets** (passwords, cookies, tokens) stand in files of their own, readable by the service only; the configuration
  names those files. Under systemd, `LoadCredential=` puts them where the services look first.
"""


def page() -> str:
    """Return the page on configuration."""
    parts = [_HEAD]
    for name, info in Settings.model_fields.items():
        section = section_at((name,))
        assert section is not None
        title = f"[[{name}]]" if name == "streams" else f"[{name}]"
        parts.append(f"## {title}\n\n{section.__doc__}\n\n| key | default | allowed | meaning |\n|---|---|---|---|\n")
        default = info.default if isinstance(info.default, BaseModel) else None
        parts += list(_rows(section, default, ""))
        parts.append("\n")
    return "\n".join([*parts[:1], "".join(parts[1:])]).rstrip() + "\n"


def _rows(section: type[BaseModel], values: BaseModel | None, prefix: str) -> Iterator[str]:
    """Yield one row of the table for each key, those of inner sections with dotted names."""
    for name, info in section.model_fields.items():
        default = getattr(values, name) if values is not None else info.default
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield f"| `{prefix}{name}` | | | {info.description or inner.__doc__} |\n"
            yield from _rows(inner, default if isinstance(default, BaseModel) else None, f"{prefix}{name}.")
            continue
        shown = "(must be given)" if default is PydanticUndefined else _toml(default)
        yield f"| `{prefix}{name}` | {shown} | {_allowed(section, name, info)} | {info.description} |\n"


def _toml(value: Any) -> str:
    """Return a default as it would stand in the file."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (tuple, list)):
        return f"`{json.dumps(list(value))}`"
    return f"`{json.dumps(str(value) if isinstance(value, Path) else value)}`"


_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def _allowed(section: type[BaseModel], name: str, info: FieldInfo) -> str:
    """Say in a few words what a key takes, from its JSON Schema."""
    part = section.model_json_schema()["properties"][name]
    part = next((each for each in part.get("anyOf", []) if each.get("type") != "null"), part)
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    kind = {"integer": "whole number", "number": "number", "boolean": "true, false", "array": "list of text"}
    word = kind.get(part.get("type", ""), "text")
    if part.get("format") == "path":
        word = "path"
    bounds = " and ".join(f"{sign} {part[key]:,}" for key, sign in _BOUNDS.items() if key in part)
    if part.get("pattern", "").startswith("^[A-Za-z0-9]"):
        return "letters, digits, `_`, `.`, `-`; at most 64"
    return f"{word} {bounds}".strip()


def main() -> None:
    """Write both documents."""
    DOCS.joinpath("configuration.md").write_text(page(), encoding="utf-8")
    DOCS.joinpath("configuration.schema.json").write_text(schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
