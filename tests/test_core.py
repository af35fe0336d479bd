"""The JSON of the nouns: golden files, written by older versions, must survive a round trip unchanged."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import core
from pipeline.core import Cell, Failure, ModelSpec, Process, Recipe, Tensor, from_json, safe_file_name, to_json
from pipeline.errors import Broken
from pipeline.system import store

GOLDEN = Path(__file__).parent / "golden"
NOUNS = {
    noun.__name__: noun
    for noun in vars(core).values()
    if isinstance(noun, type) and dataclasses.is_dataclass(noun) and noun.__module__ == core.__name__
}
FILES = sorted(path.name for path in GOLDEN.glob("*.json"))


def noun_of(file: str) -> Any:
    """The noun that the name of a golden file begins with: "model_spec.json", "cell_unchecked.json"."""
    name = file.removesuffix(".json").replace("_", "")
    fitting = [noun for noun in NOUNS.values() if name.startswith(noun.__name__.lower())]
    return max(fitting, key=lambda noun: len(noun.__name__))


def golden(file: str) -> Any:
    return json.loads((GOLDEN / file).read_text())


def test_every_noun_has_a_golden_file() -> None:
    assert {noun_of(file) for file in FILES} == set(NOUNS.values())


@pytest.mark.parametrize("file", FILES)
def test_a_golden_file_survives_a_round_trip_byte_for_byte(file: str, tmp_path: Path) -> None:
    store.write(tmp_path / file, from_json(noun_of(file), golden(file)))
    assert (tmp_path / file).read_bytes() == (GOLDEN / file).read_bytes()


@pytest.mark.parametrize("file", FILES)
def test_an_unknown_key_is_refused_with_its_name_and_path(file: str) -> None:
    with pytest.raises(Broken, match=r"^manifest: unknown \['surprise'\]$"):
        from_json(noun_of(file), {**golden(file), "surprise": 1}, "manifest")


@pytest.mark.parametrize("file", FILES)
def test_a_missing_key_is_refused_with_its_name_and_path(file: str) -> None:
    value = golden(file)
    first = next(iter(value))
    del value[first]
    with pytest.raises(Broken, match=rf"^manifest: missing \['{first}'\]$"):
        from_json(noun_of(file), value, "manifest")


@pytest.mark.parametrize("file", FILES)
def test_a_value_of_another_type_is_refused_with_its_path(file: str) -> None:
    for key in golden(file):
        if key not in ("schema", "facts"):
            with pytest.raises(Broken, match=rf"manifest\.{key}: expected"):
                from_json(noun_of(file), {**golden(file), key: object()}, "manifest")


@pytest.mark.parametrize("file", [file for file in FILES if "schema" in golden(file)])
@pytest.mark.parametrize("schema", [0, 2, None, "1"])
def test_an_unknown_schema_version_is_refused(file: str, schema: Any) -> None:
    with pytest.raises(Broken, match=f"manifest: schema {schema!r} is not 1"):
        from_json(noun_of(file), {**golden(file), "schema": schema}, "manifest")


def test_a_nested_wrong_value_is_refused_with_its_path() -> None:
    value = golden("model_spec.json")
    value["inputs"][0]["shape"][1] = "32"
    with pytest.raises(Broken, match=r"^ModelSpec\.inputs\[0\]\.shape\[1\]: expected int, not '32'$"):
        from_json(ModelSpec, value)


def test_a_boolean_is_no_number() -> None:
    with pytest.raises(Broken, match=r"Recipe\.calibration: expected int, not True"):
        from_json(Recipe, {**golden("recipe.json"), "calibration": True})


def test_an_integer_is_accepted_for_a_float_and_keeps_its_hash() -> None:
    written = {**golden("model_spec.json"), "options": {"width": 2, "dropout": 2.0}}
    spec = from_json(ModelSpec, written)
    assert spec.options == {"width": 2, "dropout": 2}
    assert store.digest(to_json(spec)) == store.digest(written)


def test_a_tuple_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(Broken, match=r"Process\.runs\[0\]: expected 2 values, not 3"):
        from_json(Process, {**golden("process.json"), "runs": [[1, 2, 3]]})


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_a_value_that_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(Broken, match="manifest: expected an object"):
        from_json(Failure, value, "manifest")


def test_omitted_optional_fields_get_their_defaults() -> None:
    assert from_json(Tensor, {"name": "logits", "shape": [10]}) == Tensor("logits", (10,), "float32", None)


def test_to_json_turns_tuples_into_lists_and_nouns_into_objects() -> None:
    found = to_json(Cell("m", "torch", "fp32", "onnx", "local", False, "ok", drop_interval=(-1.0, 1.0)))
    assert found["drop_interval"] == [-1.0, 1.0]
    assert json.loads(json.dumps(found)) == found


def test_classes_is_the_length_of_the_output() -> None:
    assert from_json(ModelSpec, golden("model_spec.json")).classes == 10


def test_static_recipes_are_those_whose_activations_are_calibrated() -> None:
    recipe = from_json(Recipe, golden("recipe.json"))
    assert recipe.static
    assert not dataclasses.replace(recipe, activations="int8_dynamic").static


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "../x", "a/"])
def test_a_path_is_not_a_safe_file_name(name: str) -> None:
    with pytest.raises(Broken, match="not a plain file name"):
        safe_file_name(name)


def test_a_plain_file_name_is_safe() -> None:
    assert safe_file_name("model.tflite") == "model.tflite"
