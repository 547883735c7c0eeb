"""PCM chunks as MQTT 5 messages, and the header that chunks and the tensors made of them share.

Pure values: no socket, no paho. What covers which samples travels as User Properties, one a field. Start at `Chunk`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.contract.messages import TIMELINE_ID, VERSION, ContractError, Message, Text
from services.contract.topics import StreamName, Topics
from services.contract.windows import WINDOW

MAX_PAYLOAD_BYTES = 1_000_000
"""Mosquitto 2.1 refuses packets over 2,000,000 bytes unless told otherwise; a message here stays under half of that."""
TENSOR_WINDOW_BYTES = MAX_PAYLOAD_BYTES // 13
"""What a fetcher, which knows no recipe, reckons for the tensor of one window: a chunk's most, 13, still fit."""
READABLE = ("1", VERSION)
"""Chunks that were on their way while a box was upgraded are heard: version 2 added to them and changed nothing."""
MOST_ATTEMPTS = 10_000


class ChunkHeader(BaseModel):
    """Which stretch of which stream a binary message covers; travels as User Properties, one a field.

    timeline_id: identity of the timeline that first_sample counts on.
    filled_from: where the epoch is shorter than a window, the samples of it that were repeated to fill one; else 0.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    stream: StreamName
    timeline_id: str = Field("", pattern=TIMELINE_ID)
    epoch: int = Field(ge=0, le=2**53)
    first_sample: int = Field(ge=0, le=2**53)
    windows: int = Field(ge=1, le=64)
    hop: int = Field(ge=1, le=WINDOW)
    filled_from: int = Field(0, ge=0, lt=WINDOW)
    received_at: float = Field(ge=0, le=1e11)
    observed_at: float = Field(ge=0, le=1e11)
    title: Text = ""
    artist: Text = ""
    attempt: int = Field(1, ge=1, le=MOST_ATTEMPTS)

    @property
    def chunk(self) -> str:
        """The chunk's id: what its ack names."""
        return f"{self._timeline}/{self.epoch}/{self.first_sample}/{self.windows}"

    def first_samples(self) -> list[int]:
        """Return the timeline position of each window's first sample."""
        return [self.first_sample + i * self.hop for i in range(self.windows)]

    def window_id(self, index: int, model: str) -> str:
        """Return the result id of one window."""
        return f"{self._timeline}/{self.epoch}/{self.first_samples()[index]}/{model}"

    @property
    def _timeline(self) -> str:
        return f"{self.stream}/{self.timeline_id}" if self.timeline_id else self.stream

    @property
    def padded(self) -> bool:
        """Whether the window was filled by repeating a shorter epoch."""
        return self.filled_from > 0

    @property
    def samples(self) -> int:
        """Samples of the PCM chunk: windows that overlap, once."""
        return WINDOW + (self.windows - 1) * self.hop


S = TypeVar("S", bound=ChunkHeader)


def read_header(kind: type[S], message: Message) -> S:
    """Read a header from User Properties.

    Raises:
        ContractError: naming the field and the reason.
    """
    values: dict[str, str] = {}
    for key, value in message.properties:
        if key in values:
            raise ContractError(f"user property {key!r:.100} stands twice")
        values[key] = value
    if values.get("contract") not in READABLE:
        raise ContractError(f"user property contract is {values.get('contract')!r:.100}, not {VERSION!r}")
    try:
        header = kind.model_validate(values)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        raise ContractError(f"user property {'.'.join(map(str, item['loc']))}: {item['msg']}"[:300]) from None
    if message.topic.rsplit("/", 1)[-1] != header.stream:
        raise ContractError("the topic names another stream than the properties"[:300])
    if not message.response_topic or message.correlation is None:
        raise ContractError("Response Topic and Correlation Data are missing")
    if message.correlation != header.chunk.encode():
        raise ContractError("Correlation Data is not the chunk's id")
    return header


def properties_of(header: ChunkHeader) -> tuple[tuple[str, str], ...]:
    """Return the User Properties of a header: those that differ from their defaults, and the contract's version."""
    values: dict[str, Any] = header.model_dump(exclude_defaults=True)
    return (("contract", VERSION), *((key, _text(value)) for key, value in values.items()))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(_text(item) for item in value)
    return repr(value) if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Chunk:
    """k windows of audio that carry their own overlap (`genre/pcm/<stream>`, QoS 1).

    Attributes:
        pcm: int16, mono, 22,050 Hz, shape (66,000 + (k - 1) * hop,).
        reply_to: topic that the ack goes to.
    """

    header: ChunkHeader
    pcm: NDArray[np.int16]
    reply_to: str

    CONTENT_TYPE: ClassVar[str] = "application/vnd.genre-edge.pcm-s16le"

    def to_message(self, topics: Topics, attempt: int = 1) -> Message:
        """Return it as a PUBLISH, as it is sent for the attempt-th time; from MOST_ATTEMPTS on the number stays."""
        header = self.header
        if attempt > 1:
            header = header.model_copy(update={"attempt": min(attempt, MOST_ATTEMPTS)})
        return Message(
            topic=topics.pcm(header.stream),
            payload=np.ascontiguousarray(self.pcm, dtype="<i2").tobytes(),
            content_type=self.CONTENT_TYPE,
            response_topic=self.reply_to,
            correlation=header.chunk.encode(),
            properties=properties_of(header),
        )

    @classmethod
    def from_message(cls, message: Message) -> Chunk:
        """Read a PUBLISH.

        Raises:
            ContractError: naming the field and the reason.
        """
        check_type(message, cls.CONTENT_TYPE)
        header = read_header(ChunkHeader, message)
        if len(message.payload) != 2 * header.samples:
            raise ContractError(
                f"payload has {len(message.payload)} bytes; {header.windows} windows with hop {header.hop} "
                f"have {2 * header.samples}"
            )
        pcm = np.frombuffer(message.payload, dtype="<i2")
        return cls(header, pcm, message.response_topic or "")

    def window_pcm(self) -> NDArray[np.int16]:
        """Return the windows, int16, shape (windows, 66,000); a view, not a copy."""
        every = np.lib.stride_tricks.sliding_window_view(self.pcm, WINDOW)
        return every[:: self.header.hop][: self.header.windows]


def check_type(message: Message, expected: str) -> None:
    """Refuse a message of another type, or one that is too large.

    Raises:
        ContractError: naming the reason.
    """
    if len(message.payload) > MAX_PAYLOAD_BYTES:
        raise ContractError(f"payload has {len(message.payload)} bytes, more than {MAX_PAYLOAD_BYTES}")
    if message.content_type != expected:
        raise ContractError(f"Content Type is {message.content_type!r}, not {expected!r}")
