"""The model card: everything a service, a person and an auditor need to know of one model, in models/<name>/card.json.

A card is data: a new model is a new folder, and no service code changes. It travels with the model and is checked
against it, so that neither can be changed alone. Start at `load_card`; `Card` lists what a card says.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from services.contract.recipe import ONE_VIEW, Recipe
from services.errors import GenreError
from services.settings.loading import describe
from services.settings.schema import NAME_PATTERN

CARD_FILE = "card.json"
MODEL_FILE = "1/model.onnx"
REFERENCE_FILE = "fp32.onnx"
"""An int8 model's float32 form; not in every folder: it may be too large to be tracked."""
INPUT, OUTPUT = ONE_VIEW, "scores"
"""Of a model that has one view and tells genres alone; services/inference/answer.py knows all there can be."""
KINDS = ("music", "speech", "other")
"""What a model can tell apart before any genre, in the order of its output."""
_EXPORT = "make the folder again with 'genre train export'"
_PIECE_BYTES = 2**18

Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A table of the card; a key that is not listed is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class File(Part):
    """One file of the model's folder."""

    path: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}$", description="Relative to the model's folder.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=1)
    purpose: str = Field(description="What it is for, e.g. 'answers in the service'.")
    precision: str = Field(description="Of weights and arithmetic, e.g. 'fp32' or 'int8 static QDQ'.")


class Evaluation(Part):
    """One measurement, with what is needed to repeat it."""

    protocol: str = Field(description="Which clips, how they were kept apart from training.")
    command: str = Field(description="The command that produced the numbers.")
    precision: str = Field("fp32")
    n_clips: int = Field(ge=1)
    n_windows: int = Field(ge=1)
    clip_accuracy: Share
    clip_interval: tuple[Share, Share] = Field(description="95 % interval of clip_accuracy.")
    window_accuracy: Share
    window_interval: tuple[Share, Share] = Field(description="95 % interval; clips, not windows, are resampled.")
    ece: Share = Field(description="Expected calibration error of single windows, 15 equal-width bins.")
    clip_ece: Share | None = Field(None, description="The same for the verdict of a clip.")
    per_genre: dict[str, Share] = Field(description="Clip accuracy by genre.")


class Cost(Part):
    """What one form of the model costs."""

    form: str = Field(description="e.g. 'ONNX Runtime fp32'.")
    machine: str
    cpu_ms: float = Field(gt=0, description="CPU milliseconds a window, one thread, features not counted.")
    memory_mib: float | None = Field(None, gt=0, description="Resident memory added by the loaded model, MiB.")
    agreement: Share | None = Field(None, description="Share of real windows with the same top genre as fp32.")
    agreement_windows: int | None = Field(None, ge=1)
    command: str


class Ingredient(Part):
    """Something the model was made from."""

    name: str
    licence: str
    source: str


VERSION_PATTERN = r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,31}$"


