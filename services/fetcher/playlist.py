"""What an HLS playlist says (RFC 8216, section 4), as values: text and its URL in, records out.

Not the live merging (live.py), not the choice of a rendition (choice.py), no network. m3u8 reads the tags; before it,
playlist_lines.py mends or leaves out every line that breaks the grammar. Start at `parse`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from urllib.parse import urljoin

import m3u8

from services.fetcher.playlist_lines import TELLING, defined, mended, whole_target

MOST_SEGMENTS = 100_000


class PlaylistError(ValueError):
    """The text is not a playlist; says in what respect."""


@dataclass(frozen=True)
class ByteRange:
    """A sub-range of a resource (EXT-X-BYTERANGE)."""

    length: int
    offset: int


@dataclass(frozen=True)
class Key:
    """How media is encrypted (EXT-X-KEY); iv is None where the media sequence number serves as one."""

    method: str
    uri: str
    iv: bytes | None
    keyformat: str


@dataclass(frozen=True)
class Map:
    """A media initialization section (EXT-X-MAP)."""

    uri: str
    byterange: ByteRange | None
    key: Key | None


@dataclass(frozen=True)
class Segment:
    """A media segment; media_sequence and discontinuity_sequence are its own numbers, not the list's."""

    media_sequence: int
    discontinuity_sequence: int
    uri: str
    duration: float
    title: str = ""
    byterange: ByteRange | None = None
    key: Key | None = None
    map: Map | None = None
    gap: bool = False
    program_date_time: float | None = None


@dataclass(frozen=True)
class MediaPlaylist:
    """A media playlist: its segments in order, and what it says of itself."""

    uri: str
    target_duration: float
    media_sequence: int
    segments: tuple[Segment, ...]
    endlist: bool
    playlist_type: str | None = None
    time_offset: float | None = None
    hold_back: float | None = None

    @property
    def live(self) -> bool:
        """Say whether segments may still come and old ones may go."""
        return not self.endlist and self.playlist_type != "VOD"

    @property
    def next_media_sequence(self) -> int:
        """Return the number that the next segment will have."""
        return self.segments[-1].media_sequence + 1 if self.segments else self.media_sequence


@dataclass(frozen=True)
class Variant:
    """A variant stream (EXT-X-STREAM-INF); bandwidth in bit/s, 0 where the list does not say."""

    uri: str
    bandwidth: int
    codecs: tuple[str, ...]
    resolution: bool
    audio: str | None


@dataclass(frozen=True)
class Rendition:
    """An audio rendition (EXT-X-MEDIA, TYPE=AUDIO); uri is None where the variant itself carries it."""

    group_id: str
    name: str
    language: str
    uri: str | None
    default: bool
    autoselect: bool


@dataclass(frozen=True)
class MultivariantPlaylist:
    """A multivariant playlist: the same content in several variants."""

    uri: str
    variants: tuple[Variant, ...]
    renditions: tuple[Rendition, ...]


def parse(text: str, uri: str, variables: dict[str, str] | None = None) -> MediaPlaylist | MultivariantPlaylist:
    """Read a playlist.

    Args:
        text: what the server sent.
        uri: where it came from after redirects; relative URIs resolve against it.
        variables: those of the multivariant playlist, for EXT-X-DEFINE:IMPORT.

    Raises:
        PlaylistError: it is HTML, empty, without EXTM3U, or has more than MOST_SEGMENTS segments.
    """
    text = text.lstrip("\ufeff")
    if not TELLING.search(text):
        kind = (
            "an HTML page"
            if re.match(r"\s*<", text)
            else "empty"
            if not text.strip()
            else "not a playlist (no #EXTM3U)"
        )
        raise PlaylistError(f"is {kind}")
    lines = list(mended(defined(text.splitlines(), uri, variables or {})))
    if sum(not line.startswith("#") for line in lines) > MOST_SEGMENTS:
        raise PlaylistError(f"has more than {MOST_SEGMENTS:,} segments")
    if "#EXT-X-I-FRAMES-ONLY" in lines:
        raise PlaylistError("lists only video I-frames, no audio")
    try:
        parsed = m3u8.loads("\n".join(whole_target(line) for line in lines), uri=uri)
    except Exception as error:  # the last resort: whatever a library does with hostile text, it is a bad playlist
        raise PlaylistError(f"can't be read as a playlist ({type(error).__name__}: {error})") from error
    return _multivariant(parsed, uri) if parsed.is_variant else _media(parsed, uri, lines)


