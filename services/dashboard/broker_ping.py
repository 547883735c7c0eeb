"""Whether the broker answers, known within a few seconds: the socket alone would not tell of one that stands still.

MQTT's own keep-alive takes two of its intervals, and an interval as short as this needs would have busy brokers throw
the client out. So a question that needs no right (`MqttClient.sync`) is asked every second. Start at `BrokerPing.beat`.
"""

from __future__ import annotations

import time

from services.mqtt.client import MqttClient

ASK_EVERY_S = 1.0
ANSWER_S = 3.0
"""No answer for this long is a lost broker: with the page's half second, shown well within 5 s."""


class BrokerPing:
    """The broker's answers."""

    def __init__(self, mqtt: MqttClient) -> None:
        self._mqtt = mqtt
        self._asked_at = self._answered_at = 0.0

    def beat(self) -> bool:
        """Return whether the broker is there; call it several times a second."""
        now = time.monotonic()
        if not self._mqtt.connected:
            self._asked_at = self._answered_at = 0.0
            return False
        if not self._answered_at:
            self._answered_at = now  # CONNACK came
        if now - self._asked_at >= ASK_EVERY_S:
            self._asked_at = now
            self._mqtt.sync(self._answer)
        return now - self._answered_at < ANSWER_S

    def _answer(self) -> None:
        self._answered_at = time.monotonic()
