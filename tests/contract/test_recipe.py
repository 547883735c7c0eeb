"""A recipe is data: it is checked, and a changed number is noticed."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.contract.recipe import Recipe, load_recipe, recipe_ids
from services.errors import GenreError


def test_the_papers_recipe_musicnns_and_chroma_are_shipped() -> None:
    assert {"vgg16", "musicnn", "chroma"} <= set(recipe_ids())
    assert load_recipe("vgg16").shape == (129, 128)
    assert load_recipe("musicnn").shape == (187, 96)
    assert load_recipe("chroma").shape == (129, 12)
    assert load_recipe("musicnn").samples == 47_891


@pytest.mark.parametrize("recipe_id", ["nosuch", "", "../recipe", "vgg16.json"])
def test_an_unknown_recipe_is_named_with_those_there_are(recipe_id: str) -> None:
    with pytest.raises(GenreError, match=r"is not known; take one of chroma, .*vgg16"):
        load_recipe(recipe_id)


def test_a_changed_number_changes_the_digest_and_nothing_else_does() -> None:
    recipe = load_recipe("vgg16")
    same = Recipe.model_validate_json(recipe.model_dump_json())
    other = Recipe(**{**recipe.model_dump(), "hop_length": 511})
    assert same == recipe and same.digest == recipe.digest
    assert other.id == recipe.id and other.digest != recipe.digest


@pytest.mark.parametrize(
    "change",
    [
        {"fmax": 12_000.0},
        {"fmin": 11_025.0},
        {"frames": 130},
        {"hop_length": 0},
        {"n_fft": 10**9},
        {"scaling": "loud"},
        {"kind": "wavelet"},
        {"id": "../etc/passwd"},
        {"colour": "red"},
        {"sample_rate": float("nan")},
    ],
)
def test_numbers_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Recipe(**{**load_recipe("vgg16").model_dump(), **change})
