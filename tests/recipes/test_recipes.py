"""Recipes are frozen data: a change of one shows here, and changes what every artifact's key says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import registry
from pipeline.core import Recipe, from_json, to_json

GOLDEN = Path(__file__).parents[1] / "golden" / "recipes"
NAMES = registry.names("recipes")


def recipe(name: str) -> Recipe:
    found: Recipe = registry.load("recipes", name).RECIPE
    return found


def test_every_recipe_has_a_golden_file_and_no_golden_file_is_left_over() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_its_golden_file_says(name: str) -> None:
    text = (GOLDEN / f"{name}.json").read_text()
    assert json.dumps(to_json(recipe(name)), indent=1) + "\n" == text
    assert from_json(Recipe, json.loads(text)) == recipe(name)


@pytest.mark.parametrize("name", NAMES)
def test_it_bears_its_files_name_and_says_in_a_line_what_it_is(name: str) -> None:
    assert recipe(name).name == name
    assert recipe(name).summary and "\n" not in recipe(name).summary


@pytest.mark.parametrize("name", NAMES)
def test_it_calibrates_when_and_only_when_its_scales_are_static(name: str) -> None:
    assert (recipe(name).calibration > 0) == recipe(name).static


@pytest.mark.parametrize("name", NAMES)
def test_no_two_recipes_are_the_same_thing_under_two_names(name: str) -> None:
    def content(other: str) -> dict[str, object]:
        return {key: value for key, value in vars(recipe(other)).items() if key not in ("name", "summary")}

    assert [other for other in NAMES if content(other) == content(name)] == [name]
