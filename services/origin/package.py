"""Music files to HLS: `genre package`, what the origin's operator runs before copying the folder to a web server.

It encodes and cuts; it serves nothing (`serve.py` does). Start at `package_file`; the layout of the output is
NAME.m3u8 (multivariant) -> NAME/128k/audio.m3u8 (media playlist, VOD) -> NAME/128k/0000.ts, 0001.ts, ...
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import click

from services.errors import GenreError, UsageError
from services.origin.packed_audio import write_packed_audio

SAMPLE_RATE = 44_100
SUFFIX = {"ts": "ts", "fmp4": "m4s", "aac": "aac"}
_OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Packaging:
    """How music becomes HLS.

    Attributes:
        segment_s: target length of a segment, in seconds.
        bitrates_k: AAC bit rates in kbit/s; one variant each.
        format: "ts" (MPEG-2 transport stream), "fmp4" (fragmented MP4) or "aac" (packed audio).
        coder: FFmpeg's AAC coder: "twoloop" for quality, "fast" for half the time.
    """

    segment_s: float = 6.0
    bitrates_k: tuple[int, ...] = (128,)
    format: str = "ts"
    coder: str = "twoloop"


@dataclass(frozen=True)
class Packaged:
    """What became of a folder: name of each piece by its source, and the reason for each file that was left out."""

    names: dict[Path, str] = field(default_factory=dict)
    skipped: dict[Path, str] = field(default_factory=dict)


def stream_name(file: Path, taken: Sequence[str] = ()) -> str:
    """Return a name for a file that fits URLs and topics, e.g. "06_Blue_Monk"; numbered where it is taken."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", file.stem).strip("_-")[:56] or "music"
    folded = {other.casefold() for other in taken} | {"live"}
    if name.casefold() not in folded:
        return name
    return next(f"{name}_{n}" for n in range(2, len(folded) + 3) if f"{name}_{n}".casefold() not in folded)


def music_files(folder: Path) -> list[Path]:
    """Return the files below folder that may be music, sorted; hidden ones and playlists are not."""
    files = (path for path in folder.rglob("*") if path.is_file())
    hidden = (".m3u8", ".m3u", ".jpg", ".jpeg", ".png", ".txt", ".nfo", ".cue", ".pdf", ".part", ".json", ".csv", ".md")
    return sorted(
        path
        for path in files
        if path.suffix.lower() not in hidden
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def package_folder(folder: Path, out: Path, packaging: Packaging | None = None) -> Packaged:
    """Package every music file below folder into out; a file that can't be read is left out, with the reason.

    Raises:
        UsageError: folder is no folder.
        GenreError: there is no music in it, or out can't be written.
    """
    result = Packaged()
    for _, _ in package_each(folder, out, packaging or Packaging(), result):
        pass
    return result


def package_each(
    folder: Path, out: Path, packaging: Packaging, result: Packaged, most: int | None = None
) -> Iterator[tuple[int, int]]:
    """Do the work of `package_folder` for the first `most` files, filling result; yields (done, all)."""
    if not folder.is_dir():
        raise UsageError(str(folder), "is not a folder", "name a folder of music files")
    below = out.resolve()
    files = [file for file in music_files(folder) if below == folder.resolve() or below not in file.resolve().parents]
    files = files[:most]
    for done, file in enumerate(files):
        yield done, len(files)
        name = stream_name(file, list(result.names.values()))
        try:
            package_file(file, out, name, packaging)
            result.names[file] = name
        except GenreError as error:
            result.skipped[file] = error.reason
        except (av.FFmpegError, ValueError, LookupError) as error:
            if getattr(error, "errno", None) in _OUT_OF_ROOM:
                raise _unwritable(out, error) from error
            result.skipped[file] = f"can't be decoded ({getattr(error, 'strerror', None) or error})"
        except OSError as error:
            raise _unwritable(out, error) from error
    yield len(files), len(files)
    if not result.names:
        why = f"none of its {len(files)} files can be decoded" if files else "holds no music files"
        raise GenreError(str(folder), why, "put music files there (FLAC, MP3, AAC, WAV, Ogg)")


def _unwritable(out: Path, error: Exception) -> GenreError:
    reason = f"can't be written ({getattr(error, 'strerror', None) or error})"
    return GenreError(str(out), reason, "free some space or name another --out")


def package_file(source: Path, out: Path, name: str, packaging: Packaging) -> Path:
    """Encode one file to AAC, cut it and write its playlists; nothing is done where that was done before.

    Returns:
        The multivariant playlist. It appears last, so that a reader never meets half of a stream.

    Raises:
        GenreError: the file has no audio or less than 0.1 s of it.
        av.FFmpegError: it can't be decoded.
        OSError: out can't be written.
    """
    master = out / f"{name}.m3u8"
    made_from = f"{packaging} {source.name} {source.stat().st_size} {source.stat().st_mtime_ns}"
    stamp = f"# genre package {hashlib.sha256(made_from.encode(errors='surrogateescape')).hexdigest()[:32]}"
    if master.exists() and stamp in master.read_text(encoding="utf-8", errors="replace"):
        return master
    master.unlink(missing_ok=True)
    variants = []
    for bitrate_k in packaging.bitrates_k:
        folder = out / name / f"{bitrate_k}k"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            peak = _write_variant(source, folder, bitrate_k, packaging)
        except (GenreError, av.FFmpegError):
            shutil.rmtree(out / name, ignore_errors=True)
            raise
        average = min(peak, bitrate_k * 1080)
        variants += [
            f'#EXT-X-STREAM-INF:BANDWIDTH={peak},AVERAGE-BANDWIDTH={average},CODECS="mp4a.40.2"',
            f"{name}/{bitrate_k}k/audio.m3u8",
        ]
    unfinished = master.with_suffix(".part")
    version = 6 if packaging.format == "fmp4" else 3
    lines = ["#EXTM3U", f"#EXT-X-VERSION:{version}", "#EXT-X-INDEPENDENT-SEGMENTS", stamp, *variants, ""]
    unfinished.write_text("\n".join(lines), encoding="utf-8")
    unfinished.replace(master)
    return master


def _write_variant(source: Path, folder: Path, bitrate_k: int, packaging: Packaging) -> int:
    """Write segments and the media playlist of one bit rate; return the peak bit rate in bit/s."""
    with av.open(str(source), metadata_errors="replace") as container:
        if not container.streams.audio:
            raise GenreError(source.name, "has no audio", "leave it out")
        title = _title(container.metadata)
        frames = _decoded(container)
        playlist = folder / "audio.m3u8"
        if packaging.format == "aac":
            samples = write_packed_audio(frames, folder, bitrate_k, packaging.segment_s, packaging.coder)
        else:
            samples = _write_with_muxer(frames, playlist, bitrate_k, packaging)
    if samples < SAMPLE_RATE // 10:
        raise GenreError(source.name, f"holds only {samples / SAMPLE_RATE:.3f} s of audio", "leave it out")
    lines = playlist.read_text(encoding="utf-8").splitlines()
    lines = [f"{line}{title}" if line.startswith("#EXTINF:") and line.endswith(",") else line for line in lines]
    playlist.write_text("\n".join(lines) + "\n", encoding="utf-8")
    seconds = [float(line[8:].split(",")[0]) for line in lines if line.startswith("#EXTINF:")]
    sizes = [(folder / line).stat().st_size for line in lines if line and not line.startswith("#")]
    return int(max(size * 8 / max(s, 0.5) for size, s in zip(sizes, seconds, strict=True)))


def _decoded(container: av.container.InputContainer) -> Iterator[av.AudioFrame]:
    """Decode the first audio stream to frames of 1,024 samples of 44.1 kHz stereo; stops quietly at a damaged end."""
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=SAMPLE_RATE, frame_size=1024)
    decoded = 0
    try:
        for frame in container.decode(container.streams.audio[0]):
            frame.pts = None
            decoded += frame.samples
            yield from resampler.resample(frame)
    except av.FFmpegError:
        if not decoded:
            raise
    if decoded:
        yield from resampler.resample(None)


