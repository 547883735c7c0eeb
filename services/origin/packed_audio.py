"""Packed audio segments (RFC 8216, 3.4): raw ADTS AAC, each with an ID3 tag that tells its timestamp.

FFmpeg's hls muxer does not write these. Start at `write_packed_audio`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import av

_OWNER = b"com.apple.streaming.transportStreamTimestamp\0"


def timestamp_tag(clock_90khz: int) -> bytes:
    """Return an ID3v2.4 tag whose PRIV frame holds the MPEG-2 timestamp of the segment's first sample, 33 bits."""
    body = _OWNER + (clock_90khz % (1 << 33)).to_bytes(8, "big")
    frame = b"PRIV" + _syncsafe(len(body)) + b"\0\0" + body
    return b"ID3\x04\0\0" + _syncsafe(len(frame)) + frame


def _syncsafe(size: int) -> bytes:
    return bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))


def write_packed_audio(
    frames: Iterator[av.AudioFrame], folder: Path, bitrate_k: int, segment_s: float, coder: str
) -> int:
    """Encode frames of 1,024 samples to 0000.aac, 0001.aac, ... and audio.m3u8; return the number of samples."""
    encoder = av.CodecContext.create("aac", "w")
    encoder.rate, encoder.layout, encoder.format, encoder.bit_rate = 44_100, "stereo", "fltp", bitrate_k * 1000
    encoder.options = {"aac_coder": coder}
    per_segment = max(1, round(segment_s * 44_100 / 1024))
    packets: list[bytes] = []
    samples = 0
    for frame in frames:
        frame.pts = samples
        samples += frame.samples
        packets.extend(_with_header(bytes(packet)) for packet in encoder.encode(frame))
    packets.extend(_with_header(bytes(packet)) for packet in encoder.encode(None))
    target = -(-per_segment * 1024 // 44_100)
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:3",
        f"#EXT-X-TARGETDURATION:{target}",
        "#EXT-X-MEDIA-SEQUENCE:0",
        "#EXT-X-PLAYLIST-TYPE:VOD",
    ]
    for number, first in enumerate(range(0, len(packets), per_segment)):
        segment = io.BytesIO()
        segment.write(timestamp_tag(900_000 + first * 1024 * 90_000 // 44_100))
        part = packets[first : first + per_segment]
        segment.writelines(part)
        (folder / f"{number:04d}.aac").write_bytes(segment.getvalue())
        lines += [f"#EXTINF:{len(part) * 1024 / 44_100:.6f},", f"{number:04d}.aac"]
    (folder / "audio.m3u8").write_text("\n".join([*lines, "#EXT-X-ENDLIST", ""]), encoding="utf-8")
    return samples


def _with_header(packet: bytes) -> bytes:
    """Put the ADTS header (ISO 14496-3: AAC LC, 44.1 kHz, stereo, no CRC) before a raw AAC frame."""
    size = len(packet) + 7
    return bytes((0xFF, 0xF1, 0x50, 0x80 | (size >> 11), (size >> 3) & 0xFF, ((size & 7) << 5) | 0x1F, 0xFC)) + packet
