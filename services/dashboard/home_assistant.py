"""Home Assistant's MQTT discovery: each stream is a device with what plays now as its sensors.

Device-based discovery (Home Assistant 2024.11 and later): one retained message a stream at
<prefix>/device/<id>/config; an empty one takes the device away. Pure; start at `device`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from services.contract import Message, Topics

STATES = ("playing", "silent", "stopped", "ended")


def object_id(root: str, stream: str) -> str:
    """Return an id of letters, digits, '_' and '-': all that discovery topics allow; different streams differ."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", stream)
    if plain != stream:
        plain += "_" + hashlib.sha256(stream.encode()).hexdigest()[:6]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', root)}_{plain}"


def topic(prefix: str, root: str, stream: str) -> str:
    """Return the discovery topic of a stream."""
    return f"{prefix}/device/{object_id(root, stream)}/config"


def removal(prefix: str, root: str, stream: str) -> Message:
    """Return the message that takes a stream's device away."""
    return Message(topic(prefix, root, stream), b"", retain=True)


def device(
    prefix: str, topics: Topics, stream: str, labels: Sequence[str], version: str, instance: str, page_url: str | None
) -> Message:
    """Return the discovery message of one stream.

    Args:
        labels: the model's genres; a sensor of class "enum" must know them all.
        instance: of the dashboard, whose status says whether the numbers are kept up.
        page_url: where the dashboard is; None where only this machine reaches it.
    """
    ident = object_id(topics.root, stream)
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
        "json_attributes_topic": now,
    }
    if labels:
        genre |= {"device_class": "enum", "options": sorted(labels)}
    else:
        genre["value_template"] = "{{ value_json.genre }}"
    components = {
        "genre": genre,
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
        "name": stream,
        "manufacturer": "genre-edge",
        "model": "Music genre of a stream",
        "sw_version": version,
    }
    if page_url is not None:
        described["configuration_url"] = page_url
    payload = {
        "device": described,
        "origin": {"name": "genre-edge", "sw_version": version},
        "availability_topic": topics.status("dashboard", instance),
        "availability_template": "{{ 'online' if value_json.state == 'online' else 'offline' }}",
        "components": components,
        "qos": 1,
    }
    return Message(
        topic(prefix, topics.root, stream), json.dumps(payload).encode(), retain=True, content_type="application/json"
    )
