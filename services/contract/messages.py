"""The contract's JSON messages: results, events, what plays now, ledgers, status; one flat object each.

Pure values: no socket, no paho. docs/contract/ holds the JSON Schema and the AsyncAPI document made from it
(tools/contract_documents.py); a test freezes every field name. Start at `Result`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from services.contract.topics import Service, StreamName
from services.text import MOST_REASON, clean

VERSION = "2"
"""Since 2 a result's `kind` may be speech or other: a reader must expect values that it does not know."""
TIMELINE_ID = r"^[0-9a-z]{0,32}$"
"""What a timeline is called: unique over time, so that no two windows ever share an id."""
Kind = Literal["music", "speech", "silence", "other", "unsure"]

Text = Annotated[str, BeforeValidator(lambda value: clean(value) if isinstance(value, str) else value)]
"""Text from outside, made harmless whoever sent or wrote the message."""
Reason = Annotated[str, BeforeValidator(lambda value: clean(value, MOST_REASON) if isinstance(value, str) else value)]


class ContractError(ValueError):
    """A message that is not as this module says; its text names the field and the reason."""


@dataclass(frozen=True)
class Message:
    """One MQTT 5 PUBLISH, as values: what `services/mqtt/client.py` sends and receives.

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

    id: str = Field(
        description="stream/timeline/epoch/first_sample/model: the same audio always has the same id, no other has."
    )
    stream: StreamName = Field(description="Name of the stream.")
    genre: str | None = Field(
        description="Most probable genre; null unless `kind` is 'music' or 'unsure': then there is none to name."
    )
    confidence: float = Field(
        ge=0,
        le=1,
        description="Calibrated probability of `genre`; where that is null, of `kind`, and 0 for 'silence'.",
    )
    kind: Kind = Field(
        description="'music': `genre` says which; 'unsure': music, but the best guess is too weak to act on; 'speech'; "
        "'other': neither music nor speech, such as applause or rain; 'silence': nothing to hear. More may come: take "
        "a value that you don't know for 'other'."
    )
    kinds: dict[str, float] | None = Field(
        None,
        description="Probability of music, speech and other; they sum to 1. null: the model can't tell them apart.",
    )
    sounds: dict[str, float] | None = Field(
        None,
        description="The few most probable classes of sound (AudioSet's names), each by itself, from 0.1 on, at most "
        "five, the most probable first. null: the model has no sound network.",
    )
    scores: dict[str, float] = Field(description="Calibrated probability of each genre if it is music; they sum to 1.")
    start_s: float = Field(ge=0, description="Start of the window in the stream, seconds.")
    end_s: float = Field(ge=0, description="End of the window in the stream, seconds.")
    observed_at: str = Field(
        description="Wall clock of the window's start, RFC 3339 UTC: EXT-X-PROGRAM-DATE-TIME, else its arrival."
    )
    epoch: int = Field(ge=0, description="Number of the stretch without a break that the window lies in.")
    padded: bool = Field(description="The stretch was shorter than a window and was repeated to fill it.")
    title: Text = Field(description="Title that the stream gives for this moment; '' where it gives none.")
    artist: Text = Field(description="Artist, likewise.")
    level_dbfs: float = Field(description="Level of the window, dB relative to a full-scale square wave.")
    model: str = Field(description="Name of the model.")
    model_version: str = Field(description="Version of the model.")
    published_at: str = Field(description="When this message was made, RFC 3339 UTC.")
    latency_ms: float = Field(ge=0, description="From the last byte of the window's segment to this message.")

    @property
    def timeline(self) -> str:
        """What `epoch` and `start_s` count on: the id without its last three parts."""
        return self.id.rsplit("/", 3)[0]


EventKind = Literal["started", "gap", "lost", "track", "ended", "error", "silent", "resumed", "report"]


class Event(Flat):
    """Something that happened to a stream (`genre/events`, QoS 1)."""

    kind: EventKind = Field(description="What happened.")
    stream: StreamName = Field(description="To which stream.")
    at: str = Field(description="When it was noticed, RFC 3339 UTC.")
    start_s: float = Field(0.0, ge=0, description="Where in the stream, seconds.")
    seconds: float = Field(0.0, ge=0, description="How much of the stream it concerns.")
    cause: Text = Field("", description="One word, e.g. http-404, behind, stale, no-answer.")
    reason: Reason = Field("", description="One sentence for a person.")
    stage: str = Field("", description="For 'silent': source, featurizer, inference or broker.")
    title: Text = Field("", description="For 'track'.")
    artist: Text = Field("", description="For 'track'.")
    numbers: dict[str, float] = Field(default_factory=dict, description="Figures that go with it.")


class Now(Flat):
    """What plays now, smoothed over the last 30 s (`genre/streams/<stream>/now`, retained)."""

    stream: StreamName = Field(description="Name of the stream.")
    genre: str | None = Field(
        description="Smoothed genre; null while nothing is known, nothing is to be heard, or it is no music."
    )
    confidence: float = Field(ge=0, le=1, description="Probability of the genre, or of the kind where that is null.")
    kind: Kind | None = Field(
        None,
        description="Smoothed kind of sound as in results, 'speech' while somebody talks; null while nothing is known.",
    )
    since: str = Field(description="Since when, RFC 3339 UTC.")
    title: Text = Field(description="Title, '' where unknown.")
    artist: Text = Field(description="Artist, '' where unknown.")
    state: Literal["playing", "silent", "stopped", "ended", "waiting", "paused"] = Field(
        description="'stopped': results ceased unexpectedly; 'waiting': none came yet, as after a start; 'paused': by "
        "a person."
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
    failed: Reason = Field("", description="Why the stream can't be heard at present; '' where it is heard.")
    timeline_id: str = Field(
        "",
        pattern=TIMELINE_ID,
        description="Identity of this timeline, part of its results' ids; another one where the ledger began at 0.",
    )

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
    details: dict[str, Text] = Field(default_factory=dict, description="E.g. model, backend, recipe.")


class Dead(Flat):
    """A message that cannot be processed (`genre/dead`, QoS 1); never the audio itself."""

    at: str = Field(description="When, RFC 3339 UTC.")
    service: Service = Field(description="Who gave up.")
    instance: str = Field(description="Which replica.")
    topic: str = Field(description="Where the message came from.")
    reason: Reason = Field(description="Why it cannot be processed.")
    chunk: str = Field(description="Which chunk it names; '' where that can't be read.")
    payload_bytes: int = Field(ge=0, description="Size of its payload.")
    payload_sha256: str = Field(description="SHA-256 of its payload.")
