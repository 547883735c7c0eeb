"""Music files to HLS: `genre package`, what the origin's operator runs before copying the folder to a web server.

It encodes and cuts; it serves nothing (`server.py` does). Start at `package_file`; the layout of the output is
NAME.m3u8 (multivariant) -> NAME/128k/audio.m3u8 (media playlist, VOD) -> NAME/128k/0000.ts, 0001.ts, ...
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import click

from services import files
from services.classify.audio_file import Heard, frames
from services.classify.files import files_below
from services.errors import GenreError, UsageError
from services.number import Number
from services.origin.packed_audio import write_packed_audio
from services.text import clean

SAMPLE_RATE = 44_100
SUFFIX = {"ts": "ts", "fmp4": "m4s", "aac": "aac"}
BESIDE_MUSIC = frozenset((
    ".accurip", ".asx", ".bmp", ".csv", ".cue", ".db", ".gif", ".ini", ".jpeg", ".jpg", ".json", ".log", ".lrc",
    ".m3u", ".m3u8", ".md", ".md5", ".nfo", ".part", ".pdf", ".pls", ".png", ".sfv", ".txt", ".url", ".webp",
    ".xspf",
))  # fmt: skip
VERSION = 2
"""Goes up when the same file becomes another stream: what was made by an older one is made again."""
LEFT_OUT = "# left out: "
"""In a multivariant playlist: what of the file could not be heard, so that a second run says it, too."""
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
    """What became of a folder.

    Attributes:
        names: of each piece, by its source.
        incomplete: what was left out of a piece, by its source.
        skipped: why a file was left out.
    """

    names: dict[Path, str] = field(default_factory=dict)
    incomplete: dict[Path, str] = field(default_factory=dict)
    skipped: dict[Path, str] = field(default_factory=dict)

    def remarks(self, folder: Path) -> Iterator[str]:
        """Yield a line for each file that was left out or is not whole, named as it is called below the folder."""
        for file, reason in self.skipped.items():
            yield f"skipped {clean(str(file.relative_to(folder)))}: {reason}"
        for file, reason in self.incomplete.items():
            yield f"{clean(str(file.relative_to(folder)))}: {reason}"


def stream_name(file: Path, taken: Sequence[str] = ()) -> str:
    """Return a name for a file that fits URLs and topics, e.g. "06_Blue_Monk"; numbered where it is taken."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", file.stem).strip("_-")[:56] or "music"
    folded = {other.casefold() for other in taken} | {"live"}
    if name.casefold() not in folded:
        return name
    return next(f"{name}_{n}" for n in range(2, len(folded) + 3) if f"{name}_{n}".casefold() not in folded)


def music_files(folder: Path) -> list[Path]:
    """Return the files below folder that may be music, sorted; hidden ones, playlists, covers and the like are not."""
    return sorted(path for path in files_below(folder) if path.suffix.lower() not in BESIDE_MUSIC and path.is_file())


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
    """Do the work of `package_folder` until there are `most` pieces, filling result; yields (done, all)."""
    if not folder.is_dir():
        raise UsageError(str(folder), "is not a folder", "name a folder of music files")
    below, top = Path(os.path.realpath(out)), Path(os.path.realpath(folder))
    sources = [file for file in music_files(folder) if below == top or below not in file.resolve().parents]
    for done, file in enumerate(sources):
        yield (done, len(sources)) if most is None else (len(result.names), min(most, len(sources)))
        if len(result.names) == most:
            return
        name = stream_name(file, list(result.names.values()))
        try:
            master = package_file(file, out, name, packaging)
        except GenreError as error:
            result.skipped[file] = error.reason
        except (av.FFmpegError, ValueError, LookupError) as error:
            if getattr(error, "errno", None) in _OUT_OF_ROOM:
                raise _unwritable(out, error) from error
            result.skipped[file] = f"can't be packaged ({getattr(error, 'strerror', None) or error})"
        except OSError as error:
            raise _unwritable(out, error) from error
        else:
            result.names[file] = name
            if left_out := _left_out(master):
                result.incomplete[file] = left_out
    yield len(sources), len(sources)
    if not result.names:
        why = f"none of its {len(sources)} files can be decoded" if sources else "holds no music files"
        raise GenreError(str(folder), why, "put music files there (FLAC, MP3, AAC, WAV, Ogg)")


def _left_out(master: Path) -> str:
    """Return what package_file noted in a multivariant playlist."""
    lines = master.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix(LEFT_OUT) for line in lines if line.startswith(LEFT_OUT)), "")


def _unwritable(out: Path, error: Exception) -> GenreError:
    reason = f"can't be written ({getattr(error, 'strerror', None) or error})"
    return GenreError(str(out), reason, "free some space or name another --out")


