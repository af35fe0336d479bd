"""A network with one layer that int8 spoils: sensitivity ranks it first, and tune leaves it in float."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import stats
from pipeline.core import Sensitivity
from pipeline.errors import BadOption
from pipeline.recipes import _files
from pipeline.results import noise, tuning
from pipeline.stages import export, sensitivity, tune
from pipeline.stages.plan import Plan
from pipeline.stages.tune import Budget
from pipeline.system import store
from pipeline.system.store import Store
from tests import own_models, plans
from tests.cli import inv

SPOILT = {"spread", "gather"}
"""Between these layers one channel is 2,000 times as large as the others, so int8 leaves the others nothing."""

INIT = """
self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
self.spread, self.gather = (nn.Conv2d(8, 8, 1, groups=8, bias=False) for _ in range(2))
self.body, self.last = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()), nn.Linear(512, 10)
for layer, size in ((self.spread, 2000.0), (self.gather, 1 / 2000)):
    layer.weight.data[:] = 1
    layer.weight.data[0] = size
    layer.requires_grad_(False)
"""
FORWARD = "return self.last(self.body(self.gather(self.spread(self.stem(x)))).flatten(1))"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("model") / "mine"
    own_models.write(folder, own_models.network(FORWARD, INIT))
    return plans.plan(["tflite"], ["int8"], model=folder, epochs=8)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def found(build: Store, plan: Plan) -> Sensitivity:
    (result,) = sensitivity.sensitivity(build, plan)
    assert result.page.is_file()
    return result.sensitivity


def test_the_layers_around_the_spoilt_tensor_are_the_noisiest(found: Sensitivity) -> None:
    assert {row.name for row in noise.groups(found)[:2]} == SPOILT
    assert sum(map(found.share, SPOILT)) > 0.9 * found.predicted()


def test_the_noise_of_the_groups_predicts_the_measured_noise(found: Sensitivity) -> None:
    assert abs(stats.decibels(1, found.predicted()) - stats.decibels(1, found.power)) < 1


def test_groups_are_named_by_their_modules_and_count_their_weights(found: Sensitivity) -> None:
    groups = {group.name: group for group in found.groups}
    assert groups.keys() == {"stem.0", "spread", "gather", "body.0", "last", "net"}, "only what a recipe can name"
    assert groups["last"].weights == 5120 and groups["spread"].multiply_adds == 512
    assert sum(group.weights for group in found.groups) == 72 + 8 + 8 + 576 + 5120


def test_an_up_to_date_sensitivity_is_not_measured_again(build: Store, plan: Plan, found: Sensitivity) -> None:
    (path,) = build.root.rglob(sensitivity.MANIFEST)
    before = path.stat().st_mtime_ns
    assert sensitivity.sensitivity(build, plan)[0].sensitivity == found
    assert path.stat().st_mtime_ns == before


def test_tune_leaves_the_spoilt_layers_in_float(build: Store, plan: Plan) -> None:
    (tuned,) = tune.tune(build, plan, Budget(max_drop=5))
    chosen = tuned.trials[tuned.chosen]
    assert tuned.outcome == tuning.MET and chosen.interval[1] < 5 and tuned.trials[0].interval[0] > 5
    assert set(chosen.in_float) >= SPOILT and "last" not in chosen.in_float
    assert tuned.recipe.exceptions == tuple((name, "float32") for name in chosen.in_float)
    assert tuned.file is not None and _files.read(Path(tuned.file)) == tuned.recipe
    assert tuned.test.samples == 504 and tuned.test.interval[1] < 5
    home = build.home("mine", "torch")
    assert (home / tuned.recipe.name / "tflite" / "model.tflite").is_file()
    assert store.read(tuning.Tuning, home / tune.FOLDER / tune.MANIFEST) == tuned


def test_where_no_layer_may_stay_in_float_the_graph_is_trained(tmp_path: Path) -> None:
    build, folder = Store(tmp_path / "build"), tmp_path / "less"
    own_models.write(folder, own_models.network(FORWARD, INIT.replace("2000", "350")))
    plan = plans.plan(["tflite"], ["int8"], model=folder, epochs=8)
    (int8,) = export.export(build, plan)
    assert int8.artifact is not None, int8.reason
    budget = Budget(max_drop=3, max_size=int8.artifact.size_bytes)
    (tuned,) = tune.tune(build, plan, budget)
    *others, last = tuned.trials
    assert last.trained and not any(one.trained or one.bytes_more for one in others)
    assert (last.in_float, last.bytes_more, last.predicted_db) == ((), 0, None)
    assert tuned.trials[tuned.chosen] == last, "training comes closer to the float model"
    assert tuned.recipe.training == "qat"
    assert tuned.file is not None and _files.read(Path(tuned.file)) == tuned.recipe
    assert (build.home("mine", "torch") / "int8_tuned" / "tflite" / "model.tflite").is_file()
    assert tune.tune(build, plan, budget)[0].trials == tuned.trials
    (plain,) = tune.tune(build, plan, replace(budget, qat=False))
    assert plain.trials == tuple(others) and plain.outcome != tuning.MET


def test_another_budget_uses_the_trials_that_exist(build: Store, plan: Plan) -> None:
    (first,) = tune.tune(build, plan, Budget(max_drop=5))
    (second,) = tune.tune(build, plan, Budget(max_drop=6))
    assert first.trials[0] == second.trials[0]


def test_a_budget_that_the_samples_cannot_resolve_ends_with_code_1(build: Store, plan: Plan) -> None:
    done = inv(build.root, "tune", "--model", plan.model.folder, "--target", "tflite", "--max-drop", "0.5")
    assert done.code == 1 and "cannot tell" in done.out


def trial(upper: float, *, trained: bool = False) -> tuning.Trial:
    """A trial on 10,000 samples whose drop has this upper end."""
    return tuning.Trial((), trained, 10_000, 10, 5, upper - 0.5, (upper - 1, upper), None, 0, 0.2, 1.0, "")


@pytest.mark.parametrize(
    ("outcome", "calibrated", "trained", "expected"),
    [
        (tuning.MET, 0.4, 0.4, (1, tuning.MET)),  # nothing in float is cheaper
        (tuning.MET, 0.4, 0.6, (0, tuning.MET)),
        (tuning.NOT_MET, 2.0, 0.4, (1, tuning.MET)),
        (tuning.NOT_MET, 2.0, 1.8, (1, tuning.NOT_MET)),
        (tuning.NOT_MET, 2.0, 1.2, (1, tuning.CANNOT_TELL)),
        (tuning.NOT_MET, 2.0, 2.5, (0, tuning.NOT_MET)),
        (tuning.CANNOT_TELL, 0.9, 0.8, (1, tuning.CANNOT_TELL)),
    ],
)
def test_a_trained_graph_is_chosen_where_it_meets_the_budget_or_comes_closer(
    outcome: str, calibrated: float, trained: float, expected: tuple[int, str]
) -> None:
    trials = [trial(calibrated), trial(trained, trained=True)]
    assert tuning.with_training(trials, 0, outcome, 0.5) == expected


@pytest.mark.parametrize("budget", [Budget(max_drop=0), Budget(max_drop=float("nan")), Budget(minimize="beauty")])
def test_a_budget_that_makes_no_sense_is_refused(build: Store, plan: Plan, budget: Budget) -> None:
    with pytest.raises(BadOption):
        tune.tune(build, plan, budget)


def test_a_recipe_whose_graph_is_not_only_calibrated_is_refused(build: Store, plan: Plan) -> None:
    for one in ("fp32", "int8_dynamic", "int8_qat"):
        with pytest.raises(BadOption):
            sensitivity.sensitivity(build, plans.plan(["tflite"], [one], model=plan.model.folder))


def test_a_size_that_int8_exceeds_is_refused(copied: Store) -> None:
    with pytest.raises(BadOption, match=r"tflite.*bytes"):
        tune.tune(copied, plans.plan(["tflite"], ["int8"]), Budget(5, max_size=10))


def test_the_time_on_a_device_needs_measured_files(build: Store, plan: Plan) -> None:
    with pytest.raises(BadOption, match="inv bench"):
        sensitivity.sensitivity(build, plans.plan(["tflite"], ["int8"], model=plan.model.folder, devices="local"))


def test_measured_files_give_the_time_of_each_group(copied: Store) -> None:
    (result,) = sensitivity.sensitivity(copied, plans.plan(["tflite"], ["int8"], devices="local"))
    assert result.time is not None and result.time.float_ms > 0 and result.time.int8_ms > 0
    rows = noise.groups(result.sensitivity, result.time)
    assert sum(row.ms_more or 0 for row in rows) == pytest.approx(result.time.float_ms - result.time.int8_ms)
