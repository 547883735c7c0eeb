"""`genre train install`: a model from elsewhere answers before it is installed, and every contradiction is one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
import soundfile
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from services.errors import GenreError
from services.inference.card import load_card, model_names
from training import cli

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "own-genres.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def install(folder: Path, *more: object) -> Result:
    where = (folder / "model.onnx", "--card", folder / "card.json", "--models", folder / "models")
    return CliRunner().invoke(cli.train, ["install", *map(str, (*where, *more))])


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A folder with the page's model and card."""
    exec(block("python").replace('"model.onnx"', repr(str(tmp_path / "model.onnx"))), {})
    (tmp_path / "card.json").write_text(block("json"))
    return tmp_path


def write_card(folder: Path, **changes: Any) -> None:
    (folder / "card.json").write_text(json.dumps({**json.loads(block("json")), **changes}))


def write_model(
    folder: Path,
    nodes: Sequence[Any] = (),
    *,
    opset: int = 13,
    shape: Sequence[Any] = ("n", 129, 128),
    size: int = 2,
    kind: int = TensorProto.FLOAT,
    output: str = "scores",
) -> None:
    """Write a model that differs from the page's; its nodes go from `logits` to the output."""
    weights = np.random.default_rng(0).normal(0, 0.05, (128, size)).astype(np.float32)
    trunk = [
        helper.make_node("ReduceMean", ["features"], ["bands"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["bands", "weights"], ["logits"]),
    ]
    ends = nodes or [helper.make_node("Softmax", ["logits"], [output], axis=1)]
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(output, kind, [shape[0], size])]
    graph = helper.make_graph([*trunk, *ends], "g", inputs, outputs, [numpy_helper.from_array(weights, "weights")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    (folder / "model.onnx").write_bytes(made.SerializeToString())


def refused(done: Result, folder: Path, *words: str) -> None:
    assert isinstance(done.exception, GenreError), (done.exception, done.output)
    for word in words:
        assert word in str(done.exception), str(done.exception)
    assert not (folder / "models").exists(), "nothing was written"


def test_the_example_of_the_page_is_installed_and_classifies_a_file(given: Path) -> None:
    done = install(given)
    assert done.exit_code == 0, done.exception
    card = load_card(given / "models", "tiny")
    assert (card.labels, card.parameters, card.opset) == (("fado", "zouk"), 256, 13)
    assert card.costs[0].command == "genre train cost --model tiny" and card.files[0].bytes > 1_000
    soundfile.write(given / "a.wav", np.random.default_rng(1).normal(0, 0.1, 70_000), 22_050)
    config = given / "genre.toml"
    config.write_text(f'[inference]\nmodels_dir = "{given}/models"\n')
    command = ["classify", "--model", "tiny", "--config", config, "--json", "--jobs", "1", given / "a.wav"]
    argv = [sys.executable, "-m", "services.cli", *map(str, command)]
    printed = subprocess.run(argv, capture_output=True, text=True, timeout=100, cwd=ROOT, check=True).stdout
    assert set(json.loads(printed)["scores"]) == {"fado", "zouk"}


def test_a_model_that_is_there_is_replaced_with_force_only(given: Path) -> None:
    assert install(given).exit_code == 0
    before = (given / "models" / "tiny" / "card.json").read_bytes()
    write_card(given, version="2")
    done = install(given)
    assert isinstance(done.exception, GenreError) and "is there already" in str(done.exception)
    assert (given / "models" / "tiny" / "card.json").read_bytes() == before
    assert install(given, "--force").exit_code == 0
    assert load_card(given / "models", "tiny").version == "2"
    assert model_names(given / "models") == ["tiny"] and len(list((given / "models").iterdir())) == 1


def test_a_recipe_that_is_written_out_and_a_digest_that_agrees_are_taken(given: Path) -> None:
    content = (given / "model.onnx").read_bytes()
    recipe = json.loads((ROOT / "services" / "contract" / "recipes" / "vgg16.json").read_text())
    from training.folder import file_of

    write_card(given, recipe=recipe, files=[file_of("1/model.onnx", content, "x", "fp32").model_dump()])
    assert install(given).exit_code == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": ["a", "b", "c"]}, ("[2], its card says [3]",)),
        ({"labels": ["fado", "speech"]}, ("kind of sound",)),
        ({"labels": ["fado", "a\nb"]}, ("can't be a genre's name",)),
        ({"labels": ["fado", "fado"]}, ("card.json: labels: one stands twice",)),
        ({"recipe": "mel80"}, ("mel80", "is not known")),
        ({"recipe": "chroma"}, ("its card says",)),
        ({"recipe": "mel96-mel115"}, ("has no input",)),
        ({"recipe": {"id": "x"}}, ("recipe:",)),
        ({"recipe": None}, ("recipe: None is neither an id nor an object",)),
        ({"kinds": ["music", "speech", "other"]}, ("has no output 'kinds'",)),
        ({"name": "../up"}, ("name",)),
        ({"surprise": 1}, ("surprise",)),
        ({"temperature": "warm"}, ("temperature",)),
        ({"parameters": 5}, ("parameters is 5, not 256", "leave it out")),
        ({"files": [{"path": "1/model.onnx", "sha256": "0" * 64}]}, ("SHA-256",)),
        ({"files": [1]}, ("SHA-256",)),
    ],
)
def test_a_card_that_contradicts_itself_or_the_model_is_one_line(
    given: Path, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    write_card(given, **changes)
    refused(install(given), given, *words)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"name": ' + "[" * 100_000, "\xff"])
def test_a_card_that_is_none_is_one_line(given: Path, text: str) -> None:
    (given / "card.json").write_bytes(text.encode("latin-1"))
    refused(install(given), given, "card.json")


def twice(first: str, second: str, middle: str = "x", **attributes: Any) -> list[Any]:
    return [
        helper.make_node(first, ["logits"], [middle], **attributes),
        helper.make_node(second, [middle], ["scores"]),
    ]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"nodes": [helper.make_node("Identity", ["logits"], ["scores"])]}, ("no probabilities", "softmax")),
        ({"nodes": [helper.make_node("Sigmoid", ["logits"], ["scores"])]}, ("miss a sum of 1", "softmax")),
        ({"nodes": twice("Sqrt", "Log")}, ("not finite",)),
        ({"nodes": [helper.make_node("Softmax", ["logits"], ["scores"], axis=0)]}, ("miss a sum of 1",)),
        ({"shape": (1, 129, 128)}, ("1 windows at a time",)),
        ({"shape": ("n", 100, 128)}, ("[100, 128]", "[129, 128]")),
        ({"size": 3}, ("[3], its card says [2]",)),
        ({"output": "genres"}, ("has no output 'scores'",)),
        ({"opset": 17}, ("opset 17", "version_converter")),
    ],
    ids=str,
)
def test_a_model_that_can_not_answer_is_one_line(given: Path, model: dict[str, Any], words: tuple[str, ...]) -> None:
    write_model(given, **model)
    refused(install(given), given, *words)


