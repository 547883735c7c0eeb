"""Every setting with its unit, default and one sentence: the single source of defaults, docs and JSON Schema.

One TOML file, environment overrides (GENRE_BROKER__HOST=...), options on top. Secrets are read from files named here,
never from the file itself. Start at `Settings`; each section is a class of its own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from services import environment
from services.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, description="letters, digits, '_', '.', '-'; at most 64")]
_URL = TypeAdapter(HttpUrl)


def _http_url(text: str) -> str:
    """Check that text is an http or https URL and return it as it was written."""
    _URL.validate_python(text)
    return text


Url = Annotated[str, AfterValidator(_http_url)]
Port = Annotated[int, Field(ge=1, le=65535)]
BROKER_SCHEMES = {"mqtt": 1883, "mqtts": 8883}
"""And their ports, where a URL names none."""


class Section(BaseModel):
    """A table of the configuration file; a key that is not listed is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Broker(Section):
    """Where Mosquitto is and how to log in."""

    host: str = Field(
        "127.0.0.1",
        description="Host of the MQTT 5 broker or cluster; also as mqtt://HOST[:PORT] or, for TLS, mqtts://HOST[:PORT].",
    )
    port: Port = Field(1883, description="Port of the broker.")
    tls: bool = Field(
        False, description="TLS, trusting the system's CAs where ca_file is unset; mqtts:// and ca_file turn it on."
    )
    root: Name = Field("genre", description="First level of every topic.")
    username: str | None = Field(None, description="User name, where the broker asks for one.")
    password_file: Path | None = Field(None, description="File that holds the password and nothing else.")
    ca_file: Path | None = Field(None, description="CA certificate (PEM) that signed the broker's; turns TLS on.")
    keepalive_s: int = Field(
        10, ge=2, le=3600, description="MQTT keep-alive; a silent client is gone after 1.5 times this."
    )
    session_expiry_s: int = Field(
        10, ge=0, le=86_400, description="How long the broker keeps a worker's share while the worker is away."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_url(cls, values: Any) -> Any:
        """Take the URL of a broker apart."""
        if not isinstance(values, dict) or "://" not in str(values.get("host", "")):
            return values
        url = urlsplit(str(values["host"]))
        if url.scheme not in BROKER_SCHEMES or not url.hostname:
            raise ValueError("a broker's URL is mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
        if url.username or url.password or url.path.strip("/") or url.query:
            raise ValueError("a broker's URL holds host and port only; the user goes to username and password_file")
        port = url.port or values.get("port") or BROKER_SCHEMES[url.scheme]
        return {**values, "host": url.hostname, "port": port, "tls": values.get("tls") or url.scheme == "mqtts"}


class Stream(Section):
    """One HLS stream to listen to."""

    name: Name = Field(description="Its name in topics, results and the ledger.")
    url: Url = Field(description="http or https URL of a multivariant or media playlist.")
    paused: bool = Field(False, description="Keep it in the list without listening.")
    prefer: str | None = Field(
        None,
        description="Rendition to take instead of the cheapest: NAME, LANGUAGE or GROUP-ID of EXT-X-MEDIA; or 'best'.",
    )
    headers_file: Path | None = Field(
        None, description="File with extra HTTP request headers, one 'Name: value' a line."
    )


class Retry(Section):
    """How often one kind of request is tried, and how long to wait in between (doubling, with jitter)."""

    attempts: int = Field(ge=1, le=100, description="Most tries of one request, the first included.")
    first_wait_s: float = Field(0.25, gt=0, description="Wait after the first failure; doubles each time.")
    longest_wait_s: float = Field(8.0, gt=0, description="Longest such wait.")


class Hls(Section):
    """How the fetcher reads HTTP Live Streams."""

    connect_timeout_s: float = Field(5.0, gt=0, description="Longest wait for a TCP and TLS connection.")
    read_timeout_s: float = Field(10.0, gt=0, description="Longest silence within a response.")
    ca_file: Path | None = Field(
        None, description="CA certificates (PEM) to trust for https instead of the default set."
    )
    allow_private: bool = Field(
        False, description="Let a playlist from a public host lead to loopback or private addresses."
    )
    request_timeout_s: float = Field(60.0, gt=0, description="Longest time of a whole response, however it drips.")
    redirects: int = Field(8, ge=0, le=50, description="Most redirects in a row.")
    playlist_limit_bytes: int = Field(8 << 20, ge=1 << 10, description="Largest playlist, after gzip.")
    key_limit_bytes: int = Field(1 << 10, ge=16, description="Largest response to a key request (a key is 16 bytes).")
    init_limit_bytes: int = Field(4 << 20, ge=1 << 10, description="Largest initialization section (EXT-X-MAP).")
    segment_limit_bytes: int = Field(64 << 20, ge=1 << 16, description="Largest media segment, after gzip.")
    playlist_retry: Retry = Field(
        Retry(attempts=4), description="Tries of a playlist at the start; a live list that once worked is tried on."
    )
    key_retry: Retry = Field(Retry(attempts=4), description="Tries of a decryption key.")
    segment_retry: Retry = Field(Retry(attempts=4), description="Tries of a media segment or initialization section.")
    live_start_targets: float = Field(
        3.0, ge=1, description="Start a live stream this many target durations before the end of its list."
    )
    shortest_reload_s: float = Field(
        0.5, gt=0, description="Least time between two loads of a live list, whatever its target duration says."
    )
    live_behind_limit_s: float = Field(
        60.0, ge=1, description="Further than this behind the start point of a live list, skip to that point."
    )
    stall_after_targets: float = Field(
        3.0,
        ge=1,
        description="A live list with nothing new for this many target durations is reported as stalled.",
    )
    dead_after_s: float = Field(
        3600.0, gt=0, description="A stream that gave nothing for this long is over: stalled list or failing requests."
    )
    min_audio_bps: int = Field(
        40_000, ge=0, description="An audio-only variant below this many bit/s is taken only where there is none above."
    )
    gap_tolerance_s: float = Field(
        0.1, gt=0, description="A jump of timestamps from here on is a gap and starts a new epoch; below, it is jitter."
    )
    title_from_extinf: bool = Field(True, description="Take 'Artist - Title' after EXTINF as what plays.")


class Fetcher(Section):
    """The fetcher's share of the guarantee: what may be in flight, and for how long."""

    window_hop: int = Field(33_000, ge=1_000, le=66_000, description="Samples between windows (33,000 = 50 % overlap).")
    windows_per_chunk: int = Field(
        4, ge=1, le=13, description="Most windows in one PCM chunk (a chunk stays under 1 MB)."
    )
    credits_per_stream: int = Field(8, ge=1, le=1_000, description="Most unacknowledged chunks of one stream.")
    credits: int = Field(512, ge=1, le=10_000, description="Most unacknowledged chunks of this fetcher.")
    ack_timeout_s: float = Field(3.0, gt=0, description="Shortest wait for a chunk's ack before it is sent again.")
    ack_timeout_max_s: float = Field(60.0, gt=0, description="Longest such wait.")
    confirm_s: float = Field(
        1.0,
        ge=0,
        description="An ack counts once the broker has outlived it by this long; if it dies before, the chunk is sent "
        "again, for results that the broker still held are gone with it.",
    )
    give_up_after: int = Field(
        20, ge=1, description="A chunk overtaken this often by later ones that succeeded is given up as lost."
    )
    max_age_s: float = Field(
        60.0, gt=0, description="Live streams only: a chunk heard longer ago than this is dropped and counted as lost."
    )
    cursor_interval_s: float = Field(2.0, ge=0, description="Least time between two writes of a stream's cursor.")
    retry_failed_s: float = Field(
        30.0, ge=0, description="A stream that failed is tried again after this long; 0 leaves it failed."
    )
    silent_after_s: float = Field(30.0, gt=0, description="No result of a stream for this long becomes an event.")


class Featurizer(Section):
    """Which features the featurizer makes."""

    recipe: Name | None = Field(None, description="Id of a recipe; unset takes the one in the model's card.")
    dtype: Literal["float32", "float16"] = Field("float32", description="Type of the tensors on the bus.")


class Inference(Section):
    """Which model answers, and on which engine."""

    model: Name = Field("musicnn", description="Folder under models/ that answers.")
    backend: Literal["triton", "onnx"] = Field("triton", description="Triton over gRPC, or ONNX Runtime in process.")
    triton_url: str = Field(
        "127.0.0.1:8001", pattern=r"^[^/\s]+:\d+$", description="host:port of Triton's gRPC endpoint."
    )
    models_dir: Path = Field(Path("models"), description="Folder of models with their cards.")
    deadline_s: float = Field(2.0, gt=0, description="Longest wait for one answer of Triton.")
    wait_for_reader: bool = Field(
        False, description="Hold results until somebody is subscribed to them, e.g. after a restart of the broker."
    )


class Worker(Section):
    """What featurizer and inference replicas share."""

    receive_maximum: int = Field(
        4, ge=1, le=1_000, description="MQTT 5 Receive Maximum: messages in one worker's hand."
    )
    drain_s: float = Field(5.0, gt=0, description="On SIGTERM, finish what is in hand within this time.")


class Paths(Section):
    """Folders that services write to."""

    state_dir: Path = Field(Path("state"), description="Cursors and history; the fetcher must be able to write here.")


class Log(Section):
    """What goes to the log and how."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is written.")
    json_lines: bool = Field(False, description="One JSON object a line, for journald and log collectors.")


class Metrics(Section):
    """Prometheus metrics of each service."""

    host: str = Field("127.0.0.1", description="Address the /metrics endpoint listens on.")
    port: int = Field(0, ge=0, le=65535, description="Its port; 0 turns the endpoint off.")


class Dashboard(Section):
    """The web page, and what it may write on the bus; it writes nothing unless told to."""

    host: str = Field("127.0.0.1", description="Address the page listens on; 0.0.0.0 is every address.")
    port: Port = Field(8080, description="Its port.")
    hosts: tuple[str, ...] = Field(
        (), description="Further names by which browsers call this machine, e.g. 'genre.local'; others are refused."
    )
    password_file: Path | None = Field(
        None, description="File with the password for adding, pausing and removing streams; unset turns that off."
    )
    login_to_view: bool = Field(False, description="Ask for the password for looking, too.")
    history_days: int = Field(30, ge=1, le=3650, description="How long the history is kept, days.")
    history_limit_mb: int = Field(512, ge=1, le=1_000_000, description="Largest history; the oldest hours go first.")
    stopped_after_s: float = Field(30.0, ge=5, description="No result of a stream for this long raises the alarm.")
    spectrogram: bool = Field(
        True, description="Read the tensors of a stream while somebody looks at its spectrogram; needs that right."
    )
    fleet: bool = Field(
        False,
        description="[broker] is upstream of a fleet: show every box's streams, named <box>/<stream>; writes nothing.",
    )
    publish_now: bool = Field(False, description="Write what plays now to <root>/streams/<stream>/now, retained.")
    publish_flat: bool = Field(False, description="Write single numbers to <root>/flat/<stream>/..., retained.")
    home_assistant: bool = Field(False, description="Announce each stream to Home Assistant; turns publish_now on.")
    home_assistant_prefix: Name = Field("homeassistant", description="Home Assistant's discovery prefix.")


class Settings(Section):
    """The whole configuration."""

    broker: Broker = Broker()
    streams: tuple[Stream, ...] = ()
    hls: Hls = Hls()
    fetcher: Fetcher = Fetcher()
    featurizer: Featurizer = Featurizer()
    worker: Worker = Worker()
    inference: Inference = Inference()
    dashboard: Dashboard = Dashboard()
    paths: Paths = Paths()
    log: Log = Log()
    metrics: Metrics = Metrics()


def load(path: Path | None = None) -> Settings:
    """Read the configuration: file, then environment.

    Args:
        path: the TOML file; None takes $GENRE_CONFIG, or defaults alone where that is not set.

    Raises:
        UsageError: naming the key, the value and what is allowed.
    """
    if path is None and os.environ.get("GENRE_CONFIG"):
        path = Path(os.environ["GENRE_CONFIG"])
    source = str(path) if path else "configuration"
    try:
        values = _read(path) if path else {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(source, f"can't be read ({error})", "give --config a readable TOML file") from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise UsageError(source, f"is not TOML: {error}", "mend that line") from error
    return checked(environment.over(values, os.environ, Settings), source)


def checked(values: dict[str, Any], source: str) -> Settings:
    """Return settings made of values alone.

    Raises:
        UsageError: naming the key, the value and what is allowed.
    """
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise UsageError(source, describe(error), "see docs/configuration.md") from error
    names = [stream.name for stream in settings.streams]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageError(
            source, f"streams: the name {sorted(twice)[0]!r} stands twice", "give each stream its own name"
        )
    return settings


def _read(path: Path) -> dict[str, Any]:
    """Read TOML, or JSON as `genre up` writes it for its children."""
    text = path.read_text(encoding="utf-8")
    values: dict[str, Any] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    return values


def describe(error: ValidationError) -> str:
    """Say of each wrong value its key, what it is and what is allowed, on one line."""
    parts = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        shown = "" if item["type"] in ("missing", "extra_forbidden") else f" = {item['input']!r}"[:120]
        message = _not_listed(item["loc"]) if item["type"] == "extra_forbidden" else item["msg"]
        parts.append(f"{key}{shown}: {message}")
    return "; ".join(parts)


def section_at(loc: Sequence[int | str]) -> type[BaseModel] | None:
    """Return the section that a place in the configuration lies in, e.g. ("streams", 0) -> Stream."""
    section: type[BaseModel] = Settings
    for part in loc:
        if isinstance(part, int):
            continue
        if part not in section.model_fields:
            return None
        kind = section.model_fields[part].annotation
        inner = [each for each in (kind, *get_args(kind)) if isinstance(each, type) and issubclass(each, BaseModel)]
        if not inner:
            return None
        section = inner[0]
    return section


def _not_listed(loc: tuple[int | str, ...]) -> str:
    """Say of an unknown key which one may be meant, or which there are."""
    section = section_at(loc[:-1])
    if section is None:
        return "is not known here"
    near = get_close_matches(str(loc[-1]), section.model_fields, n=1)
    return (
        f"is not a setting; did you mean {near[0]!r}?"
        if near
        else (f"is not a setting; allowed here: {', '.join(section.model_fields)}")
    )
