"""Home Assistant's MQTT discovery: each stream is a device with what plays now as its sensors.

Device-based discovery (Home Assistant 2024.11 and later): one retained message a stream at
<prefix>/device/<id>/config; an empty one takes the device away. Pure; start at `device`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from services.contract.topics import Topics

SOUNDS = ("music", "talk", "silence", "other")
_SOUND = (
    "{{ {'music': 'music', 'unsure': 'music', 'speech': 'talk', 'silence': 'silence', 'other': 'other'}"
    ".get(value_json.kind) }}"
)
"""What Home Assistant shows as unknown is None: nothing plays, or a kind that this version does not know."""
STATES = ("playing", "silent", "stopped", "ended", "waiting", "paused")
_GENRE_HAS = ("stream", "since")
_TRACK_HAS = ("title", "artist")
"""Attributes, each where the state changes with them: Home Assistant keeps a row for each new set of them, too."""


def object_id(box: str, root: str, stream: str) -> str:
    """Return an id of letters, digits, '_' and '-', all that discovery topics allow; it differs for each stream.

    Args:
        box: name of the machine; two of them may announce streams of one name to one Home Assistant.
    """
    return "_".join(_plain(part) for part in (box, root, stream))


def _plain(text: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9-]", "_", text)
    return plain if plain == text else f"{plain}_{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def topic(prefix: str, box: str, root: str, stream: str) -> str:
    """Return the discovery topic of a stream."""
    return f"{prefix}/device/{object_id(box, root, stream)}/config"


def _attributes(topic: str, names: Sequence[str]) -> dict[str, str]:
    template = "{" + ", ".join(f"'{name}': value_json.{name}" for name in names) + "}"
    return {"json_attributes_topic": topic, "json_attributes_template": f"{{{{ {template} | tojson }}}}"}


def device(
    box: str,
    topics: Topics,
    stream: str,
    labels: Sequence[str],
    version: str,
    instance: str,
    page_url: str | None,
    tell_box: bool = False,
) -> bytes:
    """Return the discovery payload of one stream.

    Args:
        box: name of the machine.
        labels: the model's genres; a sensor of class "enum" must know them all.
        instance: of the dashboard, whose status says whether the numbers are kept up.
        page_url: where the dashboard is; None where only this machine reaches it.
        tell_box: the box has a name of its own, which then stands in the device's.
    """
    ident = object_id(box, topics.root, stream)
    now = topics.now(stream)
    known = json.dumps(sorted(labels))
    genre: dict[str, object] = {
        "p": "sensor",
        "unique_id": f"{ident}_genre",
        "name": "Genre",
        "icon": "mdi:music-note",
        "state_topic": now,
        # An enum sensor must not be told what is not in its list; None is shown as unknown.
        "value_template": f"{{{{ value_json.genre if value_json.genre in {known} else None }}}}",
        **_attributes(now, _GENRE_HAS),
    }
    if labels:
        genre |= {"device_class": "enum", "options": sorted(labels)}
    else:
        genre["value_template"] = "{{ value_json.genre }}"
    components = {
        "genre": genre,
        "sound": {
            "p": "sensor",
            "unique_id": f"{ident}_sound",
            "name": "What plays",
            "icon": "mdi:waveform",
            "state_topic": now,
            "value_template": _SOUND,
            "device_class": "enum",
            "options": list(SOUNDS),
        },
        "confidence": {
            "p": "sensor",
            "unique_id": f"{ident}_confidence",
            "name": "Confidence",
            "icon": "mdi:percent",
            "state_topic": now,
            "value_template": "{{ (value_json.confidence * 100) | round(1) }}",
            "unit_of_measurement": "%",
            "state_class": "measurement",
            "suggested_display_precision": 0,
        },
        "track": {
            "p": "sensor",
            "unique_id": f"{ident}_track",
            "name": "Track",
            "icon": "mdi:playlist-music",
            "state_topic": now,
            # A state holds 255 characters at most.
            "value_template": "{{ ([value_json.artist, value_json.title] | select | join(' - '))[:255] }}",
            **_attributes(now, _TRACK_HAS),
        },
        "state": {
            "p": "sensor",
            "unique_id": f"{ident}_state",
            "name": "State",
            "icon": "mdi:radio",
            "state_topic": now,
            "value_template": "{{ value_json.state }}",
            "device_class": "enum",
            "options": list(STATES),
            "entity_category": "diagnostic",
        },
        "problem": {
            "p": "binary_sensor",
            "unique_id": f"{ident}_problem",
            "name": "Problem",
            "state_topic": now,
            "value_template": "{{ 'ON' if value_json.state == 'stopped' else 'OFF' }}",
            "device_class": "problem",
            "entity_category": "diagnostic",
        },
    }
    described: dict[str, object] = {
        "identifiers": [ident],
        "name": f"{stream} ({box})" if tell_box else stream,
        "manufacturer": "genre-edge",
        "model": "Music genre of a stream",
        "sw_version": version,
    }
    if page_url is not None:
        described["configuration_url"] = page_url
    return json.dumps(
        {
            "device": described,
            "origin": {"name": "genre-edge", "sw_version": version},
            "availability_topic": topics.status("dashboard", instance),
            "availability_template": "{{ 'online' if value_json.state == 'online' else 'offline' }}",
            "components": components,
            "qos": 1,
        }
    ).encode()
