"""Feature recipes: how a window of audio becomes the numbers a model reads, as data that travels with the model.

A recipe is not code and not a service setting: changing a number here changes what a model sees, so each has an id
and a digest. Start at `load_recipe`; the shipped recipes are the JSON files in services/featurizer/recipes/.
"""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.errors import GenreError

PCM_RATE = 22_050
"""Samples a second of every PCM window, whatever rate a recipe works at."""

Power = Literal[1, 2]


class Recipe(BaseModel):
    """How one PCM window becomes one tensor [frames, bands]; the vocabulary is librosa's.

    The frames are centred: frame i is centred on sample i x hop_length, and the window is padded with zeros by
    n_fft / 2 on both sides, as librosa does. Where `frames` is less than those there are, the first ones are taken.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    kind: Literal["mel", "chroma"]
    window: int = Field(66_000, ge=1_024, le=1_000_000, description="Samples of one PCM window at 22,050 Hz.")
    sample_rate: int = Field(ge=4_000, le=48_000, description="Rate in Hz the window is resampled to first.")
    n_fft: int = Field(ge=64, le=16_384, description="Samples of one Fourier transform; its window is a periodic Hann.")
    hop_length: int = Field(ge=16, le=16_384, description="Samples between frames.")
    frames: int = Field(ge=1, le=10_000, description="Frames of the tensor.")
    bands: int = Field(ge=1, le=1_024, description="n_mels of a mel recipe, n_chroma of a chroma recipe.")
    fmin: float = Field(0.0, ge=0, description="Lower edge in Hz of the lowest mel band; 0 for chroma.")
    fmax: float = Field(gt=0, description="Upper edge in Hz of the highest mel band; half the sample rate for chroma.")
    power: Power = Field(2, description="Exponent of the magnitude: 2 is power, 1 is amplitude.")
    scaling: Literal["power_to_db", "power_to_db_max", "log10_1_10000x", "frame_max"] = Field(
        description="power_to_db: dB of 1.0. power_to_db_max: dB of the window's loudest value, 80 dB deep, so level "
        "does not matter. log10_1_10000x: log10(1 + 10000 x). frame_max: each frame divided by its largest value."
    )

    @model_validator(mode="after")
    def _agree(self) -> Recipe:
        """Refuse numbers that contradict each other."""
        if self.fmax > self.sample_rate / 2 or self.fmin >= self.fmax:
            raise ValueError(
                f"fmin < fmax <= {self.sample_rate / 2:g} Hz is needed, not {self.fmin:g} and {self.fmax:g}"
            )
        if self.frames > 1 + self.samples // self.hop_length:
            raise ValueError(f"{self.samples} samples hold fewer than {self.frames} frames of hop {self.hop_length}")
        if self.kind == "chroma" and (self.fmin != 0 or self.fmax != self.sample_rate / 2):
            raise ValueError("a chroma recipe covers everything from 0 Hz to half the sample rate")
        return self

    @property
    def samples(self) -> int:
        """Samples of a window at the recipe's own rate."""
        return (self.window * self.sample_rate + PCM_RATE // 2) // PCM_RATE

    @property
    def shape(self) -> tuple[int, int]:
        """Frames and bands of one window's tensor."""
        return self.frames, self.bands

    @property
    def digest(self) -> str:
        """Sixteen hex digits that change with any number of the recipe; the id alone would not tell."""
        text = json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def recipe_ids() -> list[str]:
    """Return the ids of the shipped recipes, sorted."""
    names = (item.name for item in files("services.featurizer").joinpath("recipes").iterdir())
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def load_recipe(recipe_id: str) -> Recipe:
    """Return a shipped recipe.

    Raises:
        GenreError: for an id that is not shipped, or a recipe file that has been broken.
    """
    if recipe_id not in recipe_ids():
        raise GenreError(f"recipe {recipe_id!r}", "is not known", f"take one of {', '.join(recipe_ids())}")
    path = files("services.featurizer").joinpath("recipes").joinpath(f"{recipe_id}.json")
    try:
        recipe = Recipe.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise GenreError(f"recipe {recipe_id!r}", f"is broken ({error})", "install genre-edge again") from error
    if recipe.id != recipe_id:
        raise GenreError(f"recipe {recipe_id!r}", f"calls itself {recipe.id!r}", "install genre-edge again")
    return recipe
