"""The contract: everything that is on the wire. Topics, typed messages, their codecs and MQTT 5 properties.

Pure values: no socket, no paho. docs/contract/ holds the JSON Schema and the AsyncAPI document made from it
(services/contract_documents.py); a test freezes every field name. Start at `Topics`, then `Result`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

VERSION = "1"
SAMPLE_RATE = 22_050
WINDOW = 66_000
MAX_PAYLOAD_BYTES = 1_000_000
"""Mosquitto 2.1 refuses packets over 2,000,000 bytes unless told otherwise; a message here stays under half of that."""
TENSOR_WINDOW_BYTES = MAX_PAYLOAD_BYTES // 13
"""What a fetcher, which knows no recipe, reckons for the tensor of one window: a chunk's most, 13, still fit."""

Service = Literal["fetcher", "featurizer", "inference", "dashboard", "supervisor"]
StreamName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


MOST_ATTEMPTS = 10_000
MOST_TEXT = 512
_REFUSED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff]+")


def clean(text: str, most: int = MOST_TEXT) -> str:
    """Return text from outside (a title, an error) as MQTT carries it: one line, at most so many characters.

    MQTT 5 (1.5.4) forbids surrogates and U+0000 and lets a broker refuse control characters and non-characters:
    Mosquitto ends the connection of a client that sends one, and paho, which other readers use, its own at U+FEFF.
    """
    return _REFUSED.sub(" ", text).strip()[:most]


Text = Annotated[str, BeforeValidator(lambda value: clean(value) if isinstance(value, str) else value)]


class ContractError(ValueError):
    """A message that is not as this module says; its text names the field and the reason."""


@dataclass(frozen=True)
class Message:
    """One MQTT 5 PUBLISH, as values: what `services/bus.py` sends and receives.

    Attributes:
        properties: User Properties, in order.
        response_topic: MQTT 5 Response Topic; correlation: MQTT 5 Correlation Data.
    """

    topic: str
    payload: bytes = b""
    retain: bool = False
    content_type: str | None = None
    response_topic: str | None = None
    correlation: bytes | None = None
    properties: tuple[tuple[str, str], ...] = ()


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


