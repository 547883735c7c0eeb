"""A fleet: boxes with brokers of their own, whose bridges send results and status to one upstream broker.

Everything of a box lies below fleet/<box>/: what it has under its root, and `link`, which says whether its bridge is
there. Values only; `upstream_conf.py` writes the configurations, `watch_fleet.py` and the dashboard read. Start at
`Fleet`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from services.contract.messages import ContractError, Event, Ledger, Message, Result, Status, parse
from services.contract.topics import Topics

LEVEL = "fleet"
"""First level upstream: a box's own topics, which begin with its root, can never be taken for it."""
MOST_BOXES = 200_000
MOST_STREAMS = 64
MOST_PARTS = 64
RECENT_IDS = 80
NEEDED = ("fetcher", "featurizer", "inference")


def topics(root: str, box: str = "+") -> Topics:
    """Return a box's topics upstream ('+' for every box)."""
    return Topics(f"{LEVEL}/{box}/{root}")


def link(box: str = "+") -> str:
    """Retained: "1" while the box's bridge is connected, else "0"; its broker writes both, the "0" as a will."""
    return f"{LEVEL}/{box}/link"


def box_of(topic: str) -> str:
    """Return whose topic it is.

    Raises:
        ContractError: it is no topic of a fleet.
    """
    parts = topic.split("/")
    if len(parts) < 3 or parts[0] != LEVEL or not parts[1]:
        raise ContractError(f"{topic[:200]!r} is not below {LEVEL}/<box>/")
    return parts[1]


@dataclass
class FleetStream:
    """One stream of a box: its last window, and what is wrong."""

    last: Result | None = None
    heard_at: float = 0.0
    failed: str = ""
    ended: bool = False
    ids: deque[str] = field(default_factory=lambda: deque(maxlen=RECENT_IDS))


@dataclass
class Box:
    """One box as seen upstream; times are monotonic.

    Attributes:
        linked: whether its bridge is connected; None where that was never said.
        parts: last status of each service's replicas, "service/instance".
    """

    name: str
    seen_at: float
    linked: bool | None = None
    parts: dict[str, Status] = field(default_factory=dict)
    streams: dict[str, FleetStream] = field(default_factory=dict)
    results: int = 0
    duplicates: int = 0
    heard_at: float = 0.0

    @property
    def online(self) -> int:
        """How many of its parts say that they are online."""
        return sum(part.state == "online" for part in self.parts.values())

    def problem(self, stopped_after_s: float) -> str:
        """Return what is wrong with it, in a few words, worst first; "" where nothing is."""
        if self.linked is False:
            return "its uplink is down: what is shown is old, and what it hears comes later"
        for service in NEEDED:
            ours = [part for part in self.parts.values() if part.service == service]
            if ours and not any(part.state == "online" for part in ours):
                return f"no {service} is running"
        for name, stream in sorted(self.streams.items()):
            if stream.failed:
                return f"{name} can't be heard: {stream.failed}"
        playing = [stream for stream in self.streams.values() if not stream.ended]
        quiet = time.monotonic() - (self.heard_at or self.seen_at)
        if quiet > stopped_after_s and (playing or not self.streams):
            return f"no result for {quiet:.0f} s"
        return ""


class Fleet:
    """Every box, as its messages upstream tell; safe to call from several threads.

    Args:
        on_result: called with each first result of an id: box, result, payload.
        on_event: called with each event: box, event.
        on_ledger: called with each ledger: box, ledger.
    """

    def __init__(
        self,
        root: str,
        on_result: Callable[[str, Result, bytes], None] | None = None,
        on_event: Callable[[str, Event], None] | None = None,
        on_ledger: Callable[[str, Ledger], None] | None = None,
    ) -> None:
        self._on_result, self._on_event, self._on_ledger = on_result, on_event, on_ledger
        self._boxes: dict[str, Box] = {}
        self._lock = threading.Lock()
        every = topics(root)
        self.takers: dict[str, Callable[[Message], None]] = {
            every.results: self._result,
            every.events: self._event,
            every.ledger("+"): self._ledger,
            every.status("+", "+"): self._status,
            link(): self._link,
        }
        """What to subscribe to, and who takes it; each raises ContractError for a message that is not as it should."""

    def boxes(self) -> list[Box]:
        """Return the boxes by name, as they are now: what comes in meanwhile changes nothing in them."""
        with self._lock:
            found = [self._boxes[name] for name in sorted(self._boxes)]
            return [replace(box, parts=box.parts.copy(), streams=box.streams.copy()) for box in found]

    def _box(self, message: Message) -> Box:
        """Return a message's box, made where it is new; call it with the lock held."""
        name = box_of(message.topic)
        box = self._boxes.get(name)
        if box is None:
            if len(self._boxes) >= MOST_BOXES:
                raise ContractError(f"more than {MOST_BOXES} boxes")
            box = self._boxes[name] = Box(name, time.monotonic())
        return box

    def _stream(self, box: Box, name: str) -> FleetStream:
        if name not in box.streams and len(box.streams) >= MOST_STREAMS:
            raise ContractError(f"box {box.name} has more than {MOST_STREAMS} streams")
        return box.streams.setdefault(name, FleetStream())

    def _result(self, message: Message) -> None:
        result = parse(Result, message.payload)
        with self._lock:
            box = self._box(message)
            stream = self._stream(box, result.stream)
            if result.id in stream.ids:
                box.duplicates += 1
                return
            stream.ids.append(result.id)
            stream.last, stream.failed, stream.ended = result, "", False
            stream.heard_at = box.heard_at = time.monotonic()
            box.results += 1
        # Without the lock: who is called has locks of its own, and asks for the boxes while it holds them.
        if self._on_result is not None:
            self._on_result(box.name, result, message.payload)

    def _event(self, message: Message) -> None:
        event = parse(Event, message.payload)
        with self._lock:
            box = self._box(message)
            stream = self._stream(box, event.stream)
            if event.kind == "error":
                stream.failed = event.reason or event.cause or "failed"
            elif event.kind in ("started", "resumed"):
                stream.failed, stream.ended = "", False
        if self._on_event is not None:
            self._on_event(box.name, event)

    def _ledger(self, message: Message) -> None:
        if message.payload:
            ledger = parse(Ledger, message.payload)
            with self._lock:
                box = self._box(message)
                stream = self._stream(box, ledger.stream)
                stream.ended, stream.failed = ledger.ended, ledger.failed or stream.failed
            if self._on_ledger is not None:
                self._on_ledger(box.name, ledger)

    def _status(self, message: Message) -> None:
        status = parse(Status, message.payload) if message.payload else None
        key = "/".join(message.topic.split("/")[-2:])
        with self._lock:
            box = self._box(message)
            if status is None:
                box.parts.pop(key, None)
            elif key in box.parts or len(box.parts) < MOST_PARTS:
                box.parts[key] = status

    def _link(self, message: Message) -> None:
        if not message.payload:  # its retained message was cleared: the box was taken out of the fleet
            with self._lock:
                self._boxes.pop(box_of(message.topic), None)
            return
        if message.payload not in (b"0", b"1"):
            raise ContractError("link is neither 0 nor 1")
        with self._lock:
            self._box(message).linked = message.payload == b"1"
