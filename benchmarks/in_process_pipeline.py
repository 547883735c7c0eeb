"""Our pipeline in one process, without MQTT: reader -> windower -> featurizer -> backend, a pure composition.

What the bus costs is measured against this. It is also the shortest reading of what the services do together.
`python -m benchmarks.in_process_pipeline URL --model NAME` prints one JSON object a window. Start at `classified`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from services.contract.chunks import Chunk
from services.contract.windows import WINDOW
from services.featurizer.features import Featurizer
from services.featurizer.levels import levels
from services.fetcher.delivery.in_flight import InFlightChunk
from services.fetcher.delivery.windower import Windower
from services.fetcher.events import Audio, EpochEnded, EpochStarted
from services.fetcher.hls.reader import PlaylistReader
from services.fetcher.http.client import Origin
from services.inference.card import Card, load_card
from services.inference.decision import decide_windows
from services.inference.onnx_backend import OnnxBackend
from services.settings.schema import Fetcher, Hls, Stream


def chunks(url: str, hop: int) -> Iterator[Chunk]:
    """Listen to a stream to its end and yield its chunks."""
    settings = Fetcher()
    windower = Windower("one", hop, settings.windows_per_chunk)
    reader = PlaylistReader(Origin(Stream(name="one", url=url), Hls(), threading.Event()))
    try:
        for item in reader.listen():
            if isinstance(item, EpochStarted):
                windower.start(item)
            elif isinstance(item, Audio):
                yield from (in_flight.chunk for in_flight in windower.audio(item))
            elif isinstance(item, EpochEnded):
                last = windower.finish(item.end_sample)
                if isinstance(last, InFlightChunk):
                    yield last.chunk
    finally:
        reader.close()


def classified(
    url: str, card: Card, featurizer: Featurizer, backend: OnnxBackend, hop: int
) -> Iterator[dict[str, object]]:
    """Yield one result a window, in order: first_sample, genre, confidence, latency_ms."""
    for chunk in chunks(url, hop):
        windows = chunk.window_pcm()
        answer = backend.answer(featurizer.views(windows))
        heard = levels(windows).rms_dbfs
        now = time.time()
        for first, judged in zip(chunk.header.first_samples(), decide_windows(answer, heard, card), strict=True):
            yield {
                "first_sample": first,
                "genre": judged.genre,
                "confidence": round(judged.confidence, 4),
                "latency_ms": round((now - chunk.header.received_at) * 1000, 1),
            }


@click.command()
@click.argument("url")
@click.option("--model", default="genre-sounds", show_default=True, help="Folder under the models folder.")
@click.option("--models-dir", type=click.Path(path_type=Path), default=Path("models"), help="Folder of models.")
@click.option("--hop", type=click.IntRange(1_000, WINDOW), default=33_000, show_default=True, help="Samples.")
def main(url: str, model: str, models_dir: Path, hop: int) -> None:
    """Classify the HLS stream at URL to its end."""
    card = load_card(models_dir, model)
    featurizer, backend = Featurizer(card.recipe), OnnxBackend(card)
    backend.answer(featurizer.views(np.zeros((1, WINDOW), np.int16)))
    print(json.dumps({"ready": True}), flush=True)
    for result in classified(url, card, featurizer, backend, hop):
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
