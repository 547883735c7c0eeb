"""Writes a model's folder, all of it or nothing: models/<name>/ as the services read it.

    models/<name>/card.json           what it is
    models/<name>/1/model.onnx        what answers: features in, calibrated probabilities out
    models/<name>/tag_head.onnx       the same head from tag activations, where the model has one
    models/<name>/clips.csv           which clips it learnt from and was judged on, where its run tells
    models/<name>/fp32.onnx           the float32 form of an int8 model: to compare with, and for GPUs

Start at `write`. Nothing here trains.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from pydantic import ValidationError

from services.errors import GenreError
from services.inference.card import CARD_FILE, MODEL_FILE, REFERENCE_FILE, VERSION_PATTERN, Card, File, load_card
from services.inference.onnx_backend import OnnxBackend
from services.settings.loading import describe
from services.settings.schema import NAME_PATTERN

TAG_HEAD_FILE = "tag_head.onnx"
CLIPS_FILE = "clips.csv"
"""Which clips the model learnt from and was judged on: clip, genre, artist, part."""


BASE = "genre-sounds"
"""The shipped model whose networks and head for kinds others may be made with."""


def models_folder(default: Path = Path("models"), name: str = "") -> Path:
    """Return the folder of models: here, or the project's own where there is none here or it alone has that model."""
    own = Path(__file__).resolve().parents[1] / default
    here = (default / name).is_dir() or (default.is_dir() and not (own / name).is_dir())
    return default if here else own


def shipped() -> Path:
    """Return the shipped model's ONNX file.

    Raises:
        GenreError: where only the package is installed, which brings no models.
    """
    place = models_folder(name=BASE) / BASE / MODEL_FILE
    if not place.is_file():
        remedy = "copy models/ of the project here, or give --networks"
        raise GenreError(f"model {BASE!r}", "is not in models/ here, and none came with the package", remedy)
    return place


def command(*words: str | Path) -> str:
    """Return a command as a card has it: files by their last name, so that it tells nothing of the machine."""
    return shlex.join(["genre", "train", *(word.name if isinstance(word, Path) else word for word in words)])


def as_given(context: click.Context) -> str:
    """Return the command that is being run, as a card has it: the options that were given, in the order of its help."""
    words: list[str | Path] = []
    for option in context.command.params:
        if option.name and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            value = context.params[option.name]
            for each in value if option.multiple else (value,):
                words.append(option.opts[-1])
                if not getattr(option, "is_flag", False):
                    words.append(each if isinstance(each, Path) else str(each))
    return command(context.info_name or "", *words)


def listed(names: Sequence[str], word: str = "and") -> str:
    """Return names as a sentence has them."""
    return f"{', '.join(names[:-1])} {word} {names[-1]}"


def clips_csv(rows: Iterable[Sequence[str]]) -> str:
    """Return `CLIPS_FILE`'s text.

    Args:
        rows: clip, genre, artist and part of each.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("clip", "genre", "artist", "part"))
    writer.writerows(rows)
    return text.getvalue()


def file_of(path: str, content: bytes, purpose: str, precision: str) -> File:
    """Describe one file of the folder."""
    return File(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        purpose=purpose,
        precision=precision,
    )


def refuse_name(name: str, version: str) -> None:
    """Refuse at once what can be no model's name or version.

    Raises:
        GenreError: as `write` does, after the work.
    """
    for option, value, pattern in (("--name", name, NAME_PATTERN), ("--version", version, VERSION_PATTERN)):
        if not re.fullmatch(pattern, value):
            raise GenreError(option, f"{value!r} is no such thing", f"give one that matches {pattern}")


def write(
    models_dir: Path,
    values: Mapping[str, Any],
    contents: Mapping[str, tuple[bytes, str, str]],
    reference: bytes | None = None,
) -> Card:
    """Write models_dir/<name>/ and return its card, read back and checked.

    The folder is made beside its place and moved there whole, so that neither a crash nor a wrong model leaves half
    of one; a folder of that name is replaced.

    Args:
        values: the card's fields, without files.
        contents: path in the folder -> (content, purpose, precision); must hold 1/model.onnx.
        reference: the float32 form, where it is too large to be tracked: written, but no file of the card.

    Raises:
        GenreError: for values that make no card, a model that does not fit them, or a folder that can't be written.
    """
    files = [file_of(path, *content) for path, content in contents.items()]
    try:
        card = Card.model_validate({**values, "files": files})
    except ValidationError as error:
        raise GenreError(
            str(values.get("name")), f"makes no model card: {describe(error)[:500]}", "correct it"
        ) from error
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
            (folder / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
            OnnxBackend(load_card(Path(scratch), card.name))  # its inputs and outputs are those of the card
            place = models_dir / card.name
            old = Path(scratch) / "old"
            if place.exists() or place.is_symlink():
                place.rename(old)
            try:
                folder.rename(place)
            except OSError:
                if old.exists() or old.is_symlink():
                    old.rename(place)  # what answered before goes on
                raise
    except OSError as error:
        raise GenreError(str(models_dir), f"can't be written ({error})", "give --models a writable folder") from error
    return load_card(models_dir, card.name)


def rewrite(card: Card, **changes: Any) -> Card:
    """Write a card with some fields changed into the folder it was read from."""
    values = {**card.model_dump(exclude={"files"}), **changes}
    contents = {f.path: (card.path(f.path).read_bytes(), f.purpose, f.precision) for f in card.files}
    beside = card.path(REFERENCE_FILE)
    reference = beside.read_bytes() if beside.is_file() and not card.has(REFERENCE_FILE) else None
    return write(card.folder.parent, values, contents, reference)


def known_clips(card: Card) -> set[str]:
    """Return the names of the clips that a model learnt from or was chosen by, as far as its folder tells.

    Raises:
        GenreError: for a list that is none.
    """
    if not card.has(CLIPS_FILE):
        return set()
    try:
        with card.path(CLIPS_FILE).open(encoding="utf-8", newline="") as file:
            return {row["clip"] for row in csv.DictReader(file) if row["part"] in ("train", "valid")}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        remedy = "make the folder again with 'genre train export'"
        raise GenreError(str(card.path(CLIPS_FILE)), f"can't be read ({error})", remedy) from error


__all__ = [
    "CLIPS_FILE",
    "MODEL_FILE",
    "REFERENCE_FILE",
    "TAG_HEAD_FILE",
    "file_of",
    "known_clips",
    "rewrite",
    "write",
]
