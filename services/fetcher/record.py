"""`genre record`: write what the fetcher hears of a stream to a WAV file and print its ledger.

Also the tool for "why is this stream silent?": each report and gap is printed as it comes. No MQTT. Start at `record`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import sys
import threading
import time
import wave
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import click
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from services.contract.windows import SAMPLE_RATE
from services.errors import GenreError, UsageError
from services.fetcher.events import Audio, Ended, EpochEnded, EpochStarted, Gap, Report, StreamEvent, Track
from services.fetcher.media.decoder import Native, to_int16
from services.fetcher.source import StreamSource
from services.number import Number
from services.settings import loading
from services.settings import schema as config


class Recording:
    """WAV files: one, or with --native one more for each change of rate or channels (FILE.2.wav, ...)."""

    def __init__(self, out: Path, native: bool) -> None:
        self.out, self.native = out, native
        self.files: list[Path] = []
        self.samples = 0
        self._wave: wave.Wave_write | None = None
        self._format: tuple[int, int] | None = None

    def open(self, rate: int, channels: int) -> None:
        """Open the file for this format, unless it is open.

        Raises:
            GenreError: it can't be written.
        """
        if self._format == (rate, channels):
            return
        self.close()
        number = f".{len(self.files) + 1}" if self.files else ""
        path = self.out.parent / f"{self.out.stem}{number}{self.out.suffix}"
        try:
            # Opened here, not by wave: where that fails, its half-made object complains on stderr when it is collected.
            self._file = path.open("wb")
        except OSError as error:
            raise GenreError(str(path), f"can't be written ({error.strerror})", "give --out another path") from error
        self._wave = wave.open(self._file, "wb")  # noqa: SIM115  (closed by close)
        self._wave.setparams((channels, 2, rate, 0, "NONE", ""))
        self._format = (rate, channels)
        self.files.append(path)

    def write_native(self, epoch: int, rate: int, samples: Native) -> None:
        """Write native samples; the sink of --native."""
        self.open(rate, len(samples))
        self._write(to_int16(np.stack(samples, axis=1)))

    def write(self, pcm: NDArray[np.int16]) -> None:
        """Write 22,050 Hz mono."""
        self.open(SAMPLE_RATE, 1)
        self._write(pcm)

    def _write(self, pcm: NDArray[np.int16]) -> None:
        assert self._wave is not None
        try:
            self._wave.writeframesraw(np.ascontiguousarray(pcm, "<i2").tobytes())
        except OSError as error:
            raise GenreError(str(self.files[-1]), f"can't be written ({error.strerror})", "make room") from error
        self.samples += len(pcm)

    def close(self) -> None:
        """Finish the file."""
        if self._wave is not None:
            self._wave.close()
            self._file.close()
            self._wave = None

    def drop_if_empty(self) -> None:
        """Remove the file where nothing was heard; /dev/null stays."""
        for path in self.files if not self.samples else ():
            if path.is_file():
                path.unlink()


# Audio that stays below this (-60 dBFS) for 0.1 s is silence: so quiet that nobody hears it.
SILENCE, SILENCE_SAMPLES = 33, SAMPLE_RATE // 10


class Ledger:
    """Counts what was heard, in samples of 22,050 Hz, checks that it adds up, and how loud it was."""

    def __init__(self) -> None:
        self.loudest = self.silence = 0
        self.counts = {"timeline": 0, "heard": 0, "gap": 0, "epochs": 0, "gaps": 0, "tracks": 0}
        self.causes: dict[str, int] = {}
        self.end = ""

    def note(self, item: StreamEvent) -> None:
        """Count an item."""
        if isinstance(item, Audio):
            self.counts["heard"] += len(item.pcm)
            self._measure(item.pcm)
            self.counts["timeline"] = item.first_sample + len(item.pcm)
        elif isinstance(item, Gap):
            self.counts["gap"] += item.samples
            self.counts["gaps"] += 1
            self.counts["timeline"] = item.first_sample + item.samples
            self.causes[item.cause] = self.causes.get(item.cause, 0) + item.samples
        elif isinstance(item, EpochStarted):
            self.counts["epochs"] += 1
        elif isinstance(item, Track):
            self.counts["tracks"] += 1
        elif isinstance(item, Ended):
            self.counts["timeline"] = item.end_sample
            self.end = item.reason

    def _measure(self, pcm: NDArray[np.int16]) -> None:
        """Note the loudest sample, and how much is silence."""
        loud = np.abs(pcm.astype(np.int32))
        self.loudest = max(self.loudest, int(loud.max(initial=0)))
        whole = len(loud) // SILENCE_SAMPLES * SILENCE_SAMPLES
        quiet = loud[:whole].reshape(-1, SILENCE_SAMPLES).max(axis=1, initial=0) < SILENCE
        self.silence += int(np.count_nonzero(quiet)) * SILENCE_SAMPLES

    @property
    def peak_dbfs(self) -> float | None:
        """Return the level of the loudest sample, 0 is full scale; None where all samples are zero."""
        return round(20 * math.log10(self.loudest / 32_768), 1) if self.loudest else None

    @property
    def adds_up(self) -> bool:
        """Say whether every sample of the timeline was heard or is in a gap."""
        return self.counts["timeline"] == self.counts["heard"] + self.counts["gap"]

    def as_json(self) -> dict[str, object]:
        """Return the ledger as one flat object."""
        level = {"silence": self.silence, "peak_dbfs": self.peak_dbfs}
        return {**self.counts, **level, "causes": self.causes, "end": self.end, "adds_up": self.adds_up}

    def as_text(self) -> str:
        """Return the ledger in a few lines for a person."""
        counts, seconds = self.counts, {name: count / SAMPLE_RATE for name, count in self.counts.items()}
        lines = [
            f"timeline {counts['timeline']:,} samples ({seconds['timeline']:.3f} s)"
            f" = heard {counts['heard']:,} + gaps {counts['gap']:,}; {counts['epochs']} epochs; {self.end}"
        ]
        lines += [f"missing {samples / SAMPLE_RATE:.3f} s: {cause}" for cause, samples in self.causes.items()]
        if counts["heard"]:
            peak = "all samples are zero" if self.peak_dbfs is None else f"loudest sample {self.peak_dbfs:g} dBFS"
            lines.append(f"{peak}; silence {self.silence / SAMPLE_RATE:.1f} of {seconds['heard']:.1f} s")
        return "\n".join(lines)


@click.command()
@click.argument("url")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="WAV file to write.")
@click.option("--native", is_flag=True, help="Native rate and channels instead of 22,050 Hz mono.")
@click.option("--seconds", type=Number(min=0, min_open=True), help="Stop after this much of the timeline.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; the ledger is the last one.")
@click.option("--prefer", help="Rendition to take: a NAME, LANGUAGE or GROUP-ID, or 'best'.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file with an [hls] table.")
def record(
    url: str,
    out: Path,
    native: bool,
    seconds: float | None,
    as_json: bool,
    prefer: str | None,
    config_file: Path | None,
) -> None:
    """Write what the fetcher hears of URL to a WAV file and print its ledger.

    \b
    Example: genre record https://example.org/live.m3u8 --out live.wav --seconds 60
    """
    try:
        stream = config.Stream(name="record", url=url, prefer=prefer)
    except ValidationError as error:
        raise UsageError(url, loading.describe(error), "give an http or https URL") from error
    hls = loading.load(config_file).hls
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    recording, ledger = Recording(out, native), Ledger()
    source = StreamSource(stream, hls, stop, native=recording.write_native if native else None)
    if not native:
        recording.open(SAMPLE_RATE, 1)
    began = time.monotonic()
    try:
        for item in source.listen():
            ledger.note(item)
            if isinstance(item, Audio):
                if not native:
                    recording.write(item.pcm)
                _progress(ledger, as_json)
            else:
                _print(item, as_json)
            if seconds is not None and ledger.counts["timeline"] >= seconds * SAMPLE_RATE:
                ledger.end = f"--seconds {seconds:g}"
                break
        else:
            ledger.end = ledger.end or "stopped"
    except GenreError:
        recording.close()
        recording.drop_if_empty()
        raise
    finally:
        source.close()
        recording.close()
    files = [str(path) for path in recording.files]
    if as_json:
        click.echo(json.dumps({"ledger": ledger.as_json(), "files": files}))
        return
    click.echo(ledger.as_text())
    click.echo(f"wrote {', '.join(files) or 'nothing'} in {time.monotonic() - began:.1f} s")


def _print(item: StreamEvent, as_json: bool) -> None:
    """Print an item other than audio: as JSON, or as a line that begins with the seconds where it has a place."""
    if as_json:
        values = {k: dict(v) if isinstance(v, Mapping) else v for k, v in _fields(item).items()}
        click.echo(json.dumps({type(item).__name__: values}, ensure_ascii=False))
    elif isinstance(item, EpochStarted):
        click.echo(f"{_at(item.first_sample)}  epoch {item.epoch} begins: {item.reason}")
    elif isinstance(item, EpochEnded):
        click.echo(f"{_at(item.end_sample)}  epoch {item.epoch} ends")
    elif isinstance(item, Gap):
        click.echo(f"{_at(item.first_sample)}  gap of {item.samples / SAMPLE_RATE:.3f} s, {item.cause}: {item.detail}")
    elif isinstance(item, Track):
        click.echo(f"{_at(item.first_sample)}  track: {item.artist or '?'} - {item.title or '?'}")
    elif isinstance(item, Report):
        figures = ", ".join(f"{name} {value:g}" for name, value in item.numbers.items())
        click.echo(f"{'':>10}    {item.kind}: {item.reason}" + (f" ({figures})" if figures else ""))


def _at(sample: int) -> str:
    """Return a place on the timeline in seconds."""
    return f"{sample / SAMPLE_RATE:>10.3f} s"


def _fields(item: StreamEvent) -> dict[str, object]:
    """Return the fields of an item that mean something to a person."""
    return {f.name: getattr(item, f.name) for f in dataclasses.fields(item) if f.name != "resume_point"}


def _progress(ledger: Ledger, as_json: bool) -> None:
    """Show on a terminal how much was heard."""
    if not as_json and sys.stderr.isatty():
        click.echo(f"\r{ledger.counts['timeline'] / SAMPLE_RATE:,.1f} s", err=True, nl=False)
