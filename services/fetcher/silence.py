"""The alarm "no result for N seconds" of one stream, and which stage it names. Start at `SilenceAlarm.watch`."""

from __future__ import annotations

import logging
import time

from services.fetcher.delivery.sender import ChunkSender
from services.fetcher.telling import Telling

log = logging.getLogger(__name__)


class SilenceAlarm:
    """Raised once for each stage that holds a stream up, and taken back when results come again.

    Args:
        after_s: no result for this long is an alarm; by the monotonic clock.
    """

    def __init__(self, stream: str, sender: ChunkSender, telling: Telling, after_s: float) -> None:
        self._stream, self._sender, self._telling, self._after_s = stream, sender, telling, after_s
        self._stage = ""
        self.heard()

    def heard(self) -> None:
        """Note that a result came, or that the stream begins."""
        self._at = time.monotonic()

    def watch(self, start: int, due: bool, failing: bool) -> str:
        """Raise or end the alarm; return the stage that is stuck, '' where all is well.

        Args:
            start: timeline position, for the event.
            due: results should come at all.
            failing: the stream can't be heard, so its recovery is told elsewhere.
        """
        quiet_s = time.monotonic() - self._at
        well = quiet_s < self._after_s
        if well or not due:
            if self._stage and well and not failing:
                self._telling.tell("resumed", start=start, reason="results come again")
            self._stage = ""
            return ""
        waiting = self._sender.outstanding(self._stream)
        stage = self._sender.stuck_stage(self._stream) if waiting else "source"
        if stage != self._stage:
            self._stage = stage
            reason = f"no result for {quiet_s:.0f} s: " + (
                "the source delivers nothing" if stage == "source" else f"{waiting} chunks wait at {stage}"
            )
            log.warning("stream %s: %s", self._stream, reason)
            self._telling.tell("silent", start=start, seconds=quiet_s, stage=stage, reason=reason)
        return stage
