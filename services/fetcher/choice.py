"""Which rendition of a multivariant playlist to hear: the cheapest one whose audio is good enough for the features.

Pure: a playlist in, media playlists to try out, best first. Start at `choose`.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.errors import UsageError
from services.fetcher.playlist import MultivariantPlaylist, Rendition, Variant

# RFC 6381 prefixes. What is here is decoded (segment_media.CODECS); other audio is not worth fetching.
AUDIO_CODECS = ("mp4a", "ac-3", "ec-3", "opus", "Opus", "fLaC", "flac", "alac", "mp3")
VIDEO_CODECS = ("avc", "hvc", "hev", "vp0", "vp8", "vp9", "av01", "dvh", "mp4v", "mp2v", "jvt")
TEXT_CODECS = ("stpp", "wvtt")


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


@dataclass(frozen=True)
class Choice:
    """What to hear, best first, and what the dearest variant would cost (bit/s)."""

    candidates: tuple[Candidate, ...]
    dearest: int


def carries_audio(variant: Variant) -> bool:
    """Say whether a variant may carry audio that can be decoded; one that names no codecs may."""
    return not variant.codecs or any(codec.startswith(AUDIO_CODECS) for codec in variant.codecs)


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
    with_video = sorted((v for v in audible if v not in audio_only), key=lambda v: v.bandwidth)
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
    groups = {
        variant.audio: variant for variant in sorted(playlist.variants, key=lambda v: -v.bandwidth) if variant.audio
    }
    own = [r for r in playlist.renditions if r.uri and _decodable(groups.get(r.group_id))]
    order = {group: variant.bandwidth for group, variant in groups.items()}
    dearest_first = -1 if prefer == "best" else 1
    own.sort(key=lambda r: (not r.default, not r.autoselect, dearest_first * order.get(r.group_id, 1 << 40)))
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
