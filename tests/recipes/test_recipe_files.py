"""Recipe files: TOML with the fields of a recipe, and recipes of ai-edge-quantizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import registry
from pipeline.core import Recipe
from pipeline.errors import BadRecipe, UnknownName
from pipeline.stages.plan import recipes_of

PLAIN = 'name = "own"\nweights = "int8"\nactivations = "int8"\n'


def from_toml(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(text)
    (recipe,) = recipes_of(str(path))
    return recipe


def test_a_file_needs_a_name_weights_and_activations_only(tmp_path: Path) -> None:
    recipe = from_toml(tmp_path, PLAIN)
    assert recipe == Recipe("own", "int8", "int8", 256, recipe.summary)
    dynamic = from_toml(tmp_path, PLAIN.replace('activations = "int8"', 'activations = "int8_dynamic"'))
    assert dynamic.calibration == 0


def test_a_file_can_set_every_field(tmp_path: Path) -> None:
    text = PLAIN + 'calibration = 64\nsummary = "mine"\nblock = 32\nbias_correction = false\ntraining = "qat"\n'
    recipe = from_toml(tmp_path, text + '[exceptions]\nclassifier = "float32"\n"features.0.*" = "float32"\n')
    exceptions = (("classifier", "float32"), ("features.0.*", "float32"))
    assert recipe == Recipe("own", "int8", "int8", 64, "mine", 32, exceptions, "off", "qat")


def test_exceptions_can_be_a_list_of_pairs(tmp_path: Path) -> None:
    recipe = from_toml(tmp_path, PLAIN + 'exceptions = [["linear", "float32"], ["@first", "float32"]]')
    assert recipe.exceptions == (("linear", "float32"), ("@first", "float32"))


def test_files_and_names_can_be_mixed(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(PLAIN)
    assert [recipe.name for recipe in recipes_of(["int8", str(path)])] == ["int8", "own"]
    other = tmp_path / "b.toml"
    other.write_text(PLAIN)
    with pytest.raises(BadRecipe, match="'own'"):
        recipes_of([str(path), str(other)])
    with pytest.raises(UnknownName):
        recipes_of(["own"])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("name", "weights", "activations")),
        ("name = ", ("TOML",)),
        (PLAIN + "widht = 3", ("'widht'", "weights")),
        (PLAIN.replace('"int8"\nact', '"int3"\nact'), ("'int3'", "int4")),
        (PLAIN.replace('activations = "int8"', 'activations = "int16"'), ("int16", "onnxruntime")),
        (PLAIN + "calibration = 0", ("calibration",)),
        (PLAIN + "calibration = true", ("calibration",)),
        (PLAIN + "block = 0", ("block 0",)),
        (PLAIN + 'block = "32"', ("block",)),
        (PLAIN + 'bias_correction = "maybe"', ("'maybe'",)),
        (PLAIN + 'training = "later"', ("'later'",)),
        (PLAIN + 'exceptions = ["classifier"]', ("classifier",)),
        (PLAIN + '[exceptions]\nclassifier = "float8"', ("'classifier'", "'float8'")),
        (PLAIN + '[exceptions]\nclassifier = "int8"', ("'classifier'", "'int8'")),
        (PLAIN + "[exceptions]\nclassifier = 8", ("classifier",)),
        (PLAIN + '[exceptions]\n"features.[0" = "float32"', ("'features.[0'",)),
        (PLAIN + '[exceptions]\n"@middle" = "float32"', ("'@middle'", "@first")),
        (PLAIN + '[exceptions]\n"" = "float32"', ("exceptions",)),
        (PLAIN.replace("own", "int8"), ("'int8'",)),
        (PLAIN.replace("own", "a b"), ("'a b'",)),
        (PLAIN.replace("own", "graphs"), ("'graphs'",)),
        (PLAIN.replace('name = "own"', "name = 3"), ("name", "3")),
    ],
)
def test_an_unusable_file_is_one_line_that_names_the_file_and_what_is_wrong(
    tmp_path: Path, text: str, parts: tuple[str, ...]
) -> None:
    with pytest.raises(BadRecipe) as caught:
        from_toml(tmp_path, text)
    for part in ("recipe.toml", *parts):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_does_not_exist_or_is_no_text_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match=r"none\.toml"):
        recipes_of(str(tmp_path / "none.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadRecipe, match=r"binary\.toml"):
        recipes_of(str(tmp_path / "binary.toml"))


# -- ai-edge-quantizer -------------------------------------------------------------------------------------------------


def rule(bits: int = 8, activation: int | None = None, **more: Any) -> dict[str, Any]:
    """A rule as ai-edge-quantizer writes it."""
    config: dict[str, Any] = {
        "weight_tensor_config": {
            "num_bits": bits, "symmetric": True, "granularity": "CHANNELWISE", "dtype": "INT", "block_size": 0,
        },
        "compute_precision": "INTEGER", "explicit_dequantize": False, "skip_checks": False, "min_weight_elements": 0,
    }  # fmt: skip
    if activation:
        config["activation_tensor_config"] = {"num_bits": activation, "symmetric": False, "granularity": "TENSORWISE"}
    config["weight_tensor_config"] |= {key: more.pop(key) for key in ("granularity", "dtype") if key in more}
    config |= {key: more.pop(key) for key in ("compute_precision", "min_weight_elements") if key in more}
    operation = "FULLY_CONNECTED" if bits == 4 else "*"
    made = {"regex": ".*", "operation": operation, "algorithm_key": "min_max_uniform_quantize", "op_config": config}
    return {**made, **more}


LEFT = {"regex": ".*", "operation": "FULLY_CONNECTED", "algorithm_key": "no_quantize", "op_config": {}}


def from_json(folder: Path, rules: Any) -> Recipe:
    path = folder / "my-recipe.json"
    path.write_text(json.dumps(rules))
    (recipe,) = recipes_of(str(path))
    return recipe


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([rule()], ("int8", "int8_dynamic", None)),
        ([rule(compute_precision="FLOAT")], ("int8", "float32", None)),
        ([rule(activation=8)], ("int8", "int8", None)),
        ([rule(4, granularity="BLOCKWISE_64", algorithm_key="OCTAV")], ("int4", "int8_dynamic", 64)),
        ([rule(16, dtype="FLOAT", compute_precision="FLOAT", algorithm_key="float_casting")],
         ("float16", "float16", None)),
    ],
)  # fmt: skip
def test_a_recipe_of_ai_edge_quantizer_becomes_one_of_ours(
    tmp_path: Path, rules: Any, expected: tuple[str, str, int | None]
) -> None:
    recipe = from_json(tmp_path, rules)
    assert recipe.name == "my_recipe"
    assert (recipe.weights, recipe.activations, recipe.block) == expected
    assert (recipe.calibration > 0) == recipe.static


def test_what_it_does_not_quantize_becomes_an_exception_and_the_last_rule_counts_first(tmp_path: Path) -> None:
    named = {**LEFT, "regex": r".*features\.0.*", "operation": "*"}
    recipe = from_json(tmp_path, [rule(), LEFT, named])
    assert recipe.exceptions == (("*features.0*", "float32"), ("linear", "float32"))


@pytest.mark.parametrize(
    ("rules", "part"),
    [
        ({}, "list"),
        ([], "list"),
        ([LEFT], "no rule"),
        ([rule(activation=16)], "int16"),
        ([rule(2)], "2-bit"),
        ([rule(4, operation="*")], "rule 1"),
        ([rule(regex="conv.*")], "'conv.*'"),
        ([rule(algorithm_key="GPTQ")], "'GPTQ'"),
        ([rule(granularity="TENSORWISE")], "'TENSORWISE'"),
        ([rule(min_weight_elements=1024)], "min_weight_elements"),
        ([rule(), rule(4)], "rule 2"),
        ([rule(), {**LEFT, "operation": "FFT"}], "'FFT'"),
        ([rule(), {**LEFT, "operation": "*", "regex": "a|b"}], "'a|b'"),
        ([rule(surprise=1)], "'surprise'"),
        ([{**rule(), "op_config": None}], "op_config"),
    ],
)
def test_a_rule_that_cannot_be_expressed_is_one_line_that_names_it(tmp_path: Path, rules: Any, part: str) -> None:
    with pytest.raises(BadRecipe) as caught:
        from_json(tmp_path, rules)
    assert part in str(caught.value) and "my-recipe.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_recipes_of_ai_edge_quantizer_itself_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    from ai_edge_quantizer import recipe as theirs

    def read(rules: Any) -> tuple[str, str, int | None]:
        recipe = from_json(tmp_path, rules)
        return recipe.weights, recipe.activations, recipe.block

    assert read(theirs.dynamic_wi8_afp32()) == ("int8", "int8_dynamic", None)
    assert read(theirs.weight_only_wi8_afp32()) == ("int8", "float32", None)
    assert read(theirs.static_wi8_ai8()) == ("int8", "int8", None)
    linear = theirs.dynamic_wi4b32_afp32(operation_name=theirs.TFLOperationName.FULLY_CONNECTED)
    assert read(linear) == ("int4", "int8_dynamic", 32)
    for other in (theirs.static_wi8_ai16(), theirs.dynamic_wi4_afp32(), theirs.dynamic_legacy_wi8_afp32()):
        with pytest.raises(BadRecipe, match="rule 1"):
            read(other)


def test_every_name_in_the_registry_is_refused_for_a_file(tmp_path: Path) -> None:
    for name in registry.names("recipes"):
        with pytest.raises(BadRecipe):
            from_toml(tmp_path, PLAIN.replace("own", name))
