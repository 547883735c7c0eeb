"""What is subscribed to reaches the broker, whenever it is asked for."""

from __future__ import annotations

import itertools
import threading
from typing import Any

from services.mqtt.subscriptions import Subscriptions

WAIT_S = 20.0


class Connection:
    """Stands for paho's client: notes what is sent; the first SUBSCRIBE is held up until `go` is set."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.entered, self.go = threading.Event(), threading.Event()
        self._mids = itertools.count(1)

    def subscribe(self, filters: list[tuple[str, Any]]) -> tuple[int, int]:
        self.entered.set()
        assert self.go.wait(WAIT_S)
        self.sent += [topic_filter for topic_filter, _ in filters]
        return 0, next(self._mids)

    def unsubscribe(self, filters: str | list[str]) -> tuple[int, int]:
        return 0, next(self._mids)


def test_a_subscription_that_is_made_while_the_connection_comes_up_is_not_left_out() -> None:
    connection = Connection()
    subscriptions = Subscriptions(connection)  # type: ignore[arg-type]
    subscriptions.add("before", print, 1)
    assert connection.sent == [], "there is no connection yet"
    coming_up = threading.Thread(target=subscriptions.renew)
    coming_up.start()
    assert connection.entered.wait(WAIT_S)
    adding = threading.Thread(target=subscriptions.add, args=("meanwhile", print, 1))
    adding.start()
    connection.go.set()
    for thread in (coming_up, adding):
        thread.join(WAIT_S)
    assert connection.sent == ["before", "meanwhile"]


def test_what_is_added_while_there_is_no_connection_is_sent_once_with_the_next() -> None:
    connection = Connection()
    connection.go.set()
    subscriptions = Subscriptions(connection)  # type: ignore[arg-type]
    subscriptions.renew()
    subscriptions.lost()
    subscriptions.add("away", print, 1)
    assert connection.sent == []
    subscriptions.renew()
    assert connection.sent == ["away"]
