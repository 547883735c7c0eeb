"""Writes a model's folder, all of it or nothing: models/<name>/ as Triton and the services read it.

    models/<name>/card.json           what it is
    models/<name>/config.pbtxt        how Triton runs it
    models/<name>/1/model.onnx        what answers: features in, calibrated probabilities out
    models/<name>/1/model.py          Triton's Python backend around it (target cpu)
    models/<name>/tag_head.onnx       the same head from tag activations, where the model has one
    models/<name>/fp32.onnx           the float32 form of an int8 model: to compare with, and for GPUs

Start at `write`. Nothing here trains.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from services.errors import GenreError
from services.inference.card import CARD_FILE, MODEL_FILE, REFERENCE_FILE, Card, File, load_card
from services.settings import describe
from training.triton_config import config

CONFIG_FILE = "config.pbtxt"
TRITON_FILE = "1/model.py"
TAG_HEAD_FILE = "tag_head.onnx"
GPU_FILE = "1/fp32.onnx"
"""Where Triton on a GPU reads the float form of an int8 model: beside model.onnx, for it looks nowhere else."""
_TRITON_SOURCE = Path(__file__).parent / "triton" / "model.py"


def file_of(path: str, content: bytes, purpose: str, precision: str) -> File:
    """Describe one file of the folder."""
    return File(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        purpose=purpose,
        precision=precision,
    )


def write(
    models_dir: Path,
    values: Mapping[str, Any],
    contents: Mapping[str, tuple[bytes, str, str]],
    target: str = "cpu",
    reference: bytes | None = None,
) -> Card:
    """Write models_dir/<name>/ and return its card, read back and checked.

    The folder is made beside its place and moved there whole, so that neither a crash nor a wrong model leaves half
    of one; a folder of that name is replaced.

    Args:
        values: the card's fields, without files.
        contents: path in the folder -> (content, purpose, precision); must hold 1/model.onnx.
        target: see training/triton_config.py.
        reference: the float32 form, where it is too large to be tracked: written, but no file of the card.

    Raises:
        GenreError: for values that make no card, a model that does not fit them, an int8 model without its float form
            for a GPU, or a folder that can't be written.
    """
    files = [file_of(path, *content) for path, content in contents.items()]
    try:
        card = Card.model_validate({**values, "files": files})
    except ValidationError as error:
        raise GenreError(str(values.get("name")), f"makes no model card: {describe(error)[:500]}", "mend it") from error
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=models_dir) as scratch:
            folder = Path(scratch) / card.name
            (folder / "1").mkdir(parents=True)
            for path, (content, _, _) in contents.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
            if reference is not None:
                (folder / REFERENCE_FILE).write_bytes(reference)
            _write_around(folder, card, target)
            load_card(Path(scratch), card.name)
            place = models_dir / card.name
            old = Path(scratch) / "old"
            if place.exists():
                place.rename(old)
            folder.rename(place)
    except OSError as error:
        raise GenreError(str(models_dir), f"can't be written ({error})", "give --models a writable folder") from error
    return load_card(models_dir, card.name)


def rewrite(card: Card, target: str = "cpu", **changes: Any) -> Card:
    """Write a card with some fields changed, and what is made from it, into the folder it was read from."""
    values = {**card.model_dump(exclude={"files"}), **changes}
    contents = {f.path: (card.path(f.path).read_bytes(), f.purpose, f.precision) for f in card.files}
    beside = card.path(REFERENCE_FILE)
    reference = beside.read_bytes() if beside.is_file() and not card.has(REFERENCE_FILE) else None
    return write(card.folder.parent, values, contents, target, reference)


def _write_around(folder: Path, card: Card, target: str) -> None:
    """Write what is made from the card: the card itself, Triton's configuration and its model.py."""
    (folder / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
    file = MODEL_FILE
    if target == "cpu":
        shutil.copyfile(_TRITON_SOURCE, folder / TRITON_FILE)
    elif card.precision != "fp32":
        if not (folder / REFERENCE_FILE).is_file():
            reason = f"is {card.precision}, and its float32 form {REFERENCE_FILE} is not here, which {target} needs"
            raise GenreError(card.name, reason, "make the model again: docs/models.md says how")
        file = GPU_FILE
        shutil.copyfile(folder / REFERENCE_FILE, folder / GPU_FILE)
    (folder / CONFIG_FILE).write_text(config(card, target, file), encoding="utf-8")


__all__ = [
    "CONFIG_FILE",
    "GPU_FILE",
    "MODEL_FILE",
    "REFERENCE_FILE",
    "TAG_HEAD_FILE",
    "TRITON_FILE",
    "file_of",
    "rewrite",
    "write",
]