def test_scores_that_depend_on_the_windows_beside_are_refused(given: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["logits"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["logits", "mean"], ["apart"]),
        helper.make_node("Softmax", ["apart"], ["scores"], axis=1),
    ]
    write_model(given, nodes)
    refused(install(given), given, "windows that come along")


def test_an_output_of_another_type_is_refused(given: Path) -> None:
    nodes = [
        helper.make_node("Softmax", ["logits"], ["x"], axis=1),
        helper.make_node("Cast", ["x"], ["scores"], to=TensorProto.DOUBLE),
    ]
    write_model(given, nodes, kind=TensorProto.DOUBLE)
    refused(install(given), given, "tensor(double)")


@pytest.mark.parametrize("damage", ["absent", "a folder", "text", "cut off", "weights elsewhere"])
def test_a_file_that_is_no_model_is_one_line(given: Path, damage: str) -> None:
    path = given / "model.onnx"
    content = path.read_bytes()
    if damage == "weights elsewhere":
        onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    else:
        path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage in ("text", "cut off"):
        path.write_bytes(b"no model" if damage == "text" else content[: len(content) // 2])
    refused(install(given), given, "model.onnx")


def test_the_published_schema_is_the_command_s_and_fits_every_card() -> None:
    printed = CliRunner().invoke(cli.train, ["install", "--schema"]).stdout
    assert (ROOT / "docs" / "card.schema.json").read_text() == printed, "genre train install --schema > docs/..."
    validator = jsonschema.Draft202012Validator(json.loads(printed))
    validator.validate(json.loads(block("json")))
    for name in model_names(ROOT / "models"):
        validator.validate(json.loads((ROOT / "models" / name / "card.json").read_text()))
    assert not validator.is_valid({**json.loads(block("json")), "surprise": 1})
