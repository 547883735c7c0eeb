"""Feature recipes: how a window of audio becomes the numbers a model reads, as data that travels with the model.

A recipe is not code and not a service setting: changing a number here changes what a model sees, so each has an id
and a digest. Start at `load_recipe`; the shipped recipes are the JSON files in services/contract/recipes/.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer, model_validator

from services.contract.windows import SAMPLE_RATE
from services.errors import GenreError

Power = Literal[1, 2]
Scaling = Literal["power_to_db", "power_to_db_max", "log10_1_10000x", "log_0.001", "log_1e-5", "frame_max"]

ONE_VIEW = "features"
"""Name of the view of a recipe that has one and does not name it; its numbers stand in the recipe itself."""
_FLAT = ("id", "window", "sample_rate", "level_dbfs", "views")
_LATER: dict[str, Any] = {"preemphasis": None, "win_length": None, "htk": False, "norm": "slaney"}
"""What a view says only where it differs: a recipe without it keeps the digest that it had before there was such a
thing."""


class View(BaseModel):
    """One set of features of a window: a tensor [frames, bands]; the vocabulary is librosa's.

    The frames are centred: frame i is centred on sample i x hop_length, and the window is padded with zeros by
    n_fft / 2 on both sides, as librosa does. Where `frames` is less than those there are, the first ones are taken.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(ONE_VIEW, pattern=r"^[a-z][a-z0-9_]{0,31}$", description="Also of the model's input.")
    kind: Literal["mel", "chroma"]
    preemphasis: float | None = Field(
        None, gt=0, lt=1, description="From each sample so much of the one before is taken first; unset leaves it."
    )
    n_fft: int = Field(ge=64, le=16_384, description="Samples of one Fourier transform.")
    win_length: int | None = Field(
        None, ge=16, le=16_384, description="Samples of the periodic Hann window, centred in n_fft; unset is n_fft."
    )
    hop_length: int = Field(ge=16, le=16_384, description="Samples between frames.")
    frames: int = Field(ge=1, le=4_096, description="Frames of the tensor.")
    bands: int = Field(ge=1, le=1_024, description="n_mels of a mel view, n_chroma of a chroma view.")
    fmin: float = Field(0.0, ge=0, allow_inf_nan=False, description="Lower edge in Hz of the lowest mel band.")
    fmax: float = Field(gt=0, allow_inf_nan=False, description="Upper edge in Hz of the highest mel band.")
    htk: bool = Field(False, description="HTK's mel scale instead of Slaney's.")
    norm: Literal["slaney"] | None = Field("slaney", description="slaney: triangles of unit area. null: of height 1.")
    power: Power = Field(2, description="Exponent of the magnitude: 2 is power, 1 is amplitude.")
    scaling: Scaling = Field(
        description="power_to_db: dB of 1.0. power_to_db_max: dB of the window's loudest value, 80 dB deep, so level "
        "does not matter. log10_1_10000x: log10(1 + 10000 x). log_0.001 and log_1e-5: ln(x + 0.001), ln(x + 0.00001). "
        "frame_max: each frame divided by its largest value."
    )

    @model_validator(mode="after")
    def _agree(self) -> View:
        """Refuse numbers that contradict each other."""
        if self.win_length is not None and self.win_length > self.n_fft:
            raise ValueError(f"win_length {self.win_length} is more than n_fft {self.n_fft}")
        if self.kind == "chroma" and (self.htk or self.norm is None):
            raise ValueError("htk and norm are for mel, not for chroma")
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """Frames and bands of one window's tensor."""
        return self.frames, self.bands


