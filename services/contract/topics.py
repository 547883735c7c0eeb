"""Every topic that this project writes or reads, under one configurable root.

Start at `Topics`; docs/contract/asyncapi.json is made from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import StringConstraints

Service = Literal["fetcher", "featurizer", "inference", "dashboard", "supervisor"]
StreamName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


@dataclass(frozen=True)
class Topics:
    """Every topic under one root."""

    root: str = "genre"

    def pcm(self, stream: str) -> str:
        """PCM chunks of one stream ('+' for all)."""
        return f"{self.root}/pcm/{stream}"

    def mel(self, recipe: str, stream: str) -> str:
        """Feature tensors of one recipe and stream."""
        return f"{self.root}/mel/{recipe}/{stream}"

    @property
    def results(self) -> str:
        """One JSON object a window: the topic promised to users."""
        return f"{self.root}/results"

    @property
    def events(self) -> str:
        """What happened to streams."""
        return f"{self.root}/events"

    @property
    def dead(self) -> str:
        """Messages that cannot be processed, with the reason."""
        return f"{self.root}/dead"

    def now(self, stream: str) -> str:
        """Retained: what plays now."""
        return f"{self.root}/streams/{stream}/now"

    def ledger(self, stream: str) -> str:
        """Retained: the stream's ledger."""
        return f"{self.root}/streams/{stream}/ledger"

    def flat(self, stream: str, name: str) -> str:
        """Retained: one number of a stream as plain text, e.g. confidence."""
        return f"{self.root}/flat/{stream}/{name}"

    def acks(self, fetcher: str) -> str:
        """Acks to one fetcher."""
        return f"{self.root}/acks/{fetcher}"

    def status(self, service: str, instance: str) -> str:
        """Retained: online, draining or offline."""
        return f"{self.root}/status/{service}/{instance}"
