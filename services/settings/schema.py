"""Every setting with its unit, default and one sentence: the single source of defaults, docs and JSON Schema.

One TOML file, environment overrides (GENRE_BROKER__HOST=...), options on top. Secrets are read from files named here,
never from the file itself. Start at `Settings`; each section is a class of its own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    TypeAdapter,
    model_validator,
)

from services.settings import broker_address, web_address

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, description="letters, digits, '_', '.', '-'; at most 64")]
LEVELS_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*$"
Levels = Annotated[
    str,
    Field(
        pattern=LEVELS_PATTERN,
        max_length=128,
        description="levels of a topic, each of letters, digits, '_', '.', '-', with '/' in between",
    ),
]
_URL = TypeAdapter(HttpUrl)


def _http_url(text: str) -> str:
    """Check that text is an http or https URL and return it as it was written, without blanks around it."""
    _URL.validate_python(text)
    return text.strip()


Url = Annotated[str, AfterValidator(_http_url)]


def _proxy(text: str) -> str:
    """Check that text names an HTTP proxy, or none."""
    return text if text == "none" else _http_url(text)


Proxy = Annotated[str, AfterValidator(_proxy)]
Port = Annotated[int, Field(ge=1, le=65535)]


def _host_port(text: str) -> str:
    """Check that text is host:port and return it."""
    host, _, port = text.rpartition(":")
    named = re.fullmatch(r"[^/\s:]+|\[[^/\s]+\]", host)
    if not named or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError("is no host:port, e.g. 127.0.0.1:8001 or [::1]:8001")
    return text


HostPort = Annotated[str, AfterValidator(_host_port)]


class Section(BaseModel):
    """A table of the configuration file; a key that is not listed is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Broker(Section):
    """Where Mosquitto is and how to log in."""

    host: str = Field(
        "127.0.0.1",
        description="Host of the MQTT 5 broker or cluster, or HOST:PORT, [IPv6]:PORT, mqtt://HOST[:PORT]; mqtts:// is "
        "TLS, ws:// and wss:// are WebSockets.",
    )
    port: Port = Field(1883, description="Port of the broker; unset, 8883 with TLS, 80 and 443 with WebSockets.")
    tls: bool = Field(
        False,
        description="TLS, trusting the system's CAs where ca_file is unset; mqtts://, wss://, ca_file and "
        "certificate_file turn it on.",
    )
    transport: Literal["tcp", "websockets"] = Field(
        "tcp", description="MQTT over TCP, or over WebSockets where only HTTP gets through; ws:// and wss:// set it."
    )
    websockets_path: str = Field(
        "/mqtt", pattern=r"^/[!-~]*$", description="Path of the broker's WebSockets, as in ws://HOST/PATH."
    )
    root: Levels = Field("genre", description="First level of every topic, or levels: 'home/genre'.")
    username: str | None = Field(None, description="User name, where the broker asks for one.")
    password_file: Path | None = Field(None, description="File that holds the password and nothing else.")
    ca_file: Path | None = Field(None, description="CA certificate (PEM) that signed the broker's; turns TLS on.")
    certificate_file: Path | None = Field(
        None, description="Client certificate (PEM), where the broker asks for one; turns TLS on."
    )
    key_file: Path | None = Field(
        None, description="Its private key (PEM, no passphrase); unset where certificate_file holds both."
    )
    keepalive_s: int = Field(
        10, ge=2, le=3600, description="MQTT keep-alive; a silent client is gone after 1.5 times this."
    )
    session_expiry_s: int = Field(
        10, ge=0, le=86_400, description="How long the broker keeps a worker's share while the worker is away."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_address(cls, values: Any) -> Any:
        """Take an address apart, and choose the port that belongs to it where none is given."""
        if not isinstance(values, dict):
            return values
        host = values.get("host", "127.0.0.1")
        merged = {**values, **(broker_address.read(host) if isinstance(host, str) else {})}
        if merged.get("port") is None:
            tls = merged.get("tls") in (True, "true", "1") or any(
                merged.get(key) for key in ("ca_file", "certificate_file")
            )
            key = ("websockets" if merged.get("transport") == "websockets" else "tcp", tls)
            merged["port"] = broker_address.DEFAULT_PORTS[key]
        return merged

    @model_validator(mode="after")
    def _whole_certificate(self) -> Broker:
        if self.key_file is not None and self.certificate_file is None:
            raise ValueError("key_file: there is no certificate_file to go with it")
        return self

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.tls or self.ca_file is not None or self.certificate_file is not None


class Stream(Section):
    """One stream to listen to: HLS, or a station that is one endless response."""

    name: Name = Field(description="Its name in topics, results and the ledger.")
    url: Url = Field(
        description="http or https URL of an HLS playlist, a station's audio, or a .m3u, .pls, .xspf or .asx of one."
    )
    paused: bool = Field(False, description="Keep it in the list without listening.")
    prefer: str | None = Field(
        None,
        description="Rendition to take instead of the cheapest: NAME, LANGUAGE or GROUP-ID of EXT-X-MEDIA; or 'best'.",
    )
    headers_file: Path | None = Field(
        None,
        description="File with extra HTTP request headers, one 'Name: value' a line; they go to the URL's own scheme, "
        "host and port, and Accept, Accept-Language, Origin, Referer and User-Agent everywhere.",
    )
    client_cert_file: Path | None = Field(
        None, description="Own certificate (PEM) to show to the URL's own host where that asks for one."
    )
    client_key_file: Path | None = Field(
        None, description="Its key (PEM, without a password), where client_cert_file does not hold it."
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
        False, description="Let a stream whose URL names a public host lead to loopback or private addresses."
    )
    proxy: Proxy | None = Field(
        None,
        description="HTTP proxy for all streams, e.g. http://proxy.lan:3128, or 'none'. Unset: what HTTP_PROXY, "
        "HTTPS_PROXY, ALL_PROXY and NO_PROXY say. This machine itself is never asked through a proxy.",
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
        3600.0,
        gt=0,
        description="A stream whose list is stalled, or whose requests fail, for this long has failed: that is an "
        "alarm, and it is tried again until it is heard. Only ENDLIST ends a stream.",
    )
    ended_reload_s: float = Field(
        60.0,
        ge=0,
        description="A list that ended is looked at again, at first after 5 s and at the longest this often: encoders "
        "that were restarted write on. 0: never. Lists of type VOD are not looked at again.",
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
        30.0,
        ge=0,
        description="A stream that failed is tried again after this long, for ever; the wait doubles up to eight times "
        "it. 0 leaves it failed.",
    )
    silent_after_s: float = Field(30.0, gt=0, description="No result of a stream for this long becomes an event.")


class Featurizer(Section):
    """Which features the featurizer makes."""

    recipe: Name | None = Field(None, description="Id of a recipe; unset takes the one in the model's card.")
    dtype: Literal["float32", "float16"] = Field("float32", description="Type of the tensors on the bus.")


class Inference(Section):
    """Which model answers, and on which engine."""

    model: Name = Field("genre-sounds", description="Folder under models/ that answers.")
    backend: Literal["triton", "onnx"] = Field("triton", description="Triton over gRPC, or ONNX Runtime in process.")
    triton_url: HostPort = Field("127.0.0.1:8001", description="host:port of Triton's gRPC endpoint.")
    models_dir: Path = Field(Path("models"), description="Folder of models with their cards.")
    deadline_s: float = Field(2.0, gt=0, description="Longest wait for one answer of Triton.")
    wait_for_reader: bool | Annotated[str, Field(pattern=r"^[a-z]+/[^+#/]+$")] = Field(
        False,
        description="Hold results until a reader that keeps them is online, e.g. after a restart of the broker: true "
        "is any dashboard or 'genre up', 'dashboard/1' that one; who is merely subscribed does not count.",
    )

    @property
    def models_path(self) -> Path:
        """The folder that holds the model: models_dir, or where that is relative and does not, the program's own."""
        if self.models_dir.is_absolute() or (self.models_dir / self.model).is_dir():
            return self.models_dir
        return Path(__file__).resolve().parents[2] / self.models_dir


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

    host: str = Field(
        "127.0.0.1", description="Address the page listens on; 0.0.0.0 is every IPv4 address, '::' every address."
    )
    port: Port = Field(8080, description="Its port.")
    hosts: tuple[Annotated[str, AfterValidator(web_address.browser_host)], ...] = Field(
        (),
        description="Further names by which browsers call this machine, e.g. 'genre.local', or the URL they open; "
        "others are refused.",
    )
    base_path: Annotated[str, AfterValidator(web_address.base_path)] = Field(
        "", description="Path below which a proxy shows the page, e.g. '/genre'; X-Forwarded-Prefix goes before it."
    )
    frame_ancestors: tuple[Annotated[str, AfterValidator(web_address.frame_ancestor)], ...] = Field(
        (),
        description="Which pages may show this one in a frame: 'self' or origins, e.g. 'http://homeassistant.local:8123'.",
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
    home_assistant_prefix: Levels = Field("homeassistant", description="Home Assistant's discovery prefix.")
    box: Name | None = Field(
        None,
        description="Name of this box in Home Assistant's ids, so that two boxes never share one; unset takes the "
        "machine's host name.",
    )


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
