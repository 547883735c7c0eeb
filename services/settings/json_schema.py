"""The JSON Schema of the configuration, for editors: `genre check-config --schema`, docs/configuration.schema.json.

Start at `schema`.
"""

from __future__ import annotations

import json

from services.settings.schema import Settings


def schema() -> str:
    """Return the JSON Schema (draft 2020-12) of the configuration file."""
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "genre-edge configuration",
        **{key: value for key, value in Settings.model_json_schema().items() if key != "title"},
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