def package_file(source: Path, out: Path, name: str, packaging: Packaging) -> Path:
    """Encode one file to AAC, cut it and write its playlists; nothing is done where that was done before.

    Returns:
        The multivariant playlist. It appears last, so that a reader never meets half of a stream.

    Raises:
        GenreError: the file can't be decoded, has no audio or less than 0.1 s of it.
        av.FFmpegError: it can't be encoded.
        OSError: out can't be written.
    """
    master = out / f"{name}.m3u8"
    made_from = f"{VERSION} {packaging} {source.name} {source.stat().st_size} {source.stat().st_mtime_ns}"
    stamp = f"# genre package {hashlib.sha256(made_from.encode(errors='surrogateescape')).hexdigest()[:32]}"
    if master.exists() and stamp in master.read_text(encoding="utf-8", errors="replace"):
        return master
    master.unlink(missing_ok=True)
    variants, heard = [], Heard()
    for bitrate_k in packaging.bitrates_k:
        folder = out / name / f"{bitrate_k}k"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            heard = Heard()
            peak = _write_variant(source, folder, bitrate_k, packaging, heard)
        except (GenreError, av.FFmpegError):
            shutil.rmtree(out / name, ignore_errors=True)
            raise
        average = min(peak, bitrate_k * 1080)
        variants += [
            f'#EXT-X-STREAM-INF:BANDWIDTH={peak},AVERAGE-BANDWIDTH={average},CODECS="mp4a.40.2"',
            f"{name}/{bitrate_k}k/audio.m3u8",
        ]
    left_out = [LEFT_OUT + heard.left_out] if heard.left_out else []
    version = 6 if packaging.format == "fmp4" else 3
    lines = ["#EXTM3U", f"#EXT-X-VERSION:{version}", "#EXT-X-INDEPENDENT-SEGMENTS", stamp, *left_out, *variants, ""]
    files.replace(master, "\n".join(lines))
    return master


def _write_variant(source: Path, folder: Path, bitrate_k: int, packaging: Packaging, heard: Heard) -> int:
    """Write segments and the media playlist of one bit rate; return the peak bit rate in bit/s."""
    audio, playlist = _resampled(frames(source, heard)), folder / "audio.m3u8"
    if packaging.format == "aac":
        samples = write_packed_audio(audio, folder, bitrate_k, packaging.segment_s, packaging.coder)
    else:
        samples = _write_with_muxer(audio, folder, bitrate_k, packaging)
    if samples < SAMPLE_RATE // 10:
        raise GenreError(source.name, f"holds only {samples / SAMPLE_RATE:.3f} s of audio", "leave it out")
    title = " - ".join(part for part in (heard.artist, heard.title) if part)
    lines = playlist.read_text(encoding="utf-8").splitlines()
    lines = [f"{line}{title}" if line.startswith("#EXTINF:") and line.endswith(",") else line for line in lines]
    playlist.write_text("\n".join(lines) + "\n", encoding="utf-8")
    seconds = [float(line[8:].split(",")[0]) for line in lines if line.startswith("#EXTINF:")]
    sizes = [(folder / line).stat().st_size for line in lines if line and not line.startswith("#")]
    return int(max(size * 8 / max(s, 0.5) for size, s in zip(sizes, seconds, strict=True)))


def _resampled(audio: Iterator[av.AudioFrame]) -> Iterator[av.AudioFrame]:
    """Yield frames of 1,024 samples of 44.1 kHz stereo; where rate or layout change, a new resampler goes on."""
    resampler: av.AudioResampler | None = None
    form: tuple[int, str, str] | None = None
    for frame in audio:
        frame.pts = None
        if (changed := (frame.sample_rate, frame.layout.name, frame.format.name)) != form:
            if resampler is not None:
                yield from resampler.resample(None)
            resampler = av.AudioResampler(format="fltp", layout="stereo", rate=SAMPLE_RATE, frame_size=1024)
            form = changed
        assert resampler is not None
        yield from resampler.resample(frame)
    if resampler is not None:
        yield from resampler.resample(None)


def _write_with_muxer(audio: Iterator[av.AudioFrame], folder: Path, bitrate_k: int, packaging: Packaging) -> int:
    """Encode and cut with FFmpeg's hls muxer; return the number of samples."""
    # The muxer takes '%' in a path for a number, what is before ':' for a protocol, and no name that is not UTF-8: it
    # gets the folder by its descriptor.
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    path = f"/proc/self/fd/{opened}"
    options = {
        "hls_time": f"{packaging.segment_s}",
        "hls_playlist_type": "vod",
        "hls_flags": "independent_segments",
        "hls_segment_type": "fmp4" if packaging.format == "fmp4" else "mpegts",
        "hls_segment_filename": f"{path}/%04d.{SUFFIX[packaging.format]}",
        "hls_fmp4_init_filename": "init.mp4",
    }
    samples = 0
    try:
        with av.open(f"{path}/audio.m3u8", "w", format="hls", options=options) as container:
            stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="stereo", bit_rate=bitrate_k * 1000)
            stream.options = {"aac_coder": packaging.coder}
            for frame in audio:
                frame.pts = samples
                samples += frame.samples
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    finally:
        os.close(opened)
    return samples


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Where the HLS goes.  [default: FOLDER/hls]")
@click.option("--segment-s", type=Number(1, 60), default=6.0, show_default=True, help="Length of a segment.")
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
    for remark in result.remarks(folder):
        click.echo(remark, err=True)
    for name in result.names.values():
        click.echo(str(out / f"{name}.m3u8"))
