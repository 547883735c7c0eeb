"""The featurizer service: PCM chunks in, tensors of one recipe out. It keeps no state: any replica may take any chunk.

The numbers are made in `features.py`; the delivery rules are in services/process/worker.py. Start at
`FeaturizerService`.
"""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import click
import numpy as np
from pydantic import ValidationError

from services.contract.acks import Ack
from services.contract.chunks import MAX_PAYLOAD_BYTES, TENSOR_WINDOW_BYTES, Chunk
from services.contract.messages import Message
from services.contract.recipe import Recipe, load_recipe
from services.contract.tensors import MelTensor
from services.errors import GenreError
from services.featurizer.features import Featurizer
from services.featurizer.levels import levels
from services.process import logs
from services.process.lifecycle import ServiceProcess, serve_metrics
from services.process.readers import ReaderWatch
from services.process.worker import Work, Worker
from services.settings import loading, schema

QUIETEST_DBFS = -120.0


def recipe_of(config: schema.Settings) -> Recipe:
    """Return the configured recipe: by id, or the one that travels in the model's card.

    Raises:
        GenreError: naming the card and what is wrong with it.
    """
    if config.featurizer.recipe is not None:
        return load_recipe(config.featurizer.recipe)
    path = config.inference.models_path / config.inference.model / "card.json"
    try:
        return Recipe.model_validate(json.loads(path.read_bytes())["recipe"])
    except OSError as error:
        raise GenreError(
            f"model {config.inference.model}",
            f"its card {path} can't be read ({error.strerror})",
            "set inference.model and inference.models_dir to a model that is there",
        ) from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise GenreError(str(path), f"its recipe is broken ({error})", "export the model again") from error


class FeaturizerService:
    """One replica."""

    def __init__(self, config: schema.Settings, instance: str) -> None:
        self._config = config
        self._recipe = recipe_of(config)
        self._digest = self._recipe.digest
        details = {"recipe": self._recipe.id, "recipe_digest": self._digest}
        self._lifecycle = ServiceProcess("featurizer", instance, config.broker.root, config.broker, details)
        self._mqtt = self._lifecycle.connect(
            durable=True, receive_maximum=config.worker.receive_maximum, least_payload_bytes=self._least_payload_bytes()
        )
        self._featurizer = Featurizer(self._recipe)
        self._lock = threading.Lock()
        # The group's name holds the recipe: two recipes at once are two groups, each with all chunks.
        share = f"$share/featurizer-{self._recipe.id}/{self._lifecycle.topics.pcm('+')}"
        reader = ReaderWatch(
            self._lifecycle,
            self._mqtt,
            f"inference service for recipe {self._recipe.id}",
            lambda status: status.service == "inference" and status.details.get("recipe") == self._recipe.id,
        )
        self._worker = Worker(self._lifecycle, self._mqtt, config.worker, share, self.process, reader)

    def _window_bytes(self, dtype: str) -> int:
        """Return the bytes of one window's tensors."""
        return sum(math.prod(shape) for shape in self._recipe.shapes.values()) * np.dtype(dtype).itemsize

    def _dtype(self, windows: int) -> str:
        """Return the configured type, or float16 where some windows would not fit into a message otherwise."""
        most = min(MAX_PAYLOAD_BYTES, self._mqtt.limits.payload_bytes or MAX_PAYLOAD_BYTES)
        fits = windows * self._window_bytes("float32") <= most
        return self._config.featurizer.dtype if fits else "float16"

    def _least_payload_bytes(self) -> int:
        """Return the largest tensor that has to pass: of one window: the fetcher cuts as few as the broker takes.

        A recipe with more numbers in a window than the fetcher reckons with is not cut smaller.
        """
        window = self._window_bytes("float16")
        return window if window <= TENSOR_WINDOW_BYTES else window * self._config.fetcher.windows_per_chunk

    def process(self, message: Message) -> Work:
        """Turn one PCM chunk into one tensor message.

        Raises:
            ContractError: where it is not a chunk as the contract says.
        """
        chunk = Chunk.from_message(message)
        windows = chunk.window_pcm()
        with self._lock:  # its work arrays are one thread's; more cores are more replicas
            views = self._featurizer.views(windows)
        heard = np.maximum(levels(windows).rms_dbfs, QUIETEST_DBFS)
        tensor = MelTensor.of(
            chunk,
            views,
            tuple(float(level) for level in heard),
            self._recipe.id,
            self._digest,
            self._dtype(len(windows)),
        )
        # A chunk that is sent again tells its fetcher how far it came: that names the stage that is stuck.
        passed = [Ack(chunk.header.chunk, "featurized").to_message(chunk.reply_to)] if chunk.header.attempt > 1 else []
        return Work([tensor.to_message(self._lifecycle.topics)], passed, needs_reader=True)

    def run(self) -> None:
        """Work until a signal comes."""
        with self._lifecycle.signals():
            serve_metrics(self._config.metrics)
            self._worker.start()
            self._mqtt.start()
            self._lifecycle.run(self._worker.healthy, self._worker.drain)


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML configuration file.")
@click.option("--instance", default="1", show_default=True, help="Name of this replica; stable over restarts.")
def featurizer(config: Path | None, instance: str) -> None:
    """Turn PCM chunks into mel-spectrogram tensors.

    \b
    Example: genre featurizer --config genre.toml --instance 2
    """
    loaded = loading.load(config)
    logs.set_up(loaded.log, f"featurizer-{instance}")
    FeaturizerService(loaded, instance).run()
