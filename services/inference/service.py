"""The inference service: tensors in, results out, then the ack to the fetcher.

Engines are behind one call, `answer(views)`; delivery rules are in services/process/worker.py; what is silent
or unsure is decided in `decision.py`. It keeps no state. Start at `InferenceService.process`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from services.contract.acks import Ack
from services.contract.messages import ContractError, Message, Result
from services.contract.smoothing import Verdict
from services.contract.tensors import MelTensor, TensorHeader
from services.contract.windows import SAMPLE_RATE, WINDOW
from services.inference.answer import Answer
from services.inference.card import Card
from services.inference.decision import decide_windows, loudest_sounds
from services.inference.model_handle import ModelHandle
from services.process import logs
from services.process.lifecycle import ServiceProcess, serve_metrics
from services.process.readers import ReaderWatch
from services.process.worker import Work, Worker
from services.settings import loading, schema
from services.text import utc


class InferenceService:
    """One replica."""

    def __init__(self, config: schema.Settings, instance: str) -> None:
        self._config = config
        self._model = ModelHandle(config.inference)
        card = self._model.card
        self._digest = card.recipe.digest  # the same in every version that is taken without a restart
        self._in_process = threading.Lock() if config.inference.backend == "onnx" else None
        self._lifecycle = ServiceProcess("inference", instance, config.broker.root, config.broker, self._details())
        self._mqtt = self._lifecycle.connect(durable=True, receive_maximum=config.worker.receive_maximum)
        share = f"$share/inference-{card.name}/{self._lifecycle.topics.mel(card.recipe.id, '+')}"
        wait_for = config.inference.wait_for_reader
        reader = ReaderWatch(
            self._lifecycle,
            self._mqtt,
            f"reader {wait_for}" if isinstance(wait_for, str) else "reader of results (genre up, dashboard)",
            lambda status: (
                f"{status.service}/{status.instance}" == wait_for
                if isinstance(wait_for, str)
                else status.service in ("supervisor", "dashboard")
            ),
        )
        self._worker = Worker(
            self._lifecycle, self._mqtt, config.worker, share, self.process, reader if wait_for else None
        )

    def _details(self) -> dict[str, str]:
        """Return what the status says of this replica."""
        card = self._model.card
        return {
            "model": card.name,
            "model_version": card.version,
            "backend": self._config.inference.backend,
            "recipe": card.recipe.id,
            # What a reader needs to judge 30 s of windows by services/contract/smoothing.py without the card.
            "window_correlation": f"{card.window_correlation:g}",
            "unsure_below": f"{card.unsure_below:g}",
            "kinds": ",".join(card.kinds or ()) or "none",
        }

    def refresh(self) -> None:
        """Take another version of the model, if its folder holds one now, and say so in the status."""
        if self._model.refresh():
            self._lifecycle.tell(self._details())

    def process(self, message: Message) -> Work:
        """Turn one tensor message into one result a window, and the ack that follows them.

        Raises:
            ContractError: where it is not a tensor of this model's recipe, or the model's answer is no probability.
            Unavailable: where the engine can't answer now.
        """
        tensor = MelTensor.from_message(message)
        header = tensor.header
        card, backend = self._model.now
        recipe = card.recipe
        if (header.recipe, header.recipe_digest) != (recipe.id, self._digest):
            raise ContractError(
                f"made by recipe {header.recipe}@{header.recipe_digest}, but model {card.name} needs "
                f"{recipe.id}@{self._digest}: featurizer and inference must serve the same model"
            )
        if header.shapes != recipe.shapes:
            raise ContractError(f"a tensor of {header.shapes} is not {recipe.shapes} as its recipe says")
        with self._in_process or contextlib.nullcontext():  # one message at a time: more cores are more replicas
            answer = backend.answer(tensor.views)
        if problem := answer.problem():
            raise ContractError(f"model {card.name} answered, but {problem}")
        results = [
            Message(
                self._lifecycle.topics.results,
                self._result(card, header, i, answer, verdict, tensor.levels_dbfs[i]).to_json(),
                content_type="application/json",
            )
            for i, verdict in enumerate(decide_windows(answer, tensor.levels_dbfs, card))
        ]
        acks = [Ack(header.chunk, "done").to_message(tensor.reply_to)]
        return Work(results, acks, needs_reader=bool(self._config.inference.wait_for_reader))

    def _result(
        self, card: Card, header: TensorHeader, index: int, answer: Answer, verdict: Verdict, level_dbfs: float
    ) -> Result:
        now = time.time()
        first = header.first_samples()[index]
        return Result(
            id=header.window_id(index, card.name),
            stream=header.stream,
            genre=verdict.genre,
            confidence=round(verdict.confidence, 4),
            kind=verdict.kind,
            kinds=_rounded(card.kinds, answer.kinds, index),
            sounds=loudest_sounds(card, None if answer.sounds is None else answer.sounds[index]),
            scores=_rounded(card.labels, answer.scores, index) or {},
            start_s=round(first / SAMPLE_RATE, 3),
            end_s=round((first + (header.filled_from or WINDOW)) / SAMPLE_RATE, 3),
            observed_at=utc(header.observed_at + index * header.hop / SAMPLE_RATE),
            epoch=header.epoch,
            padded=header.padded,
            title=header.title,
            artist=header.artist,
            level_dbfs=level_dbfs,
            model=card.name,
            model_version=card.version,
            published_at=utc(now),
            latency_ms=round(max(0.0, now - header.received_at) * 1000, 1),
        )

    def run(self) -> None:
        """Work until a signal comes."""
        with self._lifecycle.signals():
            serve_metrics(self._config.metrics)
            self._worker.start()
            self._mqtt.start()
            self._lifecycle.run(self._worker.healthy, self._worker.drain, self.refresh)


def _rounded(names: Sequence[str] | None, values: NDArray[np.float32] | None, index: int) -> dict[str, float] | None:
    """Return one window's probabilities by name, as they are published."""
    if names is None or values is None:
        return None
    return {name: round(float(value), 4) for name, value in zip(names, values[index], strict=True)}


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML configuration file.")
@click.option("--instance", default="1", show_default=True, help="Name of this replica; stable over restarts.")
def inference(config: Path | None, instance: str) -> None:
    """Turn tensors into genres on `genre/results`.

    \b
    Example: genre inference --config genre.toml --instance 2
    """
    loaded = loading.load(config)
    logs.set_up(loaded.log, f"inference-{instance}")
    InferenceService(loaded, instance).run()
