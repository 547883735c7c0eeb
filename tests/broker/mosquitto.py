"""A real Mosquitto process, and an MQTT 5 client whose calls return what the broker answered."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PROGRAM = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
TIMEOUT_S = 30.0
"""For what takes a moment, on a machine where several tests run at once."""


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.01)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stay_this_user(config: Path) -> None:
    """Keep mosquitto from becoming the user "mosquitto", who may not read a test's folders."""
    config.write_text(f"user {getpass.getuser()}\n{config.read_text()}")


class Mosquitto:
    """One broker process over a configuration file."""

    def __init__(self, config: Path, port: int) -> None:
        self.config, self.port = config, port
        self.log = config.with_suffix(".log")
        self.start()

    def start(self) -> None:
        assert PROGRAM is not None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([PROGRAM, "-c", str(self.config)], stderr=log, stdout=log)
        self.wait_port(self.port)

    def wait_port(self, port: int) -> None:
        """Wait until it listens; WebSockets come up later than the rest."""

        def listens() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listens, f"mosquitto listens on {port}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


class Client:
    """An MQTT 5 client whose calls return the broker's reason codes."""

    def __init__(self, client_id: str, *, clean: bool = True, **options: Any) -> None:
        self.received: list[mqtt.MQTTMessage] = []
        self._answers: dict[tuple[str, int], Any] = {}
        self._arrived = threading.Condition()
        self.connected: int | None = None
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5, **options)
        self.client.on_connect = self._on_connect
        self.disconnects: list[int] = []
        self.client.on_disconnect = lambda c, u, flags, code, p: self.disconnects.append(code.value)
        self.client.on_publish = lambda c, u, mid, code, p: self._answer("publish", mid, code.value)
        self.client.on_subscribe = lambda c, u, mid, codes, p: self._answer("subscribe", mid, codes[0].value)
        self.client.on_message = lambda c, u, message: self.received.append(message)
        self._clean = clean

    def _on_connect(self, client: Any, userdata: Any, flags: Any, code: Any, properties: Any) -> None:
        self.connected = code.value

    def _answer(self, kind: str, mid: int, code: int) -> None:
        with self._arrived:
            self._answers[kind, mid] = code
            self._arrived.notify_all()

    def _wait(self, kind: str, mid: int) -> int:
        with self._arrived:
            assert self._arrived.wait_for(lambda: (kind, mid) in self._answers, TIMEOUT_S), f"no answer to {kind}"
            return int(self._answers.pop((kind, mid)))

    def connect(self, port: int) -> int:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0 if self._clean else 300
        self.client.connect("127.0.0.1", port, clean_start=self._clean, properties=properties)
        self.client.loop_start()
        wait_for(lambda: self.connected is not None, "CONNACK")
        assert self.connected is not None
        return self.connected

    def publish(self, topic: str, payload: bytes = b"x", **options: Any) -> int:
        return self._wait("publish", self.client.publish(topic, payload, 1, **options).mid)

    def subscribe(self, topic_filter: str) -> int:
        mid = self.client.subscribe(topic_filter, 1)[1]
        assert mid is not None
        return self._wait("subscribe", mid)

    def topics(self) -> list[str]:
        """Topics received so far; a SUBSCRIBE goes there and back first, so that nothing is under way."""
        self.subscribe("sync/only")
        return sorted({message.topic for message in self.received})

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