class Recipe(BaseModel):
    """How one PCM window becomes what a model reads: resampled once, then one tensor a view.

    In JSON a recipe of one view holds the view's numbers itself; one of several has them in `views`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    window: int = Field(66_000, ge=1_024, le=1_000_000, description="Samples of one PCM window at 22,050 Hz.")
    sample_rate: int = Field(ge=4_000, le=48_000, description="Rate in Hz the window is resampled to first.")
    level_dbfs: float | None = Field(
        None,
        ge=-60,
        le=0,
        allow_inf_nan=False,
        description="Each window is set to this RMS level first, so that loudness says nothing; unset leaves it.",
    )
    views: tuple[View, ...] = Field(min_length=1, max_length=8, description="Feature sets of one window.")

    @model_validator(mode="before")
    @classmethod
    def _one_view(cls, values: Any) -> Any:
        """Read the form of a recipe of one view."""
        if isinstance(values, Mapping) and "views" not in values:
            view = {key: value for key, value in values.items() if key not in _FLAT}
            return {**{key: value for key, value in values.items() if key in _FLAT}, "views": (view,)}
        return values

    @model_serializer(mode="plain")
    def _as_json(self) -> dict[str, Any]:
        """Write the form that `_one_view` reads, without what has not changed since recipes could not say it."""
        values: dict[str, Any] = {"id": self.id, "window": self.window, "sample_rate": self.sample_rate}
        if self.level_dbfs is not None:
            values["level_dbfs"] = self.level_dbfs
        views = [
            {key: value for key, value in view.model_dump().items() if value != _LATER.get(key, ...)}
            for view in self.views
        ]
        if len(views) == 1 and views[0]["name"] == ONE_VIEW:
            return {**values, **{key: value for key, value in views[0].items() if key != "name"}}
        return {**values, "views": views}

    @model_validator(mode="after")
    def _agree(self) -> Recipe:
        """Refuse numbers that contradict each other."""
        names = [view.name for view in self.views]
        if len(set(names)) != len(names):
            raise ValueError(f"views: one name stands twice in {', '.join(names)}")
        half = self.sample_rate / 2
        for view in self.views:
            if view.fmax > half or view.fmin >= view.fmax:
                raise ValueError(f"fmin < fmax <= {half:g} Hz is needed, not {view.fmin:g} and {view.fmax:g}")
            if view.frames > 1 + self.samples // view.hop_length:
                raise ValueError(
                    f"{self.samples} samples hold fewer than {view.frames} frames of hop {view.hop_length}"
                )
            if view.kind == "chroma" and (view.fmin != 0 or view.fmax != half):
                raise ValueError("a chroma view covers everything from 0 Hz to half the sample rate")
        return self

    @property
    def samples(self) -> int:
        """Samples of a window at the recipe's own rate."""
        return (self.window * self.sample_rate + SAMPLE_RATE // 2) // SAMPLE_RATE

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Frames and bands of one window's tensors, by the view's name."""
        return {view.name: view.shape for view in self.views}

    @property
    def view(self) -> View:
        """The view of a recipe that has one.

        Raises:
            ValueError: it has several.
        """
        if len(self.views) != 1:
            raise ValueError(f"recipe {self.id} has {len(self.views)} views, not one")
        return self.views[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Frames and bands of the one view's tensor; ValueError where there are several."""
        return self.view.shape

    @property
    def digest(self) -> str:
        """Sixteen hex digits that change with any number of the recipe; the id alone would not tell."""
        text = json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def recipe_ids() -> list[str]:
    """Return the ids of the shipped recipes, sorted."""
    names = (item.name for item in files("services.contract").joinpath("recipes").iterdir())
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def load_recipe(recipe_id: str) -> Recipe:
    """Return a shipped recipe.

    Raises:
        GenreError: for an id that is not shipped, or a recipe file that has been broken.
    """
    if recipe_id not in recipe_ids():
        raise GenreError(f"recipe {recipe_id!r}", "is not known", f"take one of {', '.join(recipe_ids())}")
    path = files("services.contract").joinpath("recipes").joinpath(f"{recipe_id}.json")
    try:
        recipe = Recipe.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise GenreError(f"recipe {recipe_id!r}", f"is broken ({error})", "install genre-edge again") from error
    if recipe.id != recipe_id:
        raise GenreError(f"recipe {recipe_id!r}", f"calls itself {recipe.id!r}", "install genre-edge again")
    return recipe