def _write_with_muxer(frames: Iterator[av.AudioFrame], playlist: Path, bitrate_k: int, packaging: Packaging) -> int:
    """Encode and cut with FFmpeg's hls muxer; return the number of samples."""
    options = {
        "hls_time": f"{packaging.segment_s}",
        "hls_playlist_type": "vod",
        "hls_flags": "independent_segments",
        "hls_segment_type": "fmp4" if packaging.format == "fmp4" else "mpegts",
        "hls_segment_filename": str(playlist.parent / f"%04d.{SUFFIX[packaging.format]}").replace("\\", "/"),
        "hls_fmp4_init_filename": "init.mp4",
    }
    samples = 0
    with av.open(str(playlist), "w", format="hls", options=options) as container:
        stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="stereo", bit_rate=bitrate_k * 1000)
        stream.options = {"aac_coder": packaging.coder}
        for frame in frames:
            frame.pts = samples
            samples += frame.samples
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return samples


def _title(metadata: dict[str, str]) -> str:
    """Return "artist - title" of a file's tags on one line, for EXTINF."""
    tags = {key.lower(): " ".join(value.split()) for key, value in metadata.items()}
    return " - ".join(tags[key] for key in ("artist", "title") if tags.get(key))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Where the HLS goes.  [default: FOLDER/hls]")
@click.option("--segment-s", type=click.FloatRange(1, 60), default=6.0, show_default=True, help="Length of a segment.")
@click.option(
    "--bitrate",
    type=click.IntRange(32, 320),
    default=(128,),
    multiple=True,
    show_default="128",
    help="AAC kbit/s; repeatable.",
)
@click.option(
    "--format", "container", type=click.Choice(list(SUFFIX)), default="ts", show_default=True, help="Kind of segment."
)
def package(folder: Path, out: Path | None, segment_s: float, bitrate: tuple[int, ...], container: str) -> None:
    """Turn the music files in FOLDER into HLS that any web server can serve.

    \b
    Example: genre package ~/Music --out /srv/hls --format fmp4
    """
    out = out or folder / "hls"
    result = Packaged()
    steps = package_each(folder, out, Packaging(segment_s, tuple(dict.fromkeys(bitrate)), container), result)
    for done, of in steps:
        if sys.stderr.isatty():
            click.echo(f"\r{done}/{of} files", nl=done == of, err=True)
    for file, reason in result.skipped.items():
        click.echo(f"skipped {file.relative_to(folder)}: {reason}", err=True)
    for name in result.names.values():
        click.echo(str(out / f"{name}.m3u8"))
