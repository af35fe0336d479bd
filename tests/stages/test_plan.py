"""A plan resolves names once and refuses invalid combinations."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import registry
from pipeline.errors import BadData, BadModel, BadOption, UnknownName, Unsupported
from pipeline.stages.plan import Job, Plan, TrainingOptions
from tests.plans import RECIPES, TINY


def test_names_become_plug_ins_in_the_given_order_without_duplicates() -> None:
    plan = Plan.resolve(frameworks="all", recipes=["int8", "fp32", "int8"], targets=["onnx", "tflite"], devices="local")
    assert [framework.name for framework in plan.frameworks] == ["keras", "torch"]
    assert [recipe.name for recipe in plan.recipes] == ["int8", "fp32"]
    assert [target.name for target in plan.targets] == ["onnx", "tflite"]
    assert [target.module for target in plan.targets] == [registry.load("targets", n) for n in ("onnx", "tflite")]
    assert [device.name for device in plan.devices] == ["local"]
    assert plan.dataset.name == plan.model.spec.dataset == "digits"


def test_all_means_every_plug_in() -> None:
    plan = Plan.resolve(targets="all", recipes="all")
    assert [target.name for target in plan.targets] == registry.names("targets")
    assert [recipe.name for recipe in plan.recipes] == RECIPES
    trained = {name for name in registry.names("recipes") if registry.load("recipes", name).RECIPE.training == "qat"}
    assert set(registry.names("recipes")) - set(RECIPES) == trained


def test_a_plan_has_one_job_per_framework_with_its_data_and_options() -> None:
    options = TrainingOptions(epochs=3)
    jobs = Plan.resolve(TINY, frameworks="all", training=options).jobs
    assert [(job.framework.name, job.training, job.model.folder) for job in jobs] == [
        ("keras", options, TINY), ("torch", options, TINY),
    ]  # fmt: skip
    assert [Job.from_json(job.to_json()) for job in jobs] == list(jobs)


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"model": "resnet9"}, UnknownName, "resnet9"),
        ({"model": "/nowhere/model"}, BadModel, "/nowhere/model"),
        ({"frameworks": "jax"}, UnknownName, "jax"),
        ({"recipes": "int9"}, UnknownName, "int9"),
        ({"targets": ["tflite", "tflight"]}, UnknownName, "tflight"),
        ({"devices": "toaster"}, UnknownName, "toaster"),
        ({"data": Path("x")}, BadOption, "--data"),
        ({"model": "resnet8", "data": Path("/nowhere.zip")}, BadData, "/nowhere.zip"),
        ({"frameworks": "all", "weights": Path("w.pt")}, BadOption, "--weights"),
        ({"targets": ["tflite", "coreml"], "recipes": "int8_dynamic"}, Unsupported, "coreml"),
        ({"targets": "coreml", "devices": "local"}, Unsupported, "local"),
    ],
)
def test_an_invalid_option_raises_an_error_that_names_it(
    options: dict[str, object], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        Plan.resolve(**options)  # type: ignore[arg-type]


def test_all_refuses_no_unsupported_combination() -> None:
    assert Plan.resolve(recipes="int8_dynamic", devices="local").targets
