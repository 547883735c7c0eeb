"""What a benchmark listens to: one long piece of music as HLS in three bit rates, made once and kept.

The default is the demo's recordings, all in a row; `--music` takes a person's files instead. Nothing
here is measured. Start at `Material.made`; `excerpt` gives a stream of a certain length.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import av.error

from services.errors import GenreError
from services.origin.packager import Packaging, music_files, package_file

RECORDINGS = Path(__file__).resolve().parents[1] / "demo"
BITRATES_K = (256, 128, 64)
"""In this order in the multivariant playlist: the first is not the cheapest, as in most real ones."""
SEGMENT_S = 6.0
RATE = 44_100
LONGEST_S = 900


@dataclass(frozen=True)
class Excerpt:
    """A VOD stream: its path on the origin, its length, and how many segments it has."""

    path: str
    seconds: float
    segments: int


@dataclass(frozen=True)
class Material:
    """Packaged music; `hls` is what an origin serves."""

    hls: Path

    @classmethod
    def made(cls, folder: Path, music: Path | None = None) -> Material:
        """Package the music unless that was done before.

        Args:
            folder: where it is kept, made where it does not exist.
            music: a folder of music files; None takes the demo's.

        Raises:
            GenreError: there is no music, or it can't be decoded.
        """
        if music is None:
            files, label = music_files(RECORDINGS), "demo"
        else:
            files = music_files(music)
            label = hashlib.sha256(str(music.resolve()).encode()).hexdigest()[:8]
        if not files:
            raise GenreError(
                str(music or RECORDINGS), "holds no music files", "name a folder of FLAC, MP3, AAC, WAV or Ogg files"
            )
        hls = folder / f"hls-{label}"
        hls.mkdir(parents=True, exist_ok=True)
        if not (hls / "radio.m3u8").exists():
            if sys.stderr.isatty():
                print("packaging the music of the benchmarks (once)", file=sys.stderr)
            whole = folder / f"{label}.flac"
            _join(files, whole)
            package_file(whole, hls, "radio", Packaging(SEGMENT_S, BITRATES_K, "ts", "fast"))
            whole.unlink()
        return cls(hls)

    def excerpt(self, seconds: float, bitrates_k: tuple[int, ...] = (128,)) -> Excerpt:
        """Write a VOD multivariant playlist of the first `seconds`, rounded up to whole segments."""
        name, length, count = f"radio-{seconds:g}-{'-'.join(map(str, bitrates_k))}", 0.0, 0
        lines = ["#EXTM3U", "#EXT-X-VERSION:3"]
        for bitrate_k in bitrates_k:
            folder = self.hls / "radio" / f"{bitrate_k}k"
            kept, length, count = _first(folder / "audio.m3u8", seconds)
            (folder / f"first-{seconds:g}.m3u8").write_text(kept, encoding="utf-8")
            lines += [
                f'#EXT-X-STREAM-INF:BANDWIDTH={bitrate_k * 1100},CODECS="mp4a.40.2"',
                f"radio/{bitrate_k}k/first-{seconds:g}.m3u8",
            ]
        (self.hls / f"{name}.m3u8").write_text("\n".join([*lines, ""]), encoding="utf-8")
        return Excerpt(f"{name}.m3u8", length, count)

    def live(self) -> None:
        """Write `onair.m3u8`, the 128 kbit/s rendition alone, for /live/onair.m3u8?shift=SECONDS."""
        text = '#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=140800,CODECS="mp4a.40.2"\nradio/128k/audio.m3u8\n'
        (self.hls / "onair.m3u8").write_text(text, encoding="utf-8")

    def segment_bytes(self, bitrate_k: int = 128) -> list[bytes]:
        """Return every segment of one rendition, in order."""
        folder = self.hls / "radio" / f"{bitrate_k}k"
        return [path.read_bytes() for path in sorted(folder.glob("*.ts"))]


@contextmanager
def origin(material: Material, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve the music from a process of its own and yield its URL."""
    argv = [sys.executable, "-m", "services.origin.server", str(material.hls), "--host", host]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise GenreError("origin", "did not start", "run python -m services.origin.server by hand")
            yield url
        finally:
            process.terminate()


def _first(playlist: Path, seconds: float) -> tuple[str, float, int]:
    """Cut a media playlist after `seconds`; return its text, its length and its number of segments."""
    length, count = 0.0, 0
    kept: list[str] = []
    for line in playlist.read_text(encoding="utf-8").splitlines():
        if line.startswith("#EXTINF:"):
            if length >= seconds:
                break
            length += float(line[8:].split(",")[0])
            count += 1
        if line != "#EXT-X-ENDLIST":
            kept.append(line)
    return "\n".join([*kept, "#EXT-X-ENDLIST", ""]), length, count


def _join(files: list[Path], whole: Path) -> None:
    """Write all files one after the other as 44.1 kHz stereo FLAC, up to LONGEST_S."""
    samples = 0
    with av.open(str(whole), "w", format="flac") as out:
        stream = out.add_stream("flac", rate=RATE, layout="stereo", format="s16")
        for file in files:
            resampler = av.AudioResampler(format="s16", layout="stereo", rate=RATE, frame_size=4096)
            try:
                with av.open(f"file:{file}") as source:
                    for frame in source.decode(source.streams.audio[0]):
                        for ready in resampler.resample(frame):
                            ready.pts = samples
                            samples += ready.samples
                            out.mux(stream.encode(ready))
                        if samples > LONGEST_S * RATE:
                            break
            except (av.error.FFmpegError, IndexError, ValueError) as error:
                raise GenreError(str(file), f"can't be heard ({error})", "leave it out of --music") from error
            if samples > LONGEST_S * RATE:
                break
        out.mux(stream.encode(None))