def utc(unix_s: float) -> str:
    """Return a Unix time as RFC 3339 in UTC with milliseconds, e.g. 2026-01-31T12:00:00.000Z."""
    return datetime.fromtimestamp(unix_s, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Flat(BaseModel):
    """A flat JSON object: scalars, and at most one level of scores or numbers."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, json_schema_serialization_defaults_required=True
    )

    def to_json(self) -> bytes:
        """Return the UTF-8 JSON payload."""
        return self.model_dump_json().encode()


F = TypeVar("F", bound=Flat)


def parse(model: type[F], payload: bytes) -> F:
    """Decode a JSON payload.

    Raises:
        ContractError: naming the field and the reason.
    """
    try:
        return model.model_validate_json(payload)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in item["loc"]) or "payload"
        raise ContractError(f"{model.__name__.lower()}: {where}: {item['msg']}"[:300]) from None


class Result(Flat):
    """What one window of a stream sounds like (`genre/results`, QoS 1)."""

    id: str = Field(description="stream/epoch/first_sample/model: the same audio always has the same id.")
    stream: StreamName = Field(description="Name of the stream.")
    genre: str | None = Field(description="Most probable genre; null where `kind` is 'silence'.")
    confidence: float = Field(ge=0, le=1, description="Calibrated probability of `genre`; 0 where it is null.")
    kind: Literal["music", "silence", "unsure"] = Field(
        description="'silence': nothing to hear; 'unsure': the model's best guess is too weak to act on."
    )
    scores: dict[str, float] = Field(description="Calibrated probability of each genre; they sum to 1.")
    start_s: float = Field(ge=0, description="Start of the window in the stream, seconds.")
    end_s: float = Field(ge=0, description="End of the window in the stream, seconds.")
    observed_at: str = Field(
        description="Wall clock of the window's start, RFC 3339 UTC: EXT-X-PROGRAM-DATE-TIME, else its arrival."
    )
    epoch: int = Field(ge=0, description="Number of the stretch without a break that the window lies in.")
    padded: bool = Field(description="The stretch was shorter than a window and was repeated to fill it.")
    title: str = Field(description="Title that the stream gives for this moment; '' where it gives none.")
    artist: str = Field(description="Artist, likewise.")
    level_dbfs: float = Field(description="Level of the window, dB relative to a full-scale square wave.")
    model: str = Field(description="Name of the model.")
    model_version: str = Field(description="Version of the model.")
    published_at: str = Field(description="When this message was made, RFC 3339 UTC.")
    latency_ms: float = Field(ge=0, description="From the last byte of the window's segment to this message.")


EventKind = Literal["started", "gap", "lost", "track", "ended", "error", "silent", "resumed", "report"]


class Event(Flat):
    """Something that happened to a stream (`genre/events`, QoS 1)."""

    kind: EventKind = Field(description="What happened.")
    stream: StreamName = Field(description="To which stream.")
    at: str = Field(description="When it was noticed, RFC 3339 UTC.")
    start_s: float = Field(0.0, ge=0, description="Where in the stream, seconds.")
    seconds: float = Field(0.0, ge=0, description="How much of the stream it concerns.")
    cause: str = Field("", description="One word, e.g. http-404, behind, stale, no-answer.")
    reason: str = Field("", description="One sentence for a person.")
    stage: str = Field("", description="For 'silent': source, featurizer, inference or broker.")
    title: str = Field("", description="For 'track'.")
    artist: str = Field("", description="For 'track'.")
    numbers: dict[str, float] = Field(default_factory=dict, description="Figures that go with it.")


class Now(Flat):
    """What plays now, smoothed over the last 30 s (`genre/streams/<stream>/now`, retained)."""

    stream: StreamName = Field(description="Name of the stream.")
    genre: str | None = Field(description="Smoothed genre; null while nothing is known or nothing is to be heard.")
    confidence: float = Field(ge=0, le=1, description="Its confidence.")
    since: str = Field(description="Since when, RFC 3339 UTC.")
    title: str = Field(description="Title, '' where unknown.")
    artist: str = Field(description="Artist, '' where unknown.")
    state: Literal["playing", "silent", "stopped", "ended"] = Field(
        description="'stopped': results ceased unexpectedly."
    )
    updated_at: str = Field(description="When this was written, RFC 3339 UTC.")


class Ledger(Flat):
    """Every sample of a stream, accounted for; unit: samples at 22,050 Hz.

    timeline = classified + gap + lost + short, always (`genre/streams/<stream>/ledger`, retained).
    """

    stream: StreamName = Field(description="Name of the stream.")
    timeline: int = Field(0, ge=0, description="Samples of the stream that are accounted for.")
    classified: int = Field(0, ge=0, description="Samples that a published result covers.")
    gap: int = Field(0, ge=0, description="Samples that the source never delivered.")
    lost: int = Field(0, ge=0, description="Samples that were given up, with the reason published.")
    short: int = Field(0, ge=0, description="Samples in stretches too short to classify (under 1 s).")
    windows: int = Field(0, ge=0, description="Windows whose results were confirmed.")
    causes: dict[str, int] = Field(default_factory=dict, description="Samples of gap and lost, by cause.")
    in_flight: int = Field(0, ge=0, description="Samples heard but not yet accounted for.")
    ended: bool = Field(False, description="The stream is over and all of it is accounted for.")
    failed: str = Field("", description="Why the stream could not be heard to its end; '' where it could or still may.")

    @property
    def adds_up(self) -> bool:
        """Whether every sample of the timeline is in exactly one place."""
        return self.timeline == self.classified + self.gap + self.lost + self.short


class Status(Flat):
    """Whether a service is there (`genre/status/<service>/<instance>`, retained; the will says offline)."""

    service: Service = Field(description="Which service.")
    instance: str = Field(description="Which of its replicas.")
    state: Literal["online", "draining", "offline"] = Field(description="Its state.")
    boot_id: str = Field(description="New at every start: a changed one tells of a restart.")
    version: str = Field(description="Version of genre-edge.")
    since: str = Field(description="When this start happened, RFC 3339 UTC.")
    details: dict[str, str] = Field(default_factory=dict, description="E.g. model, backend, recipe.")


class Dead(Flat):
    """A message that cannot be processed (`genre/dead`, QoS 1); never the audio itself."""

    at: str = Field(description="When, RFC 3339 UTC.")
    service: Service = Field(description="Who gave up.")
    instance: str = Field(description="Which replica.")
    topic: str = Field(description="Where the message came from.")
    reason: str = Field(description="Why it cannot be processed.")
    chunk: str = Field(description="Which chunk it names; '' where that can't be read.")
    payload_bytes: int = Field(ge=0, description="Size of its payload.")
    payload_sha256: str = Field(description="SHA-256 of its payload.")


class Stretch(BaseModel):
    """Which stretch of which stream a binary message covers; travels as User Properties, one a field.

    filled_from: where the epoch is shorter than a window, the samples of it that were repeated to fill one; else 0.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    stream: StreamName
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
        return f"{self.stream}/{self.epoch}/{self.first_sample}/{self.windows}"

    def first_samples(self) -> list[int]:
        """Return the timeline position of each window's first sample."""
        return [self.first_sample + i * self.hop for i in range(self.windows)]

    def window_id(self, index: int, model: str) -> str:
        """Return the result id of one window."""
        return f"{self.stream}/{self.epoch}/{self.first_samples()[index]}/{model}"

    @property
    def padded(self) -> bool:
        """Whether the window was filled by repeating a shorter epoch."""
        return self.filled_from > 0

    @property
    def samples(self) -> int:
        """Samples of the PCM chunk: windows that overlap, once."""
        return WINDOW + (self.windows - 1) * self.hop


S = TypeVar("S", bound=Stretch)


def _stretch(kind: type[S], message: Message) -> S:
    """Read a Stretch from User Properties."""
    values: dict[str, str] = {}
    for key, value in message.properties:
        if key in values:
            raise ContractError(f"user property {key!r:.100} stands twice")
        values[key] = value
    if values.get("contract") != VERSION:
        raise ContractError(f"user property contract is {values.get('contract')!r:.100}, not {VERSION!r}")
    try:
        stretch = kind.model_validate(values)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        raise ContractError(f"user property {'.'.join(map(str, item['loc']))}: {item['msg']}"[:300]) from None
    if message.topic.rsplit("/", 1)[-1] != stretch.stream:
        raise ContractError("the topic names another stream than the properties"[:300])
    if not message.response_topic or message.correlation is None:
        raise ContractError("Response Topic and Correlation Data are missing")
    if message.correlation != stretch.chunk.encode():
        raise ContractError("Correlation Data is not the chunk's id")
    return stretch


def _properties(stretch: Stretch) -> tuple[tuple[str, str], ...]:
    """Return the User Properties of a Stretch: those that differ from their defaults, and the contract's version."""
    values: dict[str, Any] = stretch.model_dump(exclude_defaults=True)
    return (("contract", VERSION), *((key, _text(value)) for key, value in values.items()))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(_text(item) for item in value)
    return repr(value) if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class PcmChunk:
    """k windows of audio that carry their own overlap (`genre/pcm/<stream>`, QoS 1).

    Attributes:
        pcm: int16, mono, 22,050 Hz, shape (66,000 + (k - 1) * hop,).
        reply_to: topic that the ack goes to.
    """

    stretch: Stretch
    pcm: NDArray[np.int16]
    reply_to: str

    CONTENT_TYPE: ClassVar[str] = "application/vnd.genre-edge.pcm-s16le"

    def to_message(self, topics: Topics) -> Message:
        """Return it as a PUBLISH."""
        return Message(
            topic=topics.pcm(self.stretch.stream),
            payload=np.ascontiguousarray(self.pcm, dtype="<i2").tobytes(),
            content_type=self.CONTENT_TYPE,
            response_topic=self.reply_to,
            correlation=self.stretch.chunk.encode(),
            properties=_properties(self.stretch),
        )

    @classmethod
    def from_message(cls, message: Message) -> PcmChunk:
        """Read a PUBLISH.

        Raises:
            ContractError: naming the field and the reason.
        """
        _check_type(message, cls.CONTENT_TYPE)
        stretch = _stretch(Stretch, message)
        if len(message.payload) != 2 * stretch.samples:
            raise ContractError(
                f"payload has {len(message.payload)} bytes; {stretch.windows} windows with hop {stretch.hop} "
                f"have {2 * stretch.samples}"
            )
        pcm = np.frombuffer(message.payload, dtype="<i2")
        return cls(stretch, pcm, message.response_topic or "")

    def window_pcm(self) -> NDArray[np.int16]:
        """Return the windows, int16, shape (windows, 66,000); a view, not a copy."""
        every = np.lib.stride_tricks.sliding_window_view(self.pcm, WINDOW)
        return every[:: self.stretch.hop][: self.stretch.windows]


class TensorStretch(Stretch):
    """A Stretch with what a tensor needs besides."""

    recipe: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    recipe_digest: str = Field(pattern=r"^[0-9a-f]{8,64}$")
    dtype: Literal["float32", "float16"] = "float32"
    frames: int = Field(ge=1, le=4096)
    bands: int = Field(ge=1, le=4096)
    levels_dbfs: str = Field(pattern=r"^-?\d+(\.\d+)?(,-?\d+(\.\d+)?)*$", max_length=1024)


@dataclass(frozen=True)
class MelTensor:
    """Features of k windows (`genre/mel/<recipe>/<stream>`, QoS 1).

    Attributes:
        features: float32 or float16, shape (windows, frames, bands).
        levels_dbfs: level of each window.
        reply_to: topic that the ack goes to.
    """

    stretch: TensorStretch
    features: NDArray[np.float32]
    levels_dbfs: tuple[float, ...]
    reply_to: str

    CONTENT_TYPE: ClassVar[str] = "application/vnd.genre-edge.tensor"

    @classmethod
    def of(
        cls,
        chunk: PcmChunk,
        features: NDArray[np.float32],
        levels_dbfs: tuple[float, ...],
        recipe: str,
        recipe_digest: str,
        dtype: str = "float32",
    ) -> MelTensor:
        """Return the tensor that belongs to a chunk; features: (windows, frames, bands)."""
        stretch = TensorStretch(
            **chunk.stretch.model_dump(),
            recipe=recipe,
            recipe_digest=recipe_digest,
            dtype=dtype,
            frames=features.shape[1],
            bands=features.shape[2],
            levels_dbfs=",".join(f"{level:.2f}" for level in levels_dbfs),
        )
        return cls(stretch, features, levels_dbfs, chunk.reply_to)

    def to_message(self, topics: Topics) -> Message:
        """Return it as a PUBLISH."""
        little_endian = np.dtype(self.stretch.dtype).newbyteorder("<")
        return Message(
            topic=topics.mel(self.stretch.recipe, self.stretch.stream),
            payload=np.ascontiguousarray(self.features, dtype=little_endian).tobytes(),
            content_type=self.CONTENT_TYPE,
            response_topic=self.reply_to,
            correlation=self.stretch.chunk.encode(),
            properties=_properties(self.stretch),
        )

    @classmethod
    def from_message(cls, message: Message) -> MelTensor:
        """Read a PUBLISH; features come out as float32.

        Raises:
            ContractError: naming the field and the reason.
        """
        _check_type(message, cls.CONTENT_TYPE)
        stretch = _stretch(TensorStretch, message)
        shape = (stretch.windows, stretch.frames, stretch.bands)
        dtype = np.dtype(stretch.dtype).newbyteorder("<")
        if len(message.payload) != math.prod(shape) * dtype.itemsize:
            raise ContractError(f"payload has {len(message.payload)} bytes; {shape} of {stretch.dtype} has others")
        levels = tuple(float(level) for level in stretch.levels_dbfs.split(","))
        if len(levels) != stretch.windows:
            raise ContractError(f"user property levels_dbfs has {len(levels)} values for {stretch.windows} windows")
        features = np.frombuffer(message.payload, dtype=dtype).reshape(shape).astype(np.float32, copy=False)
        if not np.isfinite(features).all():
            raise ContractError("the tensor has values that are not finite")
        return cls(stretch, features, levels, message.response_topic or "")


def _check_type(message: Message, expected: str) -> None:
    if len(message.payload) > MAX_PAYLOAD_BYTES:
        raise ContractError(f"payload has {len(message.payload)} bytes, more than {MAX_PAYLOAD_BYTES}")
    if message.content_type != expected:
        raise ContractError(f"Content Type is {message.content_type!r}, not {expected!r}")


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


def again(chunk: PcmChunk, attempt: int) -> PcmChunk:
    """Return the chunk as it is sent for the attempt-th time; from MOST_ATTEMPTS on the number stays."""
    return replace(chunk, stretch=chunk.stretch.model_copy(update={"attempt": min(attempt, MOST_ATTEMPTS)}))
