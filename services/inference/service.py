"""The inference service: tensors in, results out, then the ack to the fetcher.

Engines are behind one call, `scores(features)`; delivery rules are in services/worker.py; what is silent or unsure is
decided in `verdict.py`. It keeps no state. Start at `InferenceService.process`.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from services import logs, settings
from services.contract import SAMPLE_RATE, WINDOW, Ack, ContractError, MelTensor, Message, Result, TensorStretch, utc
from services.inference.card import Card
from services.inference.served import Served
from services.inference.verdict import judge
from services.lifecycle import Life, serve_metrics
from services.worker import Work, Worker


class InferenceService:
    """One replica."""

    def __init__(self, config: settings.Settings, instance: str) -> None:
        self._config = config
        self._served = Served(config.inference)
        card = self._served.card
        self._digest = card.recipe.digest  # the same in every version that is taken without a restart
        self._in_process = threading.Lock() if config.inference.backend == "onnx" else None
        self._life = Life("inference", instance, config.broker.root, config.broker, self._details())
        self._bus = self._life.connect(durable=True, receive_maximum=config.worker.receive_maximum)
        share = f"$share/inference-{card.name}/{self._life.topics.mel(card.recipe.id, '+')}"
        self._worker = Worker(self._life, self._bus, config.worker, share, self.process)

    def _details(self) -> dict[str, str]:
        """Return what the status says of this replica."""
        card = self._served.card
        return {
            "model": card.name,
            "model_version": card.version,
            "backend": self._config.inference.backend,
            "recipe": card.recipe.id,
            # What a reader needs to judge 30 s of windows as services/inference/verdict.py does, without the card.
            "window_correlation": f"{card.window_correlation:g}",
            "unsure_below": f"{card.unsure_below:g}",
        }

    def refresh(self) -> None:
        """Take another version of the model, if its folder holds one now, and say so in the status."""
        if self._served.refresh():
            self._life.tell(self._details())

    def process(self, message: Message) -> Work:
        """Turn one tensor message into one result a window, and the ack that follows them.

        Raises:
            ContractError: where it is not a tensor of this model's recipe, or the model's answer is no probability.
            Unavailable: where the engine can't answer now.
        """
        tensor = MelTensor.from_message(message)
        stretch = tensor.stretch
        card, backend = self._served.now
        recipe = card.recipe
        if (stretch.recipe, stretch.recipe_digest) != (recipe.id, self._digest):
            raise ContractError(
                f"made by recipe {stretch.recipe}@{stretch.recipe_digest}, but model {card.name} needs "
                f"{recipe.id}@{self._digest}: featurizer and inference must serve the same model"
            )
        if tensor.features.shape[1:] != recipe.shape:
            raise ContractError(f"a tensor of {tensor.features.shape[1:]} is not {recipe.shape} as its recipe says")
        if self._in_process is not None:
            with self._in_process:  # one message at a time: more cores are more replicas
                scores = backend.scores(tensor.features)
        else:
            scores = backend.scores(tensor.features)
        if not np.isfinite(scores).all():
            raise ContractError(f"model {card.name} answered with values that are not finite")
        results = [
            Message(
                self._life.topics.results,
                self._result(card, stretch, i, scores[i], tensor.levels_dbfs[i]).to_json(),
                content_type="application/json",
            )
            for i in range(stretch.windows)
        ]
        acks = [Ack(stretch.chunk, "done").to_message(tensor.reply_to)]
        return Work(results, acks, needs_reader=self._config.inference.wait_for_reader)

    def _result(
        self, card: Card, stretch: TensorStretch, index: int, scores: NDArray[np.float32], level_dbfs: float
    ) -> Result:
        now = time.time()
        first = stretch.first_samples()[index]
        judged = judge(scores, level_dbfs, card)
        return Result(
            id=stretch.window_id(index, card.name),
            stream=stretch.stream,
            genre=judged.genre,
            confidence=round(judged.confidence, 4),
            kind=judged.kind,
            scores={label: round(float(score), 4) for label, score in zip(card.labels, scores, strict=True)},
            start_s=round(first / SAMPLE_RATE, 3),
            end_s=round((first + (stretch.filled_from or WINDOW)) / SAMPLE_RATE, 3),
            observed_at=utc(stretch.observed_at + index * stretch.hop / SAMPLE_RATE),
            epoch=stretch.epoch,
            padded=stretch.padded,
            title=stretch.title,
            artist=stretch.artist,
            level_dbfs=level_dbfs,
            model=card.name,
            model_version=card.version,
            published_at=utc(now),
            latency_ms=round(max(0.0, now - stretch.received_at) * 1000, 1),
        )

    def run(self) -> None:
        """Work until a signal comes."""
        with self._life.signals():
            serve_metrics(self._config.metrics)
            self._worker.start()
            self._bus.start()
            self._life.run(self._worker.healthy, self._worker.drain, self.refresh)


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML configuration file.")
@click.option("--instance", default="1", show_default=True, help="Name of this replica; stable over restarts.")
def inference(config: Path | None, instance: str) -> None:
    """Turn tensors into genres on `genre/results`.

    \b
    Example: genre inference --config genre.toml --instance 2
    """
    loaded = settings.load(config)
    logs.set_up(loaded.log, f"inference-{instance}")
    InferenceService(loaded, instance).run()
