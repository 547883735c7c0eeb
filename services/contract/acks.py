"""What became of a chunk, told to the fetcher that sent it. Start at `Ack`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from services.contract.messages import VERSION, ContractError, Message
from services.text import clean

Outcome = Literal["done", "dead", "featurized"]


@dataclass(frozen=True)
class Ack:
    """What became of a chunk (`genre/acks/<fetcher>`, QoS 1, empty payload; Correlation Data names the chunk).

    Attributes:
        outcome: done: every result got a good PUBACK; dead: it can never succeed, `reason` says why;
            featurized: a chunk that was sent again has passed the featurizer (tells which stage is stuck).
    """

    chunk: str
    outcome: Outcome
    reason: str = ""

    def to_message(self, reply_to: str) -> Message:
        """Return it as a PUBLISH to the chunk's Response Topic."""
        properties: tuple[tuple[str, str], ...] = (("contract", VERSION), ("outcome", self.outcome))
        if self.reason:
            properties += (("reason", clean(self.reason, 300)),)
        return Message(topic=reply_to, correlation=self.chunk.encode(), properties=properties)

    @classmethod
    def from_message(cls, message: Message) -> Ack:
        """Read a PUBLISH.

        Raises:
            ContractError: naming the field and the reason.
        """
        values = dict(message.properties)
        outcome = values.get("outcome")
        if outcome is None or outcome not in get_args(Outcome):
            raise ContractError(f"user property outcome is {outcome!r:.100}")
        try:
            chunk = (message.correlation or b"").decode()
        except UnicodeDecodeError:
            raise ContractError("Correlation Data is not UTF-8") from None
        if not chunk:
            raise ContractError("Correlation Data is missing")
        return cls(chunk, cast(Outcome, outcome), values.get("reason", ""))
