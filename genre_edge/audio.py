"""Audio files to arrays, and arrays to answers, by the services' own parts. Start at `Model`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.classify.audio_file import Heard
from services.classify.decode import pieces
from services.classify.pipeline import Classified, Pipeline, windowed
from services.contract.recipe import load_recipe
from services.errors import GenreError
from services.featurizer.features import Featurizer
from services.inference.answer import Answer
from services.inference.card import Card
from services.settings import schema

Path_ = str | os.PathLike[str]


def windows(path: Path_) -> NDArray[np.int16]:
    """Return a file's windows of 3 s, every 1.5 s: int16 [n, 66000], 22,050 Hz, mono.

    The last one ends with the audio. All are held in memory, 5 MB a minute; `Model.classify` holds a few at a time.

    Raises:
        GenreError: for a file that can't be heard, or lasts less than 1 s.
    """
    found = [pcm for _, _, pcm in windowed(pieces(Path(path), Heard()))]
    if not found:
        raise GenreError(str(path), "lasts less than 1 s", "give a longer file")
    return np.stack(found)


def features(path: Path_, recipe: str = "vgg16") -> dict[str, NDArray[np.float32]]:
    """Return what a model reads of a file's windows, by the view's name: float32 [n, frames, bands] each.

    Args:
        recipe: the id of a shipped one (`recipe_ids()`); a card's own recipe: `Model(...).features`.

    Raises:
        GenreError: as `windows`, and for a recipe that is not shipped.
    """
    return Featurizer(load_recipe(recipe)).views(windows(path))


class Model:
    """A model ready to answer; not for use by two threads at once.

    Args:
        name: its folder; None takes the one that services use.
        models: folder of models; None takes `models` here, or the project's own.

    Raises:
        GenreError: for a model that is missing or broken.
    """

    def __init__(self, name: str | None = None, models: Path_ | None = None) -> None:
        settings = schema.Inference()
        name = name or settings.model
        place = settings.model_copy(update={"model": name}).models_path if models is None else Path(models)
        self._pipeline = Pipeline(place, name)

    @property
    def card(self) -> Card:
        """What the model is: labels, recipe, accuracy, faults."""
        return self._pipeline.card

    def classify(self, path: Path_) -> Classified:
        """Return a file's genre, as `genre classify` gives it, with each window's.

        Raises:
            GenreError: for a file that can't be heard.
        """
        return self._pipeline.classify(Path(path))

    def features(self, pcm: NDArray[np.int16]) -> dict[str, NDArray[np.float32]]:
        """Return what this model reads of windows [n, 66000], by the view's name."""
        return self._pipeline.featurizer.views(pcm)

    def answer(self, pcm: NDArray[np.int16]) -> Answer:
        """Return probabilities of windows [n, 66000]: `scores` [n, labels], `kinds` [n, 3], `sounds` [n, classes]."""
        return self._pipeline.backend.answer(self.features(pcm))