class Card(Part):
    """What models/<name>/card.json says."""

    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=VERSION_PATTERN, description="Changes with any number of the model.")
    summary: str = Field(description="One sentence for a person choosing a model.")
    labels: tuple[str, ...] = Field(min_length=2, max_length=1_000)
    kinds: tuple[str, ...] | None = Field(
        None, description="music, speech, other: the model tells them apart; unset: it takes everything for music."
    )
    sounds: tuple[str, ...] | None = Field(
        None, min_length=1, max_length=2_000, description="Classes of its sound network; unset: it has none."
    )
    recipe: Recipe
    recipe_digest: str
    max_batch: int = Field(32, ge=1, le=1_024, description="Most windows in one call of Triton.")
    precision: str = Field(description="Of the deployed model.")
    gpu_precision: Literal["fp32", "fp16"] = Field(
        "fp32", description="What a GPU may compute in; it takes the float form, for TensorRT has no int8 like a CPU's."
    )
    parameters: int = Field(ge=1)
    opset: int = Field(ge=7, le=13, description="13 at most: the oldest Jetson runtime reads it.")
    temperature: float = Field(gt=0, description="Already in the graph: logits are divided by it before the softmax.")
    silent_dbfs: float = Field(-60.0, le=0, description="A window quieter than this is silence and gets no genre.")
    unsure_below: Share = Field(description="A window whose best genre is less probable than this is 'unsure'.")
    window_correlation: Share = Field(
        1.0, description="How alike the errors of a clip's windows are: services/inference/decision.py pools with it."
    )
    files: tuple[File, ...] = Field(min_length=1)
    training: dict[str, str] = Field(description="Data, method, seeds, time.")
    evaluations: tuple[Evaluation, ...] = ()
    costs: tuple[Cost, ...] = ()
    ingredients: tuple[Ingredient, ...] = Field(min_length=1)
    faults: tuple[str, ...] = Field(description="Known faults and limits.")

    _folder: Path = PrivateAttr(Path())

    @model_validator(mode="after")
    def _agree(self) -> Card:
        """Refuse a card that contradicts itself."""
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: one stands twice")
        if self.sounds is not None and len(set(self.sounds)) != len(self.sounds):
            raise ValueError("sounds: one stands twice")
        if self.kinds is not None and self.kinds != KINDS:
            raise ValueError(f"kinds are {', '.join(self.kinds) or 'none'}, not {', '.join(KINDS)} in this order")
        if self.recipe.digest != self.recipe_digest:
            raise ValueError(
                f"recipe_digest is {self.recipe_digest}, but the recipe's numbers give {self.recipe.digest}"
            )
        if MODEL_FILE not in {file.path for file in self.files}:
            raise ValueError(f"files: {MODEL_FILE} is not listed")
        if any(".." in file.path.split("/") for file in self.files):
            raise ValueError("files: a path leads out of the folder")
        return self

    @property
    def folder(self) -> Path:
        """Where the card was read from."""
        return self._folder

    def path(self, name: str = MODEL_FILE) -> Path:
        """Return the place of one of the model's files."""
        return self._folder / name

    def float_path(self) -> Path | None:
        """Return the place of the float form, which GPUs take and int8 is compared with; None where it is not here."""
        reference = self._folder / REFERENCE_FILE
        if reference.is_file():
            return reference
        return self.path() if self.precision == "fp32" else None

    def has(self, name: str) -> bool:
        """Tell whether the card lists a file."""
        return any(file.path == name for file in self.files)


def model_names(models_dir: Path) -> list[str]:
    """Return the folders of models_dir that hold a card, sorted."""
    try:
        return sorted(folder.name for folder in models_dir.iterdir() if (folder / CARD_FILE).is_file())
    except OSError:
        return []


def load_card(models_dir: Path, name: str) -> Card:
    """Read a model's card and check it against the files beside it.

    Args:
        models_dir: the folder of models.
        name: the model's folder and name.

    Raises:
        GenreError: for a model that is missing, a card that is broken, or files whose digests are not those of the
            card. What the ONNX file takes and gives is compared with the card by the engine that loads it.
    """
    folder = models_dir / name
    if not re.match(NAME_PATTERN, name) or not (folder / CARD_FILE).is_file():
        there = ", ".join(model_names(models_dir)) or "none; see docs/models.md"
        raise GenreError(f"model {name!r}", f"is not in {models_dir}", f"choose one of those there: {there}")
    try:
        card = Card.model_validate_json((folder / CARD_FILE).read_bytes())
    except OSError as error:
        raise GenreError(str(folder / CARD_FILE), f"can't be read ({error})", _EXPORT) from error
    except ValidationError as error:
        raise GenreError(str(folder / CARD_FILE), describe(error)[:500], _EXPORT) from error
    if card.name != name:
        raise GenreError(str(folder / CARD_FILE), f"is the card of {card.name!r}, not of {name!r}", _EXPORT)
    card._folder = folder
    for file in card.files:
        _check_file(folder / file.path, file)
    return card


def _check_file(path: Path, file: File) -> None:
    """Refuse a file that is not the one the card was written for."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as content:
            while piece := content.read(_PIECE_BYTES):  # not at once: it can be 100 MB
                digest.update(piece)
                size += len(piece)
    except OSError as error:
        raise GenreError(str(path), f"can't be read ({error.strerror})", _EXPORT) from error
    if size != file.bytes or digest.hexdigest() != file.sha256:
        raise GenreError(str(path), "is not the file its card was written for (sha256 differs)", _EXPORT)
