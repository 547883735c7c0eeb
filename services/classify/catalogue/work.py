"""What a worker does: some tracks in, a row for each out. Nothing heavy is imported until the first batch arrives.

The scheduler imports this module too, to read what passes through it. Not here: Dask, Parquet, and which tracks there
are. Start at `classify_batch`.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services.errors import GenreError
from services.settings import loading, schema

if TYPE_CHECKING:
    from services.classify.pipeline import Pipeline
    from services.inference.card import Card

UNKNOWN = -1
"""Size and time of a file that could not be looked at."""
FOLDER = "folder"
"""Kind of a row that stands for a folder which could not be listed."""


@dataclass(frozen=True)
class Order:
    """What every worker must agree on, or one catalogue would hold answers of several models.

    Attributes:
        models_dir: where the client has its models; a worker that has none there takes those of its configuration.
        hop: samples between windows.
    """

    program: str
    distributed: str
    model: str
    model_version: str
    model_digest: str
    recipe_digest: str
    labels: tuple[str, ...]
    hop: int
    models_dir: str


@dataclass(frozen=True)
class Track:
    """One file to classify.

    Attributes:
        path: absolute.
        size: bytes, as the client saw them; UNKNOWN where it could not look.
        mtime_ns: time of the last change, nanoseconds since 1970; UNKNOWN as above.
        folder_error: why this is no file but a folder that could not be listed.
    """

    path: str
    size: int = UNKNOWN
    mtime_ns: int = UNKNOWN
    folder_error: str = ""

    @classmethod
    def at(cls, path: str, about: os.stat_result) -> Track:
        """Return the track of a file that was looked at; a time beyond the year 2262 does not fit and is cut."""
        return cls(path, about.st_size, max(-(1 << 63), min(about.st_mtime_ns, (1 << 63) - 1)))

    @property
    def seen(self) -> bool:
        """Whether the client could look at it."""
        return self.size != UNKNOWN


@dataclass(frozen=True)
class Row:
    """One file's answer, as it goes into the catalogue.

    Attributes:
        scores: probability of each label, in the order of the model's card; None where there is an error.
        note: what was odd about a file that was classified.
        error: why it was not classified; '' where it was.
        unopened: the error is that it could not even be opened.
    """

    track: Track
    seconds: float = 0.0
    genre: str | None = None
    confidence: float | None = None
    kind: str | None = None
    scores: tuple[float, ...] | None = None
    windows: int = 0
    title: str = ""
    artist: str = ""
    note: str = ""
    error: str = ""
    unopened: bool = False


@dataclass(frozen=True)
class Answer:
    """What comes back from a worker.

    Attributes:
        worker: its address.
        unfit: reason and remedy, where it may not take part; then there are no rows.
    """

    worker: str
    rows: tuple[Row, ...] = ()
    unfit: tuple[str, str] | None = None


_own = threading.local()
"""A pipeline a thread, for one can't be shared; kept from batch to batch."""


def versions() -> tuple[str, str]:
    """Return the versions of genre-edge and of Dask here."""
    import distributed

    from services.process.lifecycle import product_version

    return product_version(), str(distributed.__version__)


def check(order: Order) -> Answer:
    """Load the model and tell whether this worker may take part."""
    return classify_batch(order, ())


def classify_batch(order: Order, tracks: tuple[Track, ...]) -> Answer:
    """Classify some tracks; one that can't be classified is an answer, too."""
    from distributed import get_worker

    address: str = get_worker().address
    try:
        pipeline = _pipeline(order)
    except GenreError as error:
        return Answer(address, unfit=(f"{error.thing} {error.reason}", error.remedy))
    return Answer(address, tuple(_row(pipeline, track) for track in tracks))


def _row(pipeline: Pipeline, track: Track) -> Row:
    if track.folder_error:
        return Row(track, kind=FOLDER, error=track.folder_error)
    path = Path(track.path)
    try:
        # Opened here first, for libav does not say whether a file is missing, forbidden or no audio.
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
    except OSError as error:
        if not path.is_dir():
            return Row(track, error=f"can't be opened ({error.strerror or error})", unopened=True)
        about = path.stat()
    if not track.seen:
        track = Track.at(track.path, about)
    try:
        found = pipeline.classify(path)
    except GenreError as error:
        return Row(track, error=error.reason)
    except Exception as error:  # a defect met by one file must not cost the others
        return Row(track, error=f"{type(error).__name__}: {error}"[:300])
    verdict = found.verdict
    assert verdict is not None
    scores = tuple(verdict.scores.get(label, 0.0) for label in pipeline.card.labels)
    return Row(
        track, found.seconds, verdict.genre, verdict.confidence, verdict.kind, scores,
        len(found.windows), found.title, found.artist, found.problem,
    )  # fmt: skip


def _pipeline(order: Order) -> Pipeline:
    """Return this thread's pipeline.

    Raises:
        GenreError: this worker would answer otherwise than the order says.
    """
    if getattr(_own, "order", None) != order:
        _own.pipeline, _own.order = _load(order), order
    pipeline: Pipeline = _own.pipeline
    return pipeline


def _load(order: Order) -> Pipeline:
    for what, wanted, found in zip(
        ("genre-edge", "distributed"), (order.program, order.distributed), versions(), strict=True
    ):
        _same(what, wanted, found, f"install {wanted} there")
    from services.classify.pipeline import Pipeline

    models_dir = Path(order.models_dir)
    if not (models_dir / order.model / "card.json").is_file():
        models_dir = own_models_dir(loading.load(), order.model)
    pipeline = Pipeline(models_dir, order.model, order.hop)
    here = f"{pipeline.card.version} ({model_digest(pipeline.card)})"
    _same(
        f"model {order.model}", f"{order.model_version} ({order.model_digest})", here, f"copy the model to {models_dir}"
    )
    return pipeline


def _same(what: str, wanted: str, found: str, remedy: str) -> None:
    if found != wanted:
        raise GenreError(what, f"is {found} there and {wanted} here", remedy)


def own_models_dir(loaded: schema.Settings, model: str) -> Path:
    """Return this machine's folder that holds a model."""
    return Path(os.path.realpath(loaded.inference.model_copy(update={"model": model}).models_path))


def model_digest(card: Card) -> str:
    """Return twelve hex digits that change with anything in a model that changes an answer."""
    files = {file.path: file.sha256 for file in card.files}
    parts = (
        files["1/model.onnx"], card.recipe_digest, card.labels, card.silent_dbfs, card.unsure_below,
        card.window_correlation,
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
