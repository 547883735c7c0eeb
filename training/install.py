"""`genre train install`: an ONNX model from elsewhere and a card for it are checked and become models/<name>/.

The card is a person's; what the file tells (digest, size, parameters, opset, cost) is filled in here. Nothing is
written before the model has answered (training/trial.py). docs/card.schema.json is what a card may say. Start at
`install`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import onnx
from pydantic import ValidationError

from services.contract.recipe import Recipe, load_recipe, recipe_ids
from services.contract.windows import WINDOW
from services.errors import GenreError, UsageError
from services.inference.card import MODEL_FILE, Card
from services.inference.onnx_backend import session
from services.settings.loading import describe
from training import cost, folder, trial
from training.data.data_set import genre_name
from training.data.gtzan import NO_GENRE

MOST_CARD_BYTES = 1 << 20
MOST_MODEL_BYTES = (2 << 30) - 1
"""Protocol buffers hold no more in one file."""
NEWEST_OPSET = 13
"""The card's bound: the oldest Jetson runtime reads it."""
FILLED_IN = ("recipe_digest", "parameters", "opset")
"""What a card need not say, for the file and the recipe tell it; `files` and `costs` too."""


@click.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--card", "card_file", type=click.Path(path_type=Path), help="The model's card (JSON).")
@click.option("--models", type=click.Path(path_type=Path), default=Path("models"), show_default=True)
@click.option("--force", is_flag=True, help="Take the place of a model that has this name.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a card, and install nothing.")
def install(model: Path | None, card_file: Path | None, models: Path, force: bool, schema: bool) -> None:
    """Check an ONNX model from elsewhere and install it as models/NAME/, the name of its card.

    The card's recipe may be the id of a shipped one; files, recipe_digest, parameters, opset and costs are filled in.

    \b
    Example: genre train install model.onnx --card card.json
    Example: genre train install --schema > card.schema.json
    """
    if schema:
        click.echo(json.dumps(card_schema(), indent=2))
        return
    if model is None or card_file is None:
        raise UsageError("genre train install", "needs a model and its card", "give MODEL.onnx and --card card.json")
    made = checked(model, card_file, models, force)
    click.echo(f"installed {made.folder}: {len(made.labels)} genres, {made.costs[0].cpu_ms:g} CPU-ms a window here")
    click.echo(f"try it: genre classify --model {made.name} --models {models} FILE")


