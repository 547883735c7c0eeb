"""The model that answers now: its card and its engine, exchanged together when its folder changes, without a restart.

A new version is a folder moved into the old one's place ('genre train export' does so). Another recipe or other labels
are another model: featurizers and readers must know of it, so that takes a restart. Start at `ModelHandle.refresh`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError
from services.inference.answer import Answer
from services.inference.card import CARD_FILE, MODEL_FILE, Card, load_card
from services.settings import schema

log = logging.getLogger(__name__)

TRITON_START_S = 60.0
Stamp = tuple[tuple[int, int, int], ...]


class Backend(Protocol):
    """An engine that answers for one model."""

    def answer(self, views: Mapping[str, NDArray[np.float32]]) -> Answer:
        """Return the probabilities of some windows, whose tensors are float32 [n, frames, bands], by view."""
        ...


def backend_of(config: schema.Inference, card: Card, *, changed: bool = False) -> Backend:
    """Return the configured engine, proven to answer.

    Args:
        changed: the model's files are others than a running Triton has loaded.

    Raises:
        GenreError: naming the engine, what is wrong and what to do.
    """
    if config.backend == "triton":
        from services.inference.triton_backend import TritonBackend

        remote = TritonBackend(card, config.triton_url, config.deadline_s)
        if changed:
            remote.load()
        remote.wait_ready(TRITON_START_S)
        return remote
    from services.inference.onnx_backend import OnnxBackend

    return OnnxBackend(card)


class ModelHandle:
    """One model, in whatever version its folder holds; `now` may be read by any thread.

    Raises:
        GenreError: as `load_card` and `backend_of` do.
    """

    def __init__(self, config: schema.Inference, engine: Callable[..., Backend] = backend_of) -> None:
        self._config, self._engine = config, engine
        self._stamp = _stamp(config.models_path / config.model)
        card = load_card(config.models_path, config.model)
        self._now = card, engine(config, card)

    @property
    def now(self) -> tuple[Card, Backend]:
        """Return the card and the engine that belongs to it."""
        return self._now

    @property
    def card(self) -> Card:
        """Return the card alone."""
        return self._now[0]

    def refresh(self) -> bool:
        """Take the folder's model if it has changed; tell whether it was taken.

        A folder that is half copied, broken, or of another kind is told of once, and the old model goes on answering.
        """
        stamp = _stamp(self._config.models_path / self._config.model)
        if not stamp or stamp == self._stamp:
            return False
        self._stamp = stamp
        before = self.card
        try:
            card = load_card(self._config.models_path, self._config.model)
            if _promised(card) != _promised(before):
                reason = "has another recipe, other labels, kinds or sounds, which featurizers and readers must know of"
                raise GenreError(f"model {card.name} {card.version}", reason, "restart the services")
            self._now = card, self._engine(self._config, card, changed=True)
        except GenreError as error:
            log.warning("%s; version %s goes on answering", error, before.version)
            return False
        log.info("model %s: version %s answers now, instead of %s", card.name, card.version, before.version)
        return True


def _promised(card: Card) -> tuple[object, ...]:
    """Return what must stay as it is while services run."""
    return card.recipe, card.labels, card.kinds, card.sounds


def _stamp(folder: Path) -> Stamp:
    """Return what changes when a model is exchanged; empty while there is none."""
    try:
        found = [(folder / name).stat() for name in (CARD_FILE, MODEL_FILE)]
    except OSError:
        return ()
    return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in found)
