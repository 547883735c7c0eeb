"""What happens to one stream, as events on the bus. Start at `Telling.tell`."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.contract.messages import Event
from services.contract.windows import SAMPLE_RATE
from services.text import utc


class Telling:
    """Makes the events of one stream.

    Args:
        publish: takes them from there.
    """

    def __init__(self, stream: str, publish: Callable[[Event], None]) -> None:
        self._stream, self._publish = stream, publish

    def tell(
        self,
        kind: str,
        *,
        start: int = 0,
        seconds: float = 0.0,
        cause: str = "",
        reason: str = "",
        stage: str = "",
        title: str = "",
        artist: str = "",
        numbers: dict[str, float] | None = None,
    ) -> None:
        """Publish an event; `start` is a timeline position in samples."""
        self._publish(
            Event.model_validate(
                {
                    "kind": kind,
                    "stream": self._stream,
                    "at": utc(time.time()),
                    "start_s": round(start / SAMPLE_RATE, 3),
                    "seconds": round(seconds, 3),
                    "cause": cause,
                    "reason": reason,
                    "stage": stage,
                    "title": title,
                    "artist": artist,
                    "numbers": numbers or {},
                }
            )
        )