def card_schema() -> dict[str, Any]:
    """Return the JSON Schema of a card as `install` takes it; what it fills in itself may be left out."""
    made = Card.model_json_schema()
    made["required"] = [key for key in made["required"] if key not in (*FILLED_IN, "files")]
    kinds = made["$defs"]
    views, view = kinds["Recipe"], kinds["View"]
    # A recipe of one view holds the view's numbers itself, without a name.
    own = {key: value for key, value in views["properties"].items() if key != "views"}
    own |= {key: value for key, value in view["properties"].items() if key != "name"}
    needed = [key for key in (*views["required"], *view["required"]) if key != "views"]
    kinds["RecipeOfOneView"] = {**views, "title": "RecipeOfOneView", "properties": own, "required": needed}
    shipped = {"enum": recipe_ids(), "description": "A shipped recipe, by its id."}
    refs = [{"$ref": f"#/$defs/{name}"} for name in ("RecipeOfOneView", "Recipe")]
    made["properties"]["recipe"] = {"anyOf": [shipped, *refs]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def checked(model: Path, card_file: Path, models: Path, force: bool = False) -> Card:
    """Install a model and return its card, read back.

    Raises:
        GenreError: for a card or a file that is none, one that contradicts the other, a model that does not answer
            with probabilities, or a name that is taken.
    """
    values = _card(card_file)
    content = _read(model, MOST_MODEL_BYTES, "a model")
    card = _complete(values, card_file, model, content)
    place = models / card.name
    if (place.exists() or place.is_symlink()) and not force:
        raise GenreError(str(place), "is there already", "give the card another name, or --force to replace that one")
    trial.of(session(model), card, model)
    costs = [cost.of(card.precision, model, card.recipe.shapes, card.name)]
    values = {**card.model_dump(exclude={"files"}), "costs": costs}
    return folder.write(models, values, {MODEL_FILE: (content, "answers in the service", card.precision)})


def _read(path: Path, most: int, what: str) -> bytes:
    """Return a file's bytes, but not of one that is too large to be what it is given as."""
    try:
        if not path.is_file():
            raise GenreError(str(path), "is no file", f"give {what}")
        if path.stat().st_size > most:
            raise GenreError(str(path), f"is larger than {most} bytes", f"give {what}")
        return path.read_bytes()
    except OSError as error:
        raise GenreError(str(path), f"can't be read ({error.strerror})", f"give {what}") from error


def _card(path: Path) -> dict[str, Any]:
    """Return what the card says."""
    try:
        values = json.loads(_read(path, MOST_CARD_BYTES, "a model card"))
    except (ValueError, RecursionError) as error:
        raise GenreError(str(path), f"is no JSON ({error})", "see 'genre train install --schema'") from error
    if not isinstance(values, dict):
        raise GenreError(str(path), "is no JSON object", "see 'genre train install --schema'")
    return values


def _complete(values: Mapping[str, Any], card_file: Path, model: Path, content: bytes) -> Card:
    """Return the card with what the file tells; where the card says it too, both must agree."""
    proto, see = _proto(model, content), "see 'genre train install --schema'"
    given = values.get("recipe")
    if not isinstance(given, str | dict):
        missing = "Field required" if "recipe" not in values else f"{given!r} is neither an id nor an object"
        raise GenreError(str(card_file), f"recipe: {missing[:200]}", see)
    try:
        recipe = load_recipe(given) if isinstance(given, str) else Recipe.model_validate(given)
    except ValidationError as error:
        raise GenreError(str(card_file), f"recipe: {describe(error)[:500]}", see) from error
    found = {"recipe_digest": recipe.digest, "parameters": _parameters(proto), "opset": _opset(proto, model)}
    for key, value in found.items():
        if values.get(key, value) != value:
            raise GenreError(str(card_file), f"{key} is {values[key]!r}, not {value!r}", "leave it out")
    file = folder.file_of(MODEL_FILE, content, "answers in the service", str(values.get("precision", "")))
    for said in values["files"] if isinstance(values.get("files"), list) else ():
        if not isinstance(said, dict) or (said.get("path"), said.get("sha256")) != (MODEL_FILE, file.sha256):
            reason = f"its files are not {MODEL_FILE} alone with the SHA-256 of {model}"
            raise GenreError(str(card_file), reason, "leave files out")
    try:
        card = Card.model_validate({**values, **found, "recipe": recipe, "files": [file]})
    except ValidationError as error:
        raise GenreError(str(card_file), describe(error)[:500], see) from error
    for label in card.labels:
        if genre_name(label, f"{card_file}, labels") in NO_GENRE:
            raise GenreError(f"{card_file}, labels", f"{label!r} is a kind of sound, not a genre", "name it otherwise")
    if recipe.window != WINDOW:
        raise GenreError(str(card_file), f"recipe: its window has {recipe.window} samples", f"services cut {WINDOW}")
    return card


def _proto(model: Path, content: bytes) -> onnx.ModelProto:
    """Return the file parsed and checked, without loading weights from anywhere else.

    Raises:
        GenreError: for a file that is no ONNX model, or one whose weights lie in other files.
    """
    try:
        proto = onnx.load_model_from_string(content)
        if not proto.graph.node:
            raise ValueError("it holds no graph")
        elsewhere = any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in proto.graph.initializer)
        if not elsewhere:
            onnx.checker.check_model(proto)
    except Exception as error:  # ONNX's, protobuf's and Python's share no base class
        raise GenreError(str(model), f"is no ONNX model ({str(error)[:300]})", "export it again") from error
    if elsewhere:
        remedy = "save it as one file: onnx.save_model(..., save_as_external_data=False)"
        raise GenreError(str(model), "keeps its weights in other files", remedy)
    return proto


def _opset(proto: onnx.ModelProto, model: Path) -> int:
    """Return the version of ONNX's own operators that a model needs."""
    opset = int(next((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), 0))
    if opset > NEWEST_OPSET:
        remedy = f"export it with opset {NEWEST_OPSET}, or use onnx.version_converter.convert_version"
        raise GenreError(str(model), f"needs opset {opset}; {NEWEST_OPSET} is the newest that all targets read", remedy)
    return opset


def _parameters(proto: onnx.ModelProto) -> int:
    """Return how many weights a model holds; at least 1, for a card needs one."""
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    tensors = [*proto.graph.initializer]
    tensors += [each.t for node in proto.graph.node if node.op_type == "Constant" for each in node.attribute]
    return max(1, sum(int(math.prod(tensor.dims)) for tensor in tensors if tensor.data_type in kinds))
