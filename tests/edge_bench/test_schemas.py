"""edge-bench's answers against the JSON Schemas of the device protocol."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from edge_bench import throttling
from jsonschema import Draft202012Validator

from tests import bundles
from tests.schemas import SCHEMAS, wrong

SHORT = ("--min-runs", "2", "--min-seconds", "0", "--warmup-seconds", "0")


@pytest.fixture(scope="module")
def answers(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A real answer of every command."""
    folder = tmp_path_factory.mktemp("answers")
    words: dict[str, tuple[object, ...]] = {
        "run": ("run", models / "net.tflite", *SHORT),
        "predict": ("predict", models / "net.tflite", "--inputs", models / "samples.npy", "--out", "p.npz"),
        "inspect": ("inspect", models / "net.tflite"),
        "facts": ("facts",),
        "runtimes": ("runtimes",),
        "verify": ("verify", bundles.made(bundles.usual(tmp_path_factory.mktemp("ship") / "build")).path),
    }
    found = {}
    for name, arguments in words.items():
        argv = [sys.executable, "-m", "edge_bench", *map(str, arguments)]
        found[name] = json.loads(subprocess.run(argv, cwd=folder, capture_output=True, check=True).stdout)
    return found


def test_every_schema_is_valid_and_every_command_has_one() -> None:
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
    assert SCHEMAS.keys() == {
        "run",
        "predict",
        "inspect",
        "facts",
        "runtimes",
        "verify",
        "device",
        "runtime",
        "memory",
        "trace",
    }


def test_real_answers_fit_and_have_no_key_that_the_schema_does_not_describe(answers: dict[str, Any]) -> None:
    for name, answer in answers.items():
        assert wrong(name, answer) == [], name
        assert answer.keys() == SCHEMAS[name]["properties"].keys(), name
    assert answers["run"]["device"].keys() == SCHEMAS["device"]["properties"].keys()
    assert answers["run"]["runtime"].keys() == SCHEMAS["runtime"]["properties"].keys()


def test_an_answer_without_a_key_or_with_another_type_does_not_fit(answers: dict[str, Any]) -> None:
    for name, answer in answers.items():
        for key in SCHEMAS[name]["required"]:
            assert wrong(name, {other: value for other, value in answer.items() if other != key}), (name, key)
            assert wrong(name, {**answer, key: {"another": "type"}}) or key == "tools", (name, key)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("device", "cores"), 0),
        (("device", "clusters"), [{"cpus": 3}]),
        (("runtime", "threads"), "1"),
        (("runs",), []),
        (("runs",), [[1, 2, 3]]),
        (("runs",), [[0, 100]]),
        (("temperature_c",), [50.0]),
        (("throttled",), "50000"),
        (("throttling",), ["dust"]),
        (("started_at",), "yesterday"),
        (("artifact_sha256",), "F0"),
    ],
)
def test_a_measurement_with_a_wrong_value_does_not_fit(
    answers: dict[str, Any], place: tuple[str, ...], value: Any
) -> None:
    answer = copy.deepcopy(answers["run"])
    *above, last = place
    inner = answer
    for key in above:
        inner = inner[key]
    inner[last] = value
    assert wrong("run", answer)


def test_the_schema_names_every_reason_of_throttling() -> None:
    named = SCHEMAS["run"]["properties"]["throttling"]["items"]["enum"]
    reasons = (throttling.COOLING, throttling.TRIP_POINT, throttling.HEAT, throttling.CPU_LIMIT)
    assert set(named) == {*throttling.BITS, *reasons}
