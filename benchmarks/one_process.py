"""Our pipeline in one process, without MQTT: listener -> windower -> featurizer -> backend, a pure composition.

What the bus costs is measured against this. It is also the shortest reading of what the services do together.
`python -m benchmarks.one_process URL --model NAME` prints one JSON object a window. Start at `classified`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from services.contract import WINDOW
from services.featurizer.features import Featurizer
from services.featurizer.windows import levels
from services.fetcher.chunks import Cut, Windower
from services.fetcher.heard import Audio, EpochEnded, EpochStarted
from services.fetcher.listener import Listener
from services.inference.card import Card, load_card
from services.inference.onnx_backend import OnnxBackend
from services.inference.verdict import judge
from services.settings import Fetcher, Hls, Stream


def cuts(url: str, hop: int) -> Iterator[Cut]:
    """Listen to a stream to its end and yield its chunks."""
    settings = Fetcher()
    windower = Windower("one", hop, settings.windows_per_chunk)
    listener = Listener(Stream(name="one", url=url), Hls(), threading.Event())
    try:
        for item in listener.listen():
            if isinstance(item, EpochStarted):
                windower.start(item)
            elif isinstance(item, Audio):
                yield from windower.audio(item)
            elif isinstance(item, EpochEnded):
                last = windower.finish(item.end_sample)
                if isinstance(last, Cut):
                    yield last
    finally:
        listener.close()


def classified(
    url: str, card: Card, featurizer: Featurizer, backend: OnnxBackend, hop: int
) -> Iterator[dict[str, object]]:
    """Yield one result a window, in order: first_sample, genre, confidence, latency_ms."""
    for cut in cuts(url, hop):
        every = np.lib.stride_tricks.sliding_window_view(cut.pcm, WINDOW)
        windows = every[:: cut.stretch.hop][: cut.stretch.windows]
        scores = backend.scores(featurizer.features(windows))
        heard = levels(windows).rms_dbfs
        now = time.time()
        for first, row, level in zip(cut.stretch.first_samples(), scores, heard, strict=True):
            judged = judge(row, float(level), card)
            yield {
                "first_sample": first,
                "genre": judged.genre,
                "confidence": round(judged.confidence, 4),
                "latency_ms": round((now - cut.stretch.received_at) * 1000, 1),
            }


@click.command()
@click.argument("url")
@click.option("--model", default="musicnn", show_default=True, help="Folder under the models folder.")
@click.option("--models-dir", type=click.Path(path_type=Path), default=Path("models"), help="Folder of models.")
@click.option("--hop", type=click.IntRange(1_000, WINDOW), default=33_000, show_default=True, help="Samples.")
def main(url: str, model: str, models_dir: Path, hop: int) -> None:
    """Classify the HLS stream at URL to its end."""
    card = load_card(models_dir, model)
    featurizer, backend = Featurizer(card.recipe), OnnxBackend(card)
    backend.scores(featurizer.features(np.zeros((1, WINDOW), np.int16)))
    print(json.dumps({"ready": True}), flush=True)
    for result in classified(url, card, featurizer, backend, hop):
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
