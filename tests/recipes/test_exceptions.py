"""Which operators the exceptions of a recipe match."""

from __future__ import annotations

import pytest

from pipeline.core import Operation, Recipe
from pipeline.errors import BadRecipe
from pipeline.recipes import _exceptions

NETWORK = (
    Operation("features.0.conv", "conv2d", 72),
    Operation("features.0.act", "relu", 0),
    Operation("features.10.conv", "conv2d", 720),
    Operation("features.10", "add", 0),
    Operation("classifier", "linear", 100),
    Operation("", "softmax", 0),
)


def recipe(*patterns: str, activations: str = "int8") -> Recipe:
    return Recipe("own", "int8", activations, 0, "x", exceptions=tuple((pattern, "float32") for pattern in patterns))


@pytest.mark.parametrize(
    ("pattern", "static", "weights"),
    [
        ("classifier", {4}, {4}),
        ("features.0", {0, 1}, {0}),
        ("features.1", set(), set()),
        ("features.0.*", {0, 1}, {0}),
        ("features.*", {0, 1, 2, 3}, {0, 2}),
        ("features.1?", {2, 3}, {2}),
        ("conv2d", {0, 2}, {0, 2}),
        ("CONV2D", set(), set()),
        ("add", {3}, set()),
        ("soft*", {5}, set()),
        ("@first", {0}, {0}),
        ("@last", {4}, {4}),
        ("*", {0, 1, 2, 3, 4, 5}, {0, 2, 4}),
    ],
)
def test_a_pattern_matches_names_modules_and_kinds_of_operators(
    pattern: str, static: set[int], weights: set[int]
) -> None:
    for activations, expected in (("int8", static), ("int8_dynamic", weights)):
        found = _exceptions.matched(recipe(pattern, activations=activations), NETWORK)
        assert {place for place, dtype in enumerate(found) if dtype} == expected
        if expected:
            _exceptions.check(recipe(pattern, activations=activations), NETWORK)
        else:
            with pytest.raises(BadRecipe, match="matches no"):
                _exceptions.check(recipe(pattern, activations=activations), NETWORK)


def test_a_float_module_of_a_model_needs_no_weights_in_any_recipe() -> None:
    for activations in ("int8", "int8_dynamic"):
        _exceptions.check(recipe("add", activations=activations), NETWORK, ("add",))
        with pytest.raises(BadRecipe, match="ad"):
            _exceptions.check(recipe("ad", activations=activations), NETWORK, ("ad",))


def test_the_first_exception_that_matches_counts() -> None:
    both = Recipe("own", "int4", "float32", 0, "x", exceptions=(("@last", "int8"), ("*", "float32")))
    assert _exceptions.matched(both, NETWORK) == ["float32", None, "float32", None, "int8", None]


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_layers() -> None:
    with pytest.raises(BadRecipe) as caught:
        _exceptions.check(recipe("classifer"), NETWORK)
    assert "'classifer'" in str(caught.value) and "classifier" in str(caught.value)
    with pytest.raises(BadRecipe, match=r"features\.0\.conv"):
        _exceptions.check(recipe("zzz"), NETWORK)
