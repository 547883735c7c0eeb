"""docs/contract/: the JSON Schema of every JSON message and one AsyncAPI 3 document, made from services/contract/.

`make contract` writes them; a test compares. Nothing is written by hand, so nothing can differ. Start at `documents`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.contract import messages
from services.contract.acks import Ack
from services.contract.chunks import Chunk, ChunkHeader
from services.contract.messages import Dead, Event, Flat, Ledger, Now, Result, Status
from services.contract.tensors import MelTensor, TensorHeader

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "contract"
JSON_MESSAGES: tuple[type[Flat], ...] = (Result, Event, Now, Ledger, Status, Dead)
DIALECT = "https://json-schema.org/draft/2020-12/schema"

_STREAM = {"description": "Name of the stream: letters, digits, '_', '.', '-'; at most 64."}
_PARAMETERS: Mapping[str, dict[str, str]] = {
    "stream": _STREAM,
    "recipe": {"description": "Id of the feature recipe, e.g. mel96-mel115."},
    "fetcher": {"description": "Instance of the fetcher that waits for the ack."},
    "service": {"description": "fetcher, featurizer, inference, dashboard or supervisor."},
    "instance": {"description": "Which replica."},
    "number": {"description": "Which number, e.g. confidence, score_jazz, lost_s; docs/dashboard-builder.md has all."},
}
# Address (without the root), message, retained, direction as a reader of the bus sees it, one sentence.
_CHANNELS: tuple[tuple[str, str, str, bool, str], ...] = (
    ("results", "results", "Result", False, "One message a window: the topic promised to users."),
    ("events", "events", "Event", False, "What happened to streams."),
    ("now", "streams/{stream}/now", "Now", True, "What plays now, smoothed."),
    ("ledger", "streams/{stream}/ledger", "Ledger", True, "Every sample of a stream, accounted for."),
    ("status", "status/{service}/{instance}", "Status", True, "Whether a service is there; the will says offline."),
    ("flat", "flat/{stream}/{number}", "Number", True, "One number of a stream, for tools that read no JSON."),
    ("dead", "dead", "Dead", False, "Messages that cannot be processed, with the reason."),
    ("pcm", "pcm/{stream}", "Chunk", False, "Audio from fetcher to featurizer; inside one machine."),
    ("mel", "mel/{recipe}/{stream}", "MelTensor", False, "Features from featurizer to inference."),
    ("acks", "acks/{fetcher}", "Ack", False, "What became of a chunk; the Response Topic pattern of MQTT 5."),
)


def json_schema(model: type[Flat]) -> dict[str, Any]:
    """Return the JSON Schema of one message as it is on the wire: every field is always there."""
    return {"$schema": DIALECT, **model.model_json_schema(mode="serialization")}


def asyncapi(root: str = "genre") -> dict[str, Any]:
    """Return the AsyncAPI 3.0.0 document of every topic under a root."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for name, address, message, retained, summary in _CHANNELS:
        channel: dict[str, Any] = {
            "address": f"{root}/{address}",
            "description": summary,
            "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        }
        used = [level[1:-1] for level in address.split("/") if level.startswith("{")]
        if used:
            channel["parameters"] = {parameter: _PARAMETERS[parameter] for parameter in used}
        channels[name] = channel
        operations[f"publish-{name}"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": summary,
            "bindings": {"mqtt": {"qos": 1, "retain": retained, "bindingVersion": "0.2.0"}},
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "genre-edge",
            "version": messages.VERSION,
            "description": (
                "Music genres of HTTP Live Streams on MQTT 5. Read results, events, streams and status; pcm, mel and "
                "acks are between the services and may change with the contract's version, which each of their "
                "messages carries as user property 'contract'."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": _messages()},
    }


def _messages() -> dict[str, Any]:
    messages: dict[str, Any] = {}
    for model in JSON_MESSAGES:
        messages[model.__name__] = {
            "name": model.__name__,
            "summary": _first_line(model),
            "contentType": "application/json",
            "payload": {"$ref": f"{model.__name__.lower()}.schema.json"},
        }
    for kind, header in ((Chunk, ChunkHeader), (MelTensor, TensorHeader)):
        messages[kind.__name__] = {
            "name": kind.__name__,
            "summary": _first_line(kind),
            "contentType": kind.CONTENT_TYPE,
            "headers": _headers(header.model_json_schema()),
            "correlationId": _correlation("id of the chunk: stream/timeline/epoch/first_sample/windows"),
            "payload": _bytes("int16 little-endian" if kind is Chunk else "dtype of the headers, little-endian"),
        }
    messages["Number"] = {
        "name": "Number",
        "summary": "A decimal number as plain text.",
        "contentType": "text/plain",
        "payload": {"type": "string", "pattern": r"^-?\d+(\.\d+)?$"},
    }
    messages["Ack"] = {
        "name": "Ack",
        "summary": _first_line(Ack),
        "headers": _headers(
            {
                "properties": {
                    "outcome": {"type": "string", "enum": ["done", "dead", "featurized"]},
                    "reason": {"type": "string"},
                },
                "required": ["outcome"],
            }
        ),
        "correlationId": _correlation("id of the chunk that is acknowledged"),
        "payload": _bytes("empty"),
    }
    return messages


def _headers(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema of User Properties: all of them are text; defaults are left out on the wire."""
    properties = {
        "contract": {"type": "string", "const": messages.VERSION},
        **{name: {"type": "string", **_described(field)} for name, field in schema["properties"].items()},
    }
    return {"type": "object", "properties": properties, "required": ["contract", *schema.get("required", [])]}


def _described(field: Mapping[str, Any]) -> dict[str, Any]:
    """Say in words what the text of a User Property holds."""
    if field.get("enum"):
        return {"enum": field["enum"]}
    limits = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMaximum": "below",
        "default": "left out where it is",
    }
    words = [f"{text} {json.dumps(field[key])}" for key, text in limits.items() if key in field]
    kind = {"integer": "whole number", "number": "number"}.get(str(field.get("type")), "text")
    return {"description": ", ".join([kind, *words])}


def _correlation(what: str) -> dict[str, str]:
    return {"location": "$message.header#/correlationData", "description": f"MQTT 5 Correlation Data: {what}"}


def _bytes(what: str) -> dict[str, Any]:
    return {"type": "string", "format": "binary", "description": what}


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def documents() -> dict[str, str]:
    """Return every file of docs/contract: name and text."""
    files: dict[str, Any] = {f"{model.__name__.lower()}.schema.json": json_schema(model) for model in JSON_MESSAGES}
    files["asyncapi.json"] = asyncapi()
    return {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in files.items()}


def main() -> None:
    """Write docs/contract."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
