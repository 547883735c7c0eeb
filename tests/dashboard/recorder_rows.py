"""How many rows Home Assistant's recorder keeps a day: one for each change of an entity's state or attributes.

A real broker, a real dashboard and some streams that change genre and title as radio does, for some minutes; the
entities' templates are applied to what is written as Home Assistant would. Run: python -m tests.dashboard.recorder_rows
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click

from services.contract.topics import Topics
from services.mqtt.client import MqttClient
from services.mqtt.subscriptions import Delivery
from services.settings.schema import Broker
from tests.broker.mosquitto import free_port, wait_for
from tests.conftest import start_mosquitto
from tests.dashboard.pretend import Radio, sent

WINDOW_S = 1.4966
DAY_S = 86_400
TOPICS = Topics()


def entities(now: dict[str, object]) -> dict[str, object]:
    """Return what each entity's template makes of one `now`: its state, and its attributes where it has any."""
    return {
        "genre": [now["genre"], now["stream"], now["since"]],
        "sound": "music" if now["kind"] == "unsure" else now["kind"],
        "confidence": round(float(str(now["confidence"])) * 100, 1),
        "track": [f"{now['artist']} - {now['title']}", now["title"], now["artist"]],
        "state": now["state"],
        "problem": now["state"] == "stopped",
    }


@click.command()
@click.option("--streams", default=10, show_default=True)
@click.option("--minutes", default=10.0, show_default=True)
def main(streams: int, minutes: float) -> None:
    """Count the rows of some minutes and print what that makes a day.

    \b
    Example: python -m tests.dashboard.recorder_rows --streams 10 --minutes 10
    """
    rows: Counter[str] = Counter()
    before: dict[tuple[str, str], object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mosquitto = start_mosquitto(folder)
        broker = Broker(port=mosquitto.port)
        mqtt = MqttClient(broker, "counter")

        def take(delivery: Delivery) -> None:
            mqtt.ack(delivery)
            now = json.loads(delivery.message.payload)
            rows["messages"] += 1
            for entity, value in entities(now).items():
                if before.get((now["stream"], entity)) != value:
                    before[now["stream"], entity] = value
                    rows[entity] += 1

        radios = [Radio(f"radio{number}", number) for number in range(streams)]
        config = folder / "genre.toml"
        lines = [f"[broker]\nport = {mosquitto.port}\n[dashboard]\nport = {free_port()}\nhome_assistant = true"]
        lines += [f'[paths]\nstate_dir = "{folder}/state"']
        lines += [f'[[streams]]\nname = "{radio.name}"\nurl = "http://example.org/x.m3u8"' for radio in radios]
        config.write_text("\n".join(lines))
        mqtt.subscribe("genre/streams/+/now", take)
        mqtt.start()
        dashboard = subprocess.Popen([sys.executable, "-m", "services.cli", "dashboard", "--config", str(config)])
        try:
            wait_for(lambda: len(before) >= 5 * streams, "every stream has been announced", 60)
            rows.clear()
            until = time.monotonic() + minutes * 60
            while time.monotonic() < until:
                begun = time.monotonic()
                for radio in radios:
                    for message in sent(TOPICS, radio.next()):
                        mqtt.publish(message)
                time.sleep(max(0.0, WINDOW_S - (time.monotonic() - begun)))
        finally:
            dashboard.terminate()
            dashboard.wait(15)
            mqtt.stop()
            mosquitto.stop()
    for what, count in sorted(rows.items()):
        click.echo(f"{what:12} {count:6} in {minutes:g} min  {count * DAY_S / (minutes * 60):9.0f} a day")
    total = sum(count for what, count in rows.items() if what != "messages")
    click.echo(
        f"{'rows':12} {total:6} in {minutes:g} min  {total * DAY_S / (minutes * 60):9.0f} a day, {streams} streams"
    )


if __name__ == "__main__":
    main()
