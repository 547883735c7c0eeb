"""From the bus to the board: subscribes, decodes, passes on. It acknowledges everything and stops at nothing.

Start at `read`. Not here: what the messages mean (`board.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from services import fleet_reader
from services.bus import Bus, Delivery
from services.contract import ContractError, Event, Ledger, Result, Status, Topics, parse
from services.dashboard.board import Board
from services.fleet import Fleet

log = logging.getLogger(__name__)


def read(bus: Bus, topics: Topics, board: Board, count: Callable[[Result], None]) -> None:
    """Subscribe a board to everything it shows.

    Args:
        count: called with each result, for metrics.
    """

    def result(payload: bytes) -> None:
        found = parse(Result, payload)
        count(found)
        board.result(found, time.time())

    def status(delivery: Delivery) -> None:
        if delivery.message.payload:
            board.status(parse(Status, delivery.message.payload))
        else:
            board.forget_part(*delivery.message.topic.split("/")[-2:])

    def of(handle: Callable[[bytes], None]) -> Callable[[Delivery], None]:
        return lambda delivery: handle(delivery.message.payload) if delivery.message.payload else None

    for topic, handle in (
        (topics.results, of(result)),
        (topics.events, of(lambda payload: board.event(parse(Event, payload), time.time()))),
        (topics.ledger("+"), of(lambda payload: board.ledger(parse(Ledger, payload)))),
        (topics.status("+", "+"), status),
    ):
        bus.subscribe(topic, _guarded(bus, handle))


def read_fleet(bus: Bus, root: str, board: Board, count: Callable[[Result], None]) -> None:
    """Subscribe a board to every box of a fleet; its streams are shown as <box>/<stream>.

    Args:
        root: of the boxes' topics.
        count: called with each result, for metrics.
    """

    def result(box: str, found: Result, payload: bytes) -> None:
        named = found.model_copy(update={"stream": f"{box}/{found.stream}"})
        count(named)
        board.result(named, time.time())

    def event(box: str, found: Event) -> None:
        board.event(found.model_copy(update={"stream": f"{box}/{found.stream}"}), time.time())

    def ledger(box: str, found: Ledger) -> None:
        board.ledger(found.model_copy(update={"stream": f"{box}/{found.stream}"}))

    board.fleet = Fleet(root, result, event, ledger)
    fleet_reader.read(bus, board.fleet)


def _guarded(bus: Bus, handle: Callable[[Delivery], None]) -> Callable[[Delivery], None]:
    """Acknowledge whatever comes; say of a strange message that it is passed over."""

    def handler(delivery: Delivery) -> None:
        try:
            handle(delivery)
        except ContractError as error:
            log.warning("a message on %s is passed over: %s", delivery.message.topic, error)
        finally:
            bus.ack(delivery)

    return handler
