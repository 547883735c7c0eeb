"""Which rendition of a multivariant playlist to hear: the cheapest one whose audio is good enough for the features.

Pure: a playlist in, media playlists to try out, best first. Start at `choose`.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.errors import UsageError
from services.fetcher.hls.playlist import MultivariantPlaylist, Rendition, Variant

# RFC 6381 names. What is here is decoded (segment_media.CODECS); other audio is not worth fetching.
AUDIO_CODECS = ("ac-3", "ec-3", "opus", "flac", "alac", "mp3", "mp2", "aac")
# mp4a, by the object type of ISO/IEC 14496-1: 40 is MPEG-4 audio, 66 to 68 AAC of MPEG-2, 69 and 6B MP3, A5 and A6 AC-3
# and E-AC-3, AD Opus; A9 to AC are DTS. Of MPEG-4's audio object types 42 is xHE-AAC, 34 MP3, the rest here AAC.
MP4A_OBJECTS = ("40", "66", "67", "68", "69", "6b", "a5", "a6", "ad")
MPEG4_AUDIO = ("1", "2", "3", "4", "5", "29", "32", "33", "34")
VIDEO_CODECS = ("avc", "hvc", "hev", "vp0", "vp8", "vp9", "av01", "dvh", "mp4v", "mp2v", "jvt")


@dataclass(frozen=True)
class Candidate:
    """A media playlist to hear.

    Attributes:
        uri: where it is.
        why: in words, for the report.
        bandwidth: bit/s that it costs, 0 where only the segments will tell.
    """

    uri: str
    why: str
    bandwidth: int

    def stands_in_for(self, other: Candidate) -> bool:
        """Say whether both are the same content, e.g. on two servers (RFC 8216, 4.3.4.2)."""
        return (self.why, self.bandwidth) == (other.why, other.bandwidth)


@dataclass(frozen=True)
class Choice:
    """What to hear, best first, and what the dearest variant would cost (bit/s)."""

    candidates: tuple[Candidate, ...]
    dearest: int


def carries_audio(variant: Variant) -> bool:
    """Say whether a variant may carry audio that can be decoded; one that names no codecs may."""
    return not variant.codecs or any(map(decodable, variant.codecs))


def decodable(codec: str) -> bool:
    """Say whether a name of CODECS is audio that can be decoded."""
    name, *details = codec.lower().split(".")
    if name != "mp4a":
        return codec.lower().startswith(AUDIO_CODECS)
    if not details or details[0] not in MP4A_OBJECTS:
        return not details
    kind = details[1].lstrip("0") if len(details) > 1 else ""
    return details[0] != "40" or not kind or kind in MPEG4_AUDIO


def carries_video(variant: Variant) -> bool:
    """Say whether a variant carries video."""
    return variant.resolution or any(codec.startswith(VIDEO_CODECS) for codec in variant.codecs)


def choose(playlist: MultivariantPlaylist, prefer: str | None = None, min_audio_bps: int = 0) -> Choice:
    """Order the media playlists of a multivariant playlist by how well they serve.

    Without `prefer`: an audio rendition with its own URI, else a variant without video, else the lowest bandwidth,
    whose video is dropped. Below min_audio_bps an audio-only variant is too poor while there is a better one.

    Args:
        prefer: a NAME, LANGUAGE or GROUP-ID of EXT-X-MEDIA that goes first, or "best": the dearest audio.

    Raises:
        UsageError: nothing in the list is called what `prefer` says.
    """
    dearest = max((variant.bandwidth for variant in playlist.variants), default=0)
    audible = [variant for variant in playlist.variants if carries_audio(variant)]
    audio_only = [variant for variant in audible if not carries_video(variant) and variant.codecs]
    renditions = _renditions(playlist, prefer)
    candidates: list[Candidate] = []
    for rendition in renditions:
        name = rendition.name or rendition.language or rendition.group_id
        # An audio-only variant of the same group tells what the rendition costs.
        alone = [v.bandwidth for v in audio_only if v.audio == rendition.group_id and v.bandwidth]
        candidates.append(Candidate(rendition.uri or "", f"audio rendition {name!r}", min(alone, default=0)))
    alone_first = sorted(audio_only, key=lambda v: (v.bandwidth < min_audio_bps, abs(v.bandwidth - min_audio_bps)))
    # Without CODECS nobody knows what is video: where no variant names any, a radio's ladder has none.
    blind = not any(variant.codecs or carries_video(variant) for variant in playlist.variants)
    with_video = sorted(
        (v for v in audible if v not in audio_only),
        key=lambda v: (blind and 0 < v.bandwidth < min_audio_bps, v.bandwidth),
    )
    if prefer == "best":
        alone_first = sorted(audio_only, key=lambda v: -v.bandwidth)
        with_video.reverse()
    candidates += [Candidate(v.uri, "variant without video", v.bandwidth) for v in alone_first]
    candidates += [
        Candidate(v.uri, "lowest bandwidth, video dropped" if carries_video(v) else "lowest bandwidth", v.bandwidth)
        for v in with_video
    ]
    unique = {candidate.uri: candidate for candidate in reversed(candidates)}
    return Choice(tuple(c for c in candidates if unique.get(c.uri) is c), dearest)


def _renditions(playlist: MultivariantPlaylist, prefer: str | None) -> list[Rendition]:
    """Return the audio renditions that have a playlist of their own, best first."""
    groups = {v.audio: v for v in sorted(playlist.variants, key=lambda v: (carries_audio(v), -v.bandwidth)) if v.audio}
    own = [r for r in playlist.renditions if r.uri and _decodable(groups.get(r.group_id))]
    order = {group: variant.bandwidth for group, variant in groups.items()}
    dearest_first = -1 if prefer == "best" else 1
    own.sort(
        key=lambda r: (
            not r.default,
            r.describes_video,
            not r.autoselect,
            dearest_first * order.get(r.group_id, 1 << 40),
        )
    )
    if prefer in (None, "best"):
        return own
    wanted = [r for r in playlist.renditions if prefer in (r.name, r.language, r.group_id)]
    if not wanted:
        named = sorted({r.name for r in playlist.renditions} | {r.language for r in playlist.renditions if r.language})
        raise UsageError(
            playlist.uri.partition("?")[0],
            f"has no rendition {prefer!r}",
            f"set prefer to one of: {', '.join(named) or 'best'}",
        )
    return [r for r in wanted if r.uri] + [r for r in own if r not in wanted]


def _decodable(variant: Variant | None) -> bool:
    """Say whether the group that this variant names has audio that can be decoded."""
    return variant is None or carries_audio(variant)