def _resolved(uri: str, base: str) -> str:
    """Resolve a URI against the list's own; one that is no URI stays as it is and fails when it is asked for."""
    try:
        return urljoin(base, uri)
    except ValueError:
        return uri


def _unix(moment: datetime | None) -> float | None:
    """Return Unix time; a date without a zone is UTC."""
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _byterange(text: str | None, after: int) -> ByteRange | None:
    """Read "length[@offset]"; without an offset the range begins where the previous one ended."""
    if not text:
        return None
    length, _, offset = text.partition("@")
    return ByteRange(int(length), int(offset) if offset else after)


def _key(key: m3u8.Key | None, uri: str) -> Key | None:
    """Turn m3u8's key into ours; METHOD=NONE is no key."""
    if key is None or key.method in (None, "NONE"):
        return None
    iv = int(key.iv, 16).to_bytes(16, "big") if key.iv else None
    return Key(key.method, _resolved(key.uri, uri) if key.uri else "", iv, key.keyformat or "identity")


def _media(parsed: m3u8.M3U8, uri: str, lines: list[str]) -> MediaPlaylist:
    """Number the segments of a media playlist and resolve what they refer to."""
    skipped = next((int(line.rpartition("=")[2]) for line in lines if line.startswith("#EXT-X-SKIP:")), 0)
    first = (parsed.media_sequence or 0) + skipped
    discontinuity = parsed.discontinuity_sequence or 0
    targets = [float(line.partition(":")[2]) for line in lines if line.startswith("#EXT-X-TARGETDURATION:")]
    longest = max((segment.duration or 0.0 for segment in parsed.segments), default=0.0)
    target = (targets[-1] if targets else 0.0) or longest or 10.0
    segments: list[Segment] = []
    init: Map | None = None
    end = 0
    for index, segment in enumerate(s for s in parsed.segments if s.uri):
        discontinuity += bool(segment.discontinuity)
        byterange = _byterange(segment.byterange, end)
        end = byterange.offset + byterange.length if byterange else 0
        section = segment.init_section
        if section is None:
            init = None
        else:
            place = _resolved(section.uri, uri), _byterange(section.byterange, 0)
            if init is None or (init.uri, init.byterange) != place:
                # Encrypted with the key in force where the MAP stands: that of the first segment it serves.
                init = Map(*place, _key(segment.key, uri))
        segments.append(
            Segment(
                media_sequence=first + index,
                discontinuity_sequence=discontinuity,
                uri=_resolved(segment.uri, uri),
                duration=min(float(segment.duration or 0.0), 86_400.0),
                title=segment.title or "",
                byterange=byterange,
                key=_key(segment.key, uri),
                map=init,
                gap=bool(segment.gap_tag),
                program_date_time=_unix(segment.current_program_date_time),
            )
        )
    return MediaPlaylist(
        uri=uri,
        target_duration=min(target, 3600.0),
        media_sequence=first - skipped,
        segments=tuple(segments),
        endlist=bool(parsed.is_endlist),
        playlist_type=(parsed.playlist_type or "").upper() or None,
        time_offset=parsed.start.time_offset if parsed.start else None,
        hold_back=parsed.server_control.hold_back if parsed.server_control else None,
    )


def _multivariant(parsed: m3u8.M3U8, uri: str) -> MultivariantPlaylist:
    """Keep of a multivariant playlist what the choice of audio needs."""
    variants = tuple(
        Variant(
            uri=_resolved(playlist.uri, uri),
            bandwidth=int(playlist.stream_info.bandwidth or 0),
            codecs=tuple(c.strip() for c in (playlist.stream_info.codecs or "").split(",") if c.strip()),
            resolution=playlist.stream_info.resolution is not None,
            audio=playlist.stream_info.audio,
        )
        for playlist in parsed.playlists
        if playlist.uri
    )
    renditions = tuple(
        Rendition(
            group_id=media.group_id or "",
            name=media.name or "",
            language=media.language or "",
            uri=_resolved(media.uri, uri) if media.uri else None,
            default=media.default == "YES",
            autoselect=media.autoselect == "YES",
        )
        for media in parsed.media
        if media.type == "AUDIO"
    )
    return MultivariantPlaylist(uri, variants, renditions)
