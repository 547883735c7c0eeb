"""One stage at a time, alone in a process with one thread: what `stages` measures.

Each probe is a generator: it sets itself up, then does one round of work each time it is asked, and says how many
seconds of audio that was. `python -m benchmarks.stage_probes NAME HLS MODELS KERAS [ROUNDS]` prints the CPU time of
each round. Start at `PROBES` and `probe_of`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HOP_S = 33_000 / 22_050
"""Seconds of audio that a window stands for at 50 % overlap: windows and audio then have one unit."""
SEGMENTS = 8
WINDOWS = 16


@dataclass(frozen=True)
class Place:
    """Where things are."""

    hls: Path
    models: Path
    keras: Path

    def segments(self) -> list[Path]:
        """Return some segments."""
        return sorted((self.hls / "radio" / "128k").glob("*.ts"))[:SEGMENTS]


Probe = Callable[[Place], Iterator[float]]


def _decoded(place: Place, resample: bool) -> Iterator[tuple[float, Any]]:
    """Decode the segments as cheaply as libraries alone can: one decoder, one resampler, a demuxer a segment."""
    import io

    import av
    import soxr

    bodies = [path.read_bytes() for path in place.segments()]
    decoder = av.CodecContext.create("aac", "r")
    decoder.thread_count = 1
    resampler = soxr.ResampleStream(44_100, 22_050, 1, "float32", "HQ")
    while True:
        samples = 0
        for body in bodies:
            fifo = av.AudioFifo()
            with av.open(io.BytesIO(body), format="mpegts") as container:
                for packet in container.demux(audio=0):
                    for frame in decoder.decode(packet) if packet.size else []:
                        frame.pts = None
                        fifo.write(frame)
            frame = fifo.read()
            samples += frame.samples
            if resample:
                mono = frame.to_ndarray().mean(axis=0)
                yield 0.0, (resampler.resample_chunk(mono) * 32_767).astype(np.int16)
        yield samples / 44_100, None


def decode(place: Place) -> Iterator[float]:
    """Demux and decode with PyAV alone: no timeline, no resampling."""
    return (seconds for seconds, pcm in _decoded(place, False) if pcm is None)


def decode_resample(place: Place) -> Iterator[float]:
    """The same, mixed to mono and resampled with soxr."""
    return (seconds for seconds, pcm in _decoded(place, True) if pcm is None)


def hear(place: Place) -> Iterator[float]:
    """Everything the fetcher does before the bus: HTTP, playlist, decode, timeline, windows."""
    from benchmarks.in_process_pipeline import chunks
    from benchmarks.material import Material

    excerpt = Material(place.hls).excerpt(60)
    argv = [sys.executable, "-m", "services.origin.server", str(place.hls)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as origin:
        try:
            assert origin.stdout is not None
            url = f"{origin.stdout.readline().strip()}/{excerpt.path}"
            while True:
                for _ in chunks(url, 33_000):
                    pass
                yield excerpt.seconds
        finally:
            origin.terminate()


def ffmpeg(place: Place) -> Iterator[float]:
    """An ffmpeg process a segment, as the script of today does."""
    from benchmarks.baseline_script import decode as script_decode

    bodies = [path.read_bytes() for path in place.segments()]
    while True:
        samples: list[int] = [len(script_decode(body)) for body in bodies]
        yield sum(samples) / 22_050


def windows(place: Place) -> NDArray[np.int16]:
    """Return real windows of the music, shape [WINDOWS, 66000]."""
    pieces = [
        pcm for _, pcm in zip(range(SEGMENTS), (p for _, p in _decoded(place, True) if p is not None), strict=False)
    ]
    pcm = np.concatenate(pieces)
    return np.stack([pcm[i * 33_000 : i * 33_000 + 66_000] for i in range(WINDOWS)])


def features(recipe: str) -> Probe:
    """Return a probe of our features of a recipe."""

    def probe(place: Place) -> Iterator[float]:
        from services.contract.recipe import load_recipe
        from services.featurizer.features import Featurizer

        featurizer, pcm = Featurizer(load_recipe(recipe)), windows(place)
        while True:
            featurizer.views(pcm)
            yield WINDOWS * HOP_S

    return probe


def level(place: Place) -> Iterator[float]:
    """Levels: silence, peaks, clipping."""
    from services.featurizer.levels import levels

    pcm = windows(place)
    while True:
        levels(pcm)
        yield WINDOWS * HOP_S


def librosa_mel(place: Place) -> Iterator[float]:
    """librosa's mel spectrogram in dB, as the script of today calls it."""
    from benchmarks.baseline_script import spectrogram

    pcm = windows(place).astype(np.float32) / 32_768
    while True:
        for window in pcm:
            spectrogram(window)
        yield WINDOWS * HOP_S


def keras(place: Place) -> Iterator[float]:
    """Keras predict of VGG16, four windows a call."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras as framework

    model = framework.models.load_model(place.keras)
    x = np.random.default_rng(0).random((4, 129, 128, 1), np.float32)
    while True:
        model.predict(x, verbose=0)
        yield 4 * HOP_S


def onnx(model: str, file: str) -> Probe:
    """Return a probe of an ONNX file on ONNX Runtime."""

    def probe(place: Place) -> Iterator[float]:
        from services.inference.onnx_backend import session

        engine = session(place.models / model / file)
        views = _input(place, model)
        while True:
            for row in range(4):
                engine.run(None, {name: view[row : row + 1] for name, view in views.items()})
            yield 4 * HOP_S

    return probe


def _input(place: Place, model: str) -> dict[str, NDArray[np.float32]]:
    """Return four real windows as a model's inputs, by name."""
    from services.featurizer.features import Featurizer
    from services.inference.card import load_card

    return Featurizer(load_card(place.models, model).recipe).views(windows(place)[:4])


PROBES: dict[str, Probe] = {
    "hear: HTTP to windows": hear,
    "PyAV decode": decode,
    "PyAV decode, soxr": decode_resample,
    "ffmpeg process a segment": ffmpeg,
    "mel vgg16": features("vgg16"),
    "mel vgg16: librosa": librosa_mel,
    "mels of genre-sounds": features("mel96-mel115"),
    "mel of genre-sounds-fast": features("mel115"),
    "levels": level,
    "VGG16: Keras predict": keras,
}


def probe_of(name: str) -> Probe:
    """Return the probe of a name: one of PROBES, or "onnx model file"."""
    if name in PROBES:
        return PROBES[name]
    _, model, file = name.split(" ", 2)
    return onnx(model, file)


def names(models: Path) -> list[str]:
    """Return the names of all probes there are for a models folder: every file that a card lists."""
    from services.inference.card import load_card, model_names

    found = list(PROBES)
    for model in model_names(models):
        for file in load_card(models, model).files:
            if file.path.endswith(".onnx") and "head" not in file.path:
                found.append(f"onnx {model} {file.path}")
    return found


def _cpu_s() -> float:
    """Return the CPU time of this process and of its ended children."""
    own, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def main(name: str, hls: str, models: str, keras_file: str, rounds: str = "5") -> None:
    """Measure one probe: at least 0.3 CPU-s a round, after a warm-up."""
    probe = probe_of(name)(Place(Path(hls), Path(models), Path(keras_file)))
    next(probe)
    next(probe)
    print(json.dumps({"ready": True}), flush=True)
    for _ in range(int(rounds)):
        began, seconds = _cpu_s(), 0.0
        while _cpu_s() - began < 0.3:
            seconds += next(probe)
        print(json.dumps({"cpu_ms_per_audio_s": 1000 * (_cpu_s() - began) / seconds}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
