"""Names and figures as text."""

from __future__ import annotations

import dataclasses
from typing import Any

from pipeline import formatting
from pipeline.core import Measurement, from_json
from tests.test_core import golden


def runtime(device: dict[str, Any], **changes: Any) -> str:
    noun = from_json(Measurement, golden("measurement.json"))
    facts = {"name": "tflite", "version": "2.16.1", "threads": 2, "delegate": "xnnpack", "cpus": None, **changes}
    return formatting.runtime(dataclasses.replace(noun, runtime=facts, device=device))


def test_a_runtimes_line_names_its_version_threads_and_delegate() -> None:
    assert runtime({}) == "tflite 2.16.1, 2 threads, xnnpack"


def test_a_runtimes_line_has_the_cpus_that_a_phone_used() -> None:
    states = [{"samples": [{"cpus": [6]}, {"cpus": [7, 4]}]}, {"samples": [{"cpus": [6]}]}, {"samples": []}]
    assert runtime({"states": states}).endswith(", ran on CPUs 4, 6, 7")
