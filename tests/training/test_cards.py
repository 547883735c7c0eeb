"""Shipped cards are honest: their commands can be run as printed, and the clips they speak of lie beside them."""

from __future__ import annotations

import csv
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from services.cli import genre
from services.errors import GenreError
from services.inference.card import Card, load_card, model_names
from training import cost, folder

MODELS = Path(__file__).resolve().parents[2] / "models"
NAMES = model_names(MODELS)


def commands(card: Card) -> Iterator[str]:
    """Yield each command that a card names."""
    yield from (line.command for line in (*card.evaluations, *card.costs))
    yield from (text for text in card.training.values() if text.startswith("genre "))


def parsed(command: str) -> click.Context:
    """Return a command's context as click makes it: it raises where a word or an option is not there, or one lacks."""
    program, *args = shlex.split(command)
    assert program == "genre", f"{command} is not one of this project's"
    found: click.Command = genre
    context = click.Context(genre, info_name="genre")
    while isinstance(found, click.Group):
        _, inner, args = found.resolve_command(context, args)
        assert inner is not None
        if not isinstance(inner, click.Group):
            return inner.make_context(inner.name, args, parent=context)
        found, context = inner, click.Context(inner, info_name=inner.name, parent=context)
    raise AssertionError(command)


@pytest.mark.parametrize("name", NAMES)
def test_each_command_of_a_shipped_card_can_be_run_as_printed(name: str) -> None:
    card = load_card(MODELS, name)
    assert card.evaluations and card.costs
    for command in commands(card):
        assert "..." not in command and "/" not in command
        given = parsed(command).params
        assert given.get("model", name) == name, "it measures another model"


@pytest.mark.parametrize("command", ["genre train cost --modle x", "genre train nosuch", "genre train reproduce"])
def test_a_command_that_can_not_be_run_is_found(command: str) -> None:
    with pytest.raises(click.UsageError):
        parsed(command)


def test_a_file_that_does_not_run_is_not_measured_but_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(GenreError, match=r"broken\.onnx: can't be measured"):
        cost.measure(tmp_path / "broken.onnx", {"features": (129, 128)})


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_lists_the_clips_its_card_speaks_of(name: str) -> None:
    card = load_card(MODELS, name)
    assert card.has(folder.CLIPS_FILE), "the file is one of the card's, so its digest was checked just now"
    with card.path(folder.CLIPS_FILE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["genre"] for row in rows} <= {*card.labels, *(card.kinds or ())} and all(row["clip"] for row in rows)
    assert len({(row["clip"], row["genre"], row["part"]) for row in rows}) == len(rows)
    parts = Counter(row["part"] for row in rows)
    assert set(parts) <= {"train", "valid"} and parts["train"]
    if parts["valid"]:
        assert {line.n_clips for line in card.evaluations} == {parts["valid"]}
        assert f"{parts['train']} clips to train, {parts['valid']} to validate" in card.training["data"]
    assert folder.known_clips(card) == {row["clip"] for row in rows}
