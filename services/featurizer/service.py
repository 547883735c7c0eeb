"""The featurizer service: PCM chunks in, tensors of one recipe out. It keeps no state: any replica may take any chunk.

The numbers are made in `features.py`; the delivery rules are in services/worker.py. Start at `FeaturizerService`.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

import click
import numpy as np
from pydantic import ValidationError

from services import logs, settings
from services.contract import TENSOR_WINDOW_BYTES, Ack, MelTensor, Message, PcmChunk
from services.errors import GenreError
from services.featurizer.features import Featurizer
from services.featurizer.recipe import Recipe, load_recipe
from services.featurizer.windows import levels
from services.lifecycle import Life, serve_metrics
from services.worker import Work, Worker

QUIETEST_DBFS = -120.0


def recipe_of(config: settings.Settings) -> Recipe:
    """Return the configured recipe: by id, or the one that travels in the model's card.

    Raises:
        GenreError: naming the card and what is wrong with it.
    """
    if config.featurizer.recipe is not None:
        return load_recipe(config.featurizer.recipe)
    path = config.inference.models_dir / config.inference.model / "card.json"
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

    def __init__(self, config: settings.Settings, instance: str) -> None:
        self._config = config
        self._recipe = recipe_of(config)
        self._digest = self._recipe.digest
        details = {"recipe": self._recipe.id, "recipe_digest": self._digest}
        self._life = Life("featurizer", instance, config.broker.root, config.broker, details)
        self._bus = self._life.connect(
            durable=True, receive_maximum=config.worker.receive_maximum, least_payload_bytes=self._tensor_bytes()
        )
        self._featurizer = Featurizer(self._recipe)
        self._lock = threading.Lock()
        # The group's name holds the recipe: two recipes at once are two groups, each with all chunks.
        share = f"$share/featurizer-{self._recipe.id}/{self._life.topics.pcm('+')}"
        self._worker = Worker(self._life, self._bus, config.worker, share, self.process)

    def _tensor_bytes(self) -> int:
        """Return the largest tensor that has to pass: of one window, for the fetcher cuts as few as the broker takes.

        A recipe with more numbers in a window than the fetcher reckons with is not cut smaller.
        """
        window = int(np.prod(self._recipe.shape)) * np.dtype(self._config.featurizer.dtype).itemsize
        return window if window <= TENSOR_WINDOW_BYTES else window * self._config.fetcher.windows_per_chunk

    def process(self, message: Message) -> Work:
        """Turn one PCM chunk into one tensor message.

        Raises:
            ContractError: where it is not a chunk as the contract says.
        """
        chunk = PcmChunk.from_message(message)
        windows = chunk.window_pcm()
        with self._lock:  # its work arrays are one thread's; more cores are more replicas
            features = self._featurizer.features(windows)
        heard = np.maximum(levels(windows).rms_dbfs, QUIETEST_DBFS)
        tensor = MelTensor.of(
            chunk,
            features,
            tuple(float(level) for level in heard),
            self._recipe.id,
            self._digest,
            self._config.featurizer.dtype,
        )
        # A chunk that is sent again tells its fetcher how far it came: that names the stage that is stuck.
        passed = (
            [Ack(chunk.stretch.chunk, "featurized").to_message(chunk.reply_to)] if chunk.stretch.attempt > 1 else []
        )
        return Work([tensor.to_message(self._life.topics)], passed, needs_reader=True)

    def run(self) -> None:
        """Work until a signal comes."""
        with self._life.signals():
            serve_metrics(self._config.metrics)
            self._worker.start()
            self._bus.start()
            self._life.run(self._worker.healthy, self._worker.drain)


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML configuration file.")
@click.option("--instance", default="1", show_default=True, help="Name of this replica; stable over restarts.")
def featurizer(config: Path | None, instance: str) -> None:
    """Turn PCM chunks into mel-spectrogram tensors.

    \b
    Example: genre featurizer --config genre.toml --instance 2
    """
    loaded = settings.load(config)
    logs.set_up(loaded.log, f"featurizer-{instance}")
    FeaturizerService(loaded, instance).run()
