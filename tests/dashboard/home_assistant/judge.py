"""Home Assistant's own word on discovery messages: its topics, its schemas and its templates, in its own Python.

Reads one JSON object from standard input: the prefix; messages, each with topic and payload; and what `now` may say.
Prints a list with, for each message, what Home Assistant objects to, and what each of its entities then shows. Nothing
of the project is imported here, for this runs in an environment that holds Home Assistant alone (`environment`).
Start at `main`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from typing import Any

import voluptuous as vol
from homeassistant.components.mqtt import binary_sensor, discovery, sensor
from homeassistant.components.mqtt.models import MqttValueTemplate
from homeassistant.core import HomeAssistant

PLATFORMS = {"sensor": sensor, "binary_sensor": binary_sensor}


def judged(prefix: str, message: dict[str, str], nows: list[str]) -> dict[str, Any]:
    """Return one message's objections and what its entities show."""
    found = discovery.TOPIC_MATCHER.fullmatch(message["topic"].removeprefix(f"{prefix}/"))
    if found is None or found["component"] != "device":
        return {"objections": ["the topic is none of a device's discovery"], "shown": {}}
    device = discovery.MQTTDiscoveryPayload(json.loads(message["payload"]))
    discovery._replace_all_abbreviations(device)
    objections: list[str] = []
    shown: dict[str, list[list[str]]] = {}
    try:
        discovery.DEVICE_DISCOVERY_SCHEMA(device)
    except vol.Invalid as error:
        return {"objections": [f"device: {error}"], "shown": {}}
    for name, part in device["components"].items():
        platform = PLATFORMS[part.pop("platform")]
        part = discovery.MQTTDiscoveryPayload({**part, "device": device["device"], "origin": device["origin"]})
        discovery._merge_common_device_options(part, device)
        # Discovery drops keys that it does not know, as a misspelt one is; what a person writes by hand may hold none.
        for schema in (platform.DISCOVERY_SCHEMA, platform.PLATFORM_SCHEMA_MODERN):
            try:
                config = schema(dict(part))
            except vol.Invalid as error:
                objections.append(f"{name}: {error}")
                break
        else:
            shown[name] = [
                [
                    str(MqttValueTemplate(config.get(key)).async_render_with_possible_json_value(now))
                    for key in ("value_template", "json_attributes_template")
                    if config.get(key) is not None
                ]
                for now in nows
            ]
    return {"objections": objections, "shown": shown}


async def main() -> None:
    """Judge all that is asked."""
    asked = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        HomeAssistant(folder)  # templates are checked with the one of this thread
        print(json.dumps([judged(asked["prefix"], each, asked["nows"]) for each in asked["messages"]]))


if __name__ == "__main__":
    asyncio.run(main())
