"""Recipes are frozen data: changing one fails here, and changes the cache key of every artifact."""

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


def test_recipes_and_golden_files_correspond() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_matches_its_golden_file(name: str) -> None:
    text = (GOLDEN / f"{name}.json").read_text()
    assert json.dumps(to_json(recipe(name)), indent=1) + "\n" == text
    assert from_json(Recipe, json.loads(text)) == recipe(name)


@pytest.mark.parametrize("name", NAMES)
def test_its_name_is_its_files_and_its_summary_is_one_line(name: str) -> None:
    assert recipe(name).name == name
    assert recipe(name).summary and "\n" not in recipe(name).summary


@pytest.mark.parametrize("name", NAMES)
def test_it_needs_calibration_samples_exactly_if_its_scales_are_static(name: str) -> None:
    assert (recipe(name).calibration > 0) == recipe(name).static


@pytest.mark.parametrize("name", NAMES)
def test_no_two_recipes_have_the_same_content(name: str) -> None:
    def content(other: str) -> dict[str, object]:
        return {key: value for key, value in vars(recipe(other)).items() if key not in ("name", "summary")}

    assert [other for other in NAMES if content(other) == content(name)] == [name]
