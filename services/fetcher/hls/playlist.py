"""What an HLS playlist says (RFC 8216, section 4), as values: text and its URL in, records out.

Not the live merging (reload.py), not the choice of a rendition (rendition.py), no network. m3u8 reads the tags; before
it, playlist_lines.py repairs or leaves out every line that breaks the grammar. Start at `parse`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache
from urllib.parse import urljoin

import m3u8

from services.fetcher.hls.playlist_lines import TELLING, attributes_of, defined, lines_of, repaired, whole_target
from services.fetcher.segment import ByteRange, Key, Map, Segment

OPAQUE_SCHEMES = ("data:", "urn:", "skd:")
COLON_IN_NAME = re.compile(r"(?!https?:)[A-Za-z][A-Za-z0-9+.-]*:(?!//)")
# Names that resolve by being appended: what urljoin does for each of them was a sixth of reading a list.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+(?:[./][A-Za-z0-9_-]+)*(?:\?[A-Za-z0-9_=&-]+)?")
MOST_SEGMENTS = 100_000
DESCRIBES_VIDEO = "public.accessibility.describes-video"
"""Of EXT-X-MEDIA's CHARACTERISTICS: speech over the programme, for those who don't see it."""


class PlaylistError(ValueError):
    """The text is not a playlist; says in what respect."""


@dataclass(frozen=True)
class MediaPlaylist:
    """A media playlist: its segments in order, and what it says of itself.

    Attributes:
        skipped: segments that a delta update leaves out (EXT-X-SKIP).
        unmapped, unkeyed: how many segments stand before the first EXT-X-MAP and EXT-X-KEY.
        renumbered: what was added to its segments' numbers, because they contradicted their names.
    """

    uri: str
    target_duration: float
    media_sequence: int
    segments: tuple[Segment, ...]
    endlist: bool
    playlist_type: str | None = None
    time_offset: float | None = None
    hold_back: float | None = None
    skipped: int = 0
    unmapped: int = 0
    unkeyed: int = 0
    renumbered: int = 0


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
    describes_video: bool = False


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
    lines = list(repaired(defined(lines_of(text), uri, variables or {})))
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
    """Resolve a URI against the list's own; one that is no URI stays as it is and fails when it is asked for.

    A backslash is a slash, as in browsers; what stands before a colon in a file's name (seg-12:30:05.ts) is no scheme.
    """
    if _PLAIN_NAME.fullmatch(uri):
        return _folder(base) + uri
    if not uri.lower().startswith(OPAQUE_SCHEMES):
        path, mark, query = uri.partition("?")
        uri = path.replace("\\", "/") + mark + query
        if COLON_IN_NAME.match(uri):
            uri = "./" + uri
    try:
        return urljoin(base, uri)
    except ValueError:
        return uri


@lru_cache(1_024)
def _folder(base: str) -> str:
    """Return what stands before a plain name that is resolved against a list's URI."""
    try:
        return urljoin(base, "0")[:-1]
    except ValueError:
        return ""


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


def _key(attributes: dict[str, str], uri: str) -> Key | None:
    """Read the attributes of EXT-X-KEY; METHOD=NONE is no key."""
    if attributes["METHOD"] == "NONE":
        return None
    iv = int(attributes["IV"], 16).to_bytes(16, "big") if "IV" in attributes else None
    named = attributes.get("URI", "")
    return Key(
        attributes["METHOD"], _resolved(named, uri) if named else "", iv, attributes.get("KEYFORMAT") or "identity"
    )


@dataclass
class _InForce:
    """What holds for a segment from the tags before it, and how many tags of each kind there were."""

    key: Key | None = None
    map: Map | None = None
    keys: int = 0
    maps: int = 0


def _in_force(lines: list[str], uri: str) -> list[_InForce]:
    """Return for each segment the key and the map in force.

    A map is encrypted with the key in force where it stands (RFC 8216, 4.3.2.5), which need not be its segments' key.
    """
    found, now = [], _InForce()
    for line in lines:
        if line.startswith("#EXT-X-KEY:"):
            now = replace(now, key=_key(attributes_of(line), uri), keys=now.keys + 1)
        elif line.startswith("#EXT-X-MAP:"):
            attributes = attributes_of(line)
            span = _byterange(attributes.get("BYTERANGE"), 0)
            now = replace(now, map=Map(_resolved(attributes["URI"], uri), span, now.key), maps=now.maps + 1)
        elif not line.startswith("#"):
            found.append(now)
    return found


def _media(parsed: m3u8.M3U8, uri: str, lines: list[str]) -> MediaPlaylist:
    """Number the segments of a media playlist and resolve what they refer to."""
    skipped = next((int(line.rpartition("=")[2]) for line in lines if line.startswith("#EXT-X-SKIP:")), 0)
    first = (parsed.media_sequence or 0) + skipped
    discontinuity = parsed.discontinuity_sequence or 0
    targets = [float(line.partition(":")[2]) for line in lines if line.startswith("#EXT-X-TARGETDURATION:")]
    longest = max((segment.duration or 0.0 for segment in parsed.segments), default=0.0)
    target = (targets[-1] if targets else 0.0) or longest or 10.0
    segments: list[Segment] = []
    in_force = _in_force(lines, uri)
    end = 0
    for index, segment in enumerate(s for s in parsed.segments if s.uri):
        discontinuity += bool(segment.discontinuity)
        byterange = _byterange(segment.byterange, end)
        end = byterange.offset + byterange.length if byterange else 0
        segments.append(
            Segment(
                media_sequence=first + index,
                discontinuity_sequence=discontinuity,
                uri=_resolved(segment.uri, uri),
                duration=min(float(segment.duration or 0.0), 86_400.0),
                title=segment.title or "",
                byterange=byterange,
                key=in_force[index].key,
                map=in_force[index].map,
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
        skipped=skipped,
        unmapped=sum(not state.maps for state in in_force),
        unkeyed=sum(not state.keys for state in in_force),
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
            describes_video=DESCRIBES_VIDEO in (media.characteristics or ""),
        )
        for media in parsed.media
        if media.type == "AUDIO"
    )
    return MultivariantPlaylist(uri, variants, renditions)
