"""The measure stage: raw samples and all outputs are stored, and up-to-date measurements are not repeated."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import devices, formatting, registry, stats
from pipeline.core import Device, Failure, Measurement
from pipeline.devices import BoundDevice, _edge_bench, local
from pipeline.errors import BadOption, Unreachable
from pipeline.results import bit_equality, collect
from pipeline.stages import measure, push, train
from pipeline.stages.plan import ALL, Job, recipes_of
from pipeline.system import store
from pipeline.system.proc import Done
from pipeline.system.store import Store
from tests.builds import Tree, predictions, process
from tests.plans import QUICK, cells, job, plan

LOCAL = devices.find("local")
RUNNING = [name for name in registry.names("targets") if registry.load("targets", name).UNCHECKED is None]
CELLS = [
    (target, recipe.name)
    for recipe in recipes_of(ALL)
    for target in RUNNING
    if registry.load("targets", target).supports(recipe, "torch") is None
]


def folder_of(build: Store, target: str, recipe: str, device: str = "local") -> Path:
    return build.cell("tiny", "torch", recipe, target) / device


def measurement_of(build: Store, target: str, recipe: str, device: str = "local") -> Measurement:
    found = store.read(Measurement, folder_of(build, target, recipe, device) / "measurement.json")
    assert found is not None
    return found


@pytest.mark.parametrize(("target", "recipe"), CELLS)
def test_raw_samples_and_facts_are_stored(target: str, recipe: str, matrix: Store) -> None:
    found = measurement_of(matrix, target, recipe)
    artifact = json.loads((folder_of(matrix, target, recipe).parent / "artifact.json").read_text())
    assert found.artifact_sha256 == artifact["sha256"]
    assert found.size_bytes == artifact["size_bytes"]
    assert (found.target, found.recipe, found.model, found.framework) == (target, recipe, "tiny", "torch")
    (process,) = found.processes
    assert len(process.runs) >= QUICK.min_runs
    assert process.warmup and all(loops >= 1 and ns > 0 for loops, ns in (*process.warmup, *process.runs))
    assert bool(process.single_runs) == (process.runs[0][0] > 1)
    assert all(ns > 0 for ns in process.single_runs) and process.clock_ns > 0
    assert process.load_ns > 0 and process.first_run_ns > 0
    assert process.peak_rss_bytes >= process.rss_before_load_bytes > 1 << 20
    assert (found.device["name"], found.device["kind"], found.device["emulated"]) == ("local", "local", False)
    assert found.runtime["name"] == registry.load("targets", target).RUNTIME
    assert found.runtime["threads"] == 1
    assert found.tools["edge-bench"]
    runtime = f"--runtime {found.runtime['name']} --threads 1"
    assert found.method.startswith(f"1 × edge-bench run {runtime}") and "--min-runs" in found.method
    assert "/" not in found.method, "the method names no path: it would differ between machines"


@pytest.mark.parametrize(("target", "recipe"), CELLS)
def test_accuracy_is_computed_from_the_stored_outputs_of_the_whole_test_split(
    target: str, recipe: str, matrix: Store, job: Job
) -> None:
    found = measurement_of(matrix, target, recipe)
    path = folder_of(matrix, target, recipe) / found.accuracy.predictions
    assert store.sha256(path) == found.accuracy.predictions_sha256
    with np.load(path) as kept:
        outputs = kept["output_0"]
    with np.load(matrix.checkpoint("tiny", "torch") / "predictions.npz") as kept:
        reference, labels = kept["output_0"], kept["labels"]
    assert outputs.shape == (504, 10) and outputs.dtype == np.float32
    assert found.accuracy.samples == 504
    assert found.accuracy.value == (outputs.argmax(1) == labels).mean()
    assert found.accuracy.reference == (reference.argmax(1) == labels).mean() > 0.8
    assert abs(found.accuracy.value - found.accuracy.reference) < 0.02


def test_a_second_bench_does_nothing(copied: Store, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    made = cells(copied, RUNNING)
    before = {path: path.stat().st_mtime_ns for path in copied.root.rglob("*")}
    assert made.bench(LOCAL, QUICK) == []
    assert {path: path.stat().st_mtime_ns for path in copied.root.rglob("*")} == before
    assert capsys.readouterr().err == ""


def test_every_input_of_a_measurement_changes_its_cache_key(
    matrix: Store, job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkpoint = train.ready(matrix, job)
    assert checkpoint is not None
    made = cells(matrix, "onnx", "fp32")
    (one,) = push.runnable(made.plan, job, made.outcomes, LOCAL)
    altered = dataclasses.replace(one, artifact=dataclasses.replace(one.artifact, sha256="0" * 64))

    def key(device: BoundDevice = LOCAL, **changes: Any) -> str:
        of = dataclasses.replace(checkpoint, **changes)
        return measure.key(matrix, of, device, one, 1, QUICK)

    first = key()
    assert key() == first
    others = [
        key(dataset_sha256="0" * 64),
        key(devices.bound(dataclasses.replace(LOCAL.device, name="other"))),
        measure.key(matrix, checkpoint, LOCAL, altered, 1, QUICK),
        measure.key(matrix, checkpoint, LOCAL, one, 2, QUICK),
        *(
            measure.key(matrix, checkpoint, LOCAL, one, 1, dataclasses.replace(QUICK, **how))
            for how in ({"samples": 100}, {"processes": 2}, {"cpus": (0,)})
        ),
    ]
    with monkeypatch.context() as patch:
        installed = registry.versions
        patch.setattr(registry, "versions", lambda names: {**installed(names), "onnxruntime": "99.0"})
        others.append(key())
    with monkeypatch.context() as patch:
        patch.setattr(local, "_processor", lambda: "another processor")
        others.append(key())
    for name in ("sources", "requirements"):  # a changed edge-bench, and a changed runtime for boards
        with monkeypatch.context() as patch:
            edge_bench = shutil.copytree(_edge_bench.HERE, tmp_path / name)
            patch.setattr(_edge_bench, "HERE", edge_bench)
            changed = edge_bench / ("pyproject.toml" if name == "requirements" else "src/edge_bench/measure.py")
            changed.write_text(changed.read_text().replace("onnxruntime==", "onnxruntime>=") + "\n")
            _edge_bench.identity.cache_clear()
            others.append(key())
    _edge_bench.identity.cache_clear()
    assert key() == first
    assert len({first, *others}) == 12
    described = dataclasses.replace(LOCAL.device, options={"summary": "a description", "chunk_samples": 7})
    assert key(devices.bound(described)) == first


def test_each_number_of_threads_has_its_own_measurement_and_again_repeats_it(copied: Store, job: Job) -> None:
    made = cells(copied, ["onnx"], ["fp32"])
    one = measurement_of(copied, "onnx", "fp32")
    two_threads = dataclasses.replace(QUICK, threads=(2,))
    assert made.bench(LOCAL, two_threads) == []
    two = measurement_of(copied, "onnx", "fp32", "local/threads-2")
    assert (one.runtime["threads"], two.runtime["threads"]) == (1, 2)
    assert one.key != two.key
    assert measurement_of(copied, "onnx", "fp32") == one
    both = dataclasses.replace(QUICK, threads=(1, 2))
    found_now = measure.measure(copied, made.plan, made.outcomes, LOCAL, both)
    assert [(result.threads, result.measurement) for result in found_now] == [(1, one), (2, two)]
    assert made.bench(LOCAL, dataclasses.replace(two_threads, again=True)) == []
    again = measurement_of(copied, "onnx", "fp32", "local/threads-2")
    assert again.key == two.key and again.processes != two.processes
    assert again.accuracy == two.accuracy
    found = [row for row in collect.rows(copied) if (row.cell.target, row.cell.recipe) == ("onnx", "fp32")]
    assert [(row.cell.device, row.cell.threads) for row in found] == [("local", 1), ("local", 2)]
    (pair,) = bit_equality.over_threads(found)
    assert (pair.equal, pair.samples) == (504, 504)


def test_accuracy_on_a_subset_is_compared_with_the_float_model_on_that_subset(copied: Store, job: Job) -> None:
    made = cells(copied, ["onnx"], ["int8"])
    whole = measurement_of(copied, "onnx", "int8").accuracy
    assert made.bench(LOCAL, dataclasses.replace(QUICK, samples=100)) == []
    found = measurement_of(copied, "onnx", "int8").accuracy
    with np.load(copied.checkpoint("tiny", "torch") / "predictions.npz") as kept:
        reference, labels = kept["output_0"], kept["labels"]
    chosen = stats.stratified(labels, 100)
    assert (found.samples, whole.samples) == (100, 504)
    assert found.reference == (reference[chosen].argmax(1) == labels[chosen]).mean()
    with np.load(folder_of(copied, "onnx", "int8") / "predictions.npz") as kept:
        assert found.value == (kept["output_0"].argmax(1) == labels[chosen]).mean()
    (cell,) = [c for c in collect.cells(copied) if (c.target, c.recipe) == ("onnx", "int8")]
    assert (cell.status, cell.samples, cell.reference_accuracy) == ("ok", 100, found.reference)
    assert any("100 of 504 samples" in warning for warning in cell.warnings)


def test_nan_outputs_count_as_wrong_predictions(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "build")
    tree.logits[tree.truth == 0] = np.nan  # argmax of these is 0
    checkpoint = tree.checkpoint()
    digest = predictions(tmp_path / "outputs.npz", output_0=tree.logits)
    np.save(tmp_path / "labels.npy", tree.truth)
    bench = measure._Bench(tree.build, plan(), job(), LOCAL, 1, QUICK)
    run = measure._Run(bench, checkpoint, tmp_path / "images.npy")
    assert measure._accuracy(run, tmp_path / "outputs.npz", digest).value == 0.75
    assert measure._reference(run, 100) == 0.75


def test_more_samples_than_the_split_has_are_refused(copied: Store, job: Job) -> None:
    made = cells(copied, ["onnx"], ["int8"])
    with pytest.raises(BadOption, match="--samples 505: tiny's test split has 504"):
        made.bench(LOCAL, dataclasses.replace(QUICK, samples=505))


@dataclasses.dataclass
class Losing:
    """The kind `local`, which loses the connection in call number `lost`. `calls` has each command and recipe."""

    lost: int | None = None
    calls: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(LOCAL.kind, name)

    def call(self, build: Store, device: Device, runtime: str, words: Sequence[str | Path], timeout: float) -> Done:
        if len(self.calls) == self.lost:
            raise Unreachable("the connection was lost")
        self.calls.append((str(words[0]), Path(words[1]).parent.parent.name))
        return LOCAL.kind.call(build, device, runtime, words, timeout)


def test_processes_of_the_files_alternate_and_an_interrupted_bench_continues(copied: Store, job: Job) -> None:
    made = cells(copied, ["onnx"], ["fp32", "int8"])
    three = dataclasses.replace(QUICK, processes=3)
    first, second = Losing(lost=3), Losing()
    failures = made.bench(BoundDevice(Device("board", "local"), first), three)
    assert [type(failure) for failure in failures] == [Unreachable, Unreachable]
    a, b = [recipe for _, recipe in first.calls[:2]]
    assert {a, b} == {"fp32", "int8"}
    assert first.calls == [("run", a), ("run", b), ("run", a)]
    assert made.bench(BoundDevice(Device("board", "local"), second), three) == []
    assert second.calls == [("run", b), ("run", a), ("predict", a), ("run", b), ("predict", b)]
    found, other = (measurement_of(copied, "onnx", recipe, "board").processes for recipe in (a, b))
    begins = [process.started_at for process in found]
    assert begins == sorted(begins)
    summary = stats.latency(found)
    assert (len(found), summary.processes, summary.spread is not None) == (3, 3, True)
    assert stats.latency_ratio(found, other) is not None


def test_the_effort_is_divided_among_the_processes(copied: Store, job: Job) -> None:
    made = cells(copied, ["onnx"], ["fp32"])
    (one,) = push.runnable(made.plan, job, made.outcomes, LOCAL)
    options = measure.Options(cpus=(0, 1))
    five, single = (measure.run_words(one, Path("x.npy"), 1, options, n)[-8:] for n in (5, 1))
    assert five == ["--min-runs", "13", "--min-seconds", "0.1", "--warmup-seconds", "0.05", "--cpus", "0,1"]
    assert single[-6:] == ["--min-runs", "64", "--min-seconds", "0.5", "--cpus", "0,1"]


def test_a_real_device_is_measured_in_five_processes_and_an_emulated_one_in_one() -> None:
    emulated = Device("board", "ssh", emulated=True)
    assert measure.Options().processes_on(LOCAL.device) == 5
    assert measure.Options().processes_on(emulated) == 1
    assert measure.Options(processes=3).processes_on(emulated) == 3


def test_processes_run_on_the_given_cpus_and_the_results_show_them(copied: Store, job: Job) -> None:
    made = cells(copied, ["onnx"], ["fp32"])
    last = max(os.sched_getaffinity(0))
    assert made.bench(LOCAL, dataclasses.replace(QUICK, cpus=(last,))) == []
    assert measurement_of(copied, "onnx", "fp32").runtime["cpus"] == str(last)
    (found,) = [c for c in collect.cells(copied) if (c.target, c.recipe) == ("onnx", "fp32")]
    assert (found.status, found.cpus) == ("ok", str(last))
    assert formatting.device(found) == f"local, CPUs {last}"
    (failure,) = made.bench(LOCAL, dataclasses.replace(QUICK, cpus=(60_000,)))
    assert "--cpus 60000" in str(failure)


def test_altered_predictions_are_measured_again_with_a_message(
    copied: Store, job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    made = cells(copied, ["tflite"], ["fp32", "int8"])
    path = folder_of(copied, "tflite", "int8") / "predictions.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert made.bench(LOCAL, QUICK) == []
    err = capsys.readouterr().err
    assert f"{path} does not match its manifest" in err
    assert "  tflite int8: p50 " in err and "tflite fp32" not in err
    assert path.read_bytes() == whole


def test_a_measurement_that_exceeds_the_time_limit_is_stored_as_a_failure(copied: Store, job: Job) -> None:
    made = cells(copied, ["onnx"], ["int8"])
    (folder_of(copied, "onnx", "int8") / "measurement.json").unlink()
    forever = measure.Options(min_runs=10**9, min_seconds=10**6, time_limit=3, processes=1)
    (failed,) = made.bench(LOCAL, forever)
    assert str(failed) == "onnx int8 on local: timeout after 3 s"
    failure = store.read(Failure, folder_of(copied, "onnx", "int8") / "failure.json")
    assert failure is not None and (failure.status, failure.reason) == ("failed", "timeout after 3 s")
    (cell,) = [c for c in collect.cells(copied) if (c.target, c.recipe, c.device) == ("onnx", "int8", "local")]
    assert (cell.status, cell.reason) == ("failed", "timeout after 3 s")


def test_a_file_that_the_runtime_refuses_is_a_failure_and_the_next_file_is_measured(copied: Store, job: Job) -> None:
    made = cells(copied, ["tflite"], ["fp32", "int8"])
    for recipe in ("fp32", "int8"):
        (folder_of(copied, "tflite", recipe) / "measurement.json").unlink()
    model = copied.cell("tiny", "torch", "fp32", "tflite") / "model.tflite"
    model.write_bytes(model.read_bytes()[:1000])
    (failed,) = made.bench(LOCAL, QUICK)
    assert str(failed).startswith("tflite fp32 on local: ")
    assert not (folder_of(copied, "tflite", "fp32") / "measurement.json").exists()
    assert (folder_of(copied, "tflite", "fp32") / "failure.json").is_file()
    assert measurement_of(copied, "tflite", "int8").accuracy.samples == 504
    assert not list(copied.root.rglob(f"{store.TEMPORARY}*"))


def test_a_successful_measurement_replaces_the_failure(copied: Store, job: Job) -> None:
    made = cells(copied, ["tflite"], ["int8"])
    folder = folder_of(copied, "tflite", "int8")
    store.write(folder / "failure.json", Failure("failed", "once", "", "key"))
    (folder / "measurement.json").unlink()
    assert made.bench(LOCAL, QUICK) == []
    assert sorted(path.name for path in folder.iterdir()) == ["measurement.json", "predictions.npz"]


def test_a_measurement_on_an_emulated_device_is_marked_and_shows_no_latency(
    copied: Store, job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    pretended = devices.bound(Device("pretended", "local", emulated=True))
    assert cells(copied, ["tflite"], ["int8"]).bench(pretended) == []
    assert measurement_of(copied, "tflite", "int8", "pretended").device["emulated"] is True
    err = capsys.readouterr().err
    assert "tflite int8: top-1 " in err and " ms" not in err


def test_a_runtime_with_conflicting_requirements_runs_in_its_own_environment(copied: Store, job: Job) -> None:
    """tflite-runtime needs numpy<2. This test really installs its environment."""
    device = devices.find("local-tflite-runtime")
    made = cells(copied, RUNNING, ["int8"])
    assert made.bench(device, QUICK) == []
    found = measurement_of(copied, "tflite", "int8", device.name)
    assert found.runtime["name"] == "tflite_runtime"
    assert found.tools["numpy"].startswith("1.")
    assert not folder_of(copied, "onnx", "int8", device.name).exists()
    (environment,) = (copied.root / "environments").glob("tflite_runtime-*")
    assert (environment / "bin" / "python").is_file()
    local = measurement_of(copied, "tflite", "int8")
    assert abs(found.accuracy.value - local.accuracy.value) < 0.01
    inode = environment.stat().st_ino
    assert made.bench(device, dataclasses.replace(QUICK, threads=(2,))) == []
    assert [path.stat().st_ino for path in environment.parent.glob("tflite_runtime-*")] == [inode], (
        "the environment is reused"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": (0,)}, {"threads": (1, -1)}, {"processes": 0}, {"min_runs": 0}, {"min_seconds": -0.1},
        {"time_limit": 0}, {"min_seconds": float("nan")}, {"time_limit": float("inf")},
    ],
)  # fmt: skip
def test_invalid_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match="--processes, --min-runs and --samples must be at least 1"):
        dataclasses.replace(measure.Options(), **wrong).check()


def test_a_bench_uses_the_evaluation_images_of_the_checkpoint(matrix: Store, job: Job) -> None:
    found = measurement_of(matrix, "tflite", "fp32")
    (folder,) = (matrix.root / "data").iterdir()
    assert folder.name == f"digits-{found.accuracy.dataset_sha256[:16]}"
    assert len(push.labels(folder / "images.npy")) == found.accuracy.samples


def test_a_line_of_an_emulated_device_shows_counted_instructions_and_never_a_time(matrix: Store) -> None:
    found = measurement_of(matrix, "onnx", "fp32")
    found = dataclasses.replace(found, processes=(process(runs=((1, 69_314),) * 99 + ((2, 140_000),), single_runs=()),))
    assert " ms, p99 " in measure._line(found, "top-1")
    emulated = {**found.device, "emulated": True}
    silent = measure._line(dataclasses.replace(found, device=emulated), "top-1")
    assert silent.startswith("top-1 ")
    counted = measure._line(dataclasses.replace(found, device={**emulated, "clock": "instructions"}), "top-1")
    assert counted == f"69,314 instr., p99 +0.0%, {silent}"
