"""Ready files: measured as they are, compared with a reference, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline import devices
from pipeline.core import Failure, FileMeasurement
from pipeline.errors import BadOption, StageFailed, Unsupported
from pipeline.results import ready as results
from pipeline.sources import file
from pipeline.stages import ready
from pipeline.stages.measure import Options
from pipeline.system import store
from pipeline.system.store import Store
from tests.cli import inv
from tests.plans import QUICK

LOCAL = devices.find("local")


def network(path: Path, scale: float, shape: tuple[int | str, ...] = (1, 4)) -> file.ReadyFile:
    """A file that multiplies its input."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "scale"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("scale", TensorProto.FLOAT, [], [scale])],
    )
    return saved(path, graph)


def saved(path: Path, graph: onnx.GraphProto) -> file.ReadyFile:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(helper.make_model(graph, opset_imports=model.opset_import, ir_version=10), path)
    return file.find(path)


def several_inputs(path: Path) -> file.ReadyFile:
    """A file with a float and an int64 input, and two outputs of which one is int64."""
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"], axis=0),
            helper.make_node("Add", ["rows", "x"], ["y"]),
            helper.make_node("Identity", ["ids"], ["same"]),
        ],
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 2)),
            helper.make_tensor_value_info("ids", TensorProto.INT64, (1, 3)),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3, 2)),
            helper.make_tensor_value_info("same", TensorProto.INT64, (1, 3)),
        ],
        [helper.make_tensor("table", TensorProto.FLOAT, (2, 2), [1.0, 2.0, 3.0, 4.0])],
    )
    return saved(path, graph)


@pytest.fixture
def build(tmp_path: Path) -> Store:
    return Store(tmp_path / "build")


def measured(build: Store, subject: file.ReadyFile, **more: object) -> FileMeasurement:
    (result,) = ready.bench(build, subject, [LOCAL], QUICK, **more)  # type: ignore[arg-type]
    assert result.failure is None and result.measurement is not None, result.failure
    return result.measurement


def test_a_file_is_measured_and_nothing_is_said_of_its_outputs(build: Store, tmp_path: Path) -> None:
    subject = network(tmp_path / "net.onnx", 2.0)
    found = measured(build, subject)
    assert (found.file, found.sha256, found.size_bytes) == ("net.onnx", subject.sha256, subject.path.stat().st_size)
    assert [(port.name, port.shape, port.dtype) for port in found.inputs] == [("x", (1, 4), "float32")]
    assert len(found.processes) == 1 and found.processes[0].runs and found.parity == ()
    cell = results.of(build, found)
    assert (cell.status, cell.accuracy, cell.drop_points, cell.metric) == ("ok", None, None, None)
    assert cell.latency_ms is not None and cell.load_ms is not None and cell.peak_rss_bytes
    assert "--reference" in cell.warnings[0]


def test_what_is_up_to_date_is_not_measured_again(build: Store, tmp_path: Path) -> None:
    subject = network(tmp_path / "net.onnx", 2.0)
    assert measured(build, subject) == measured(build, subject)
    other = network(tmp_path / "net.onnx", 3.0)
    assert other.name != subject.name and measured(build, other).sha256 == other.sha256


def test_several_inputs_of_mixed_dtypes_are_served(build: Store, tmp_path: Path) -> None:
    found = measured(build, several_inputs(tmp_path / "net.onnx"))
    assert [port.dtype for port in found.inputs] == ["float32", "int64"]
    assert [port.dtype for port in found.outputs] == ["float32", "int64"]


def test_outputs_are_compared_with_those_of_a_reference(build: Store, tmp_path: Path) -> None:
    one, same, other = (network(tmp_path / f"{i}.onnx", scale) for i, scale in enumerate((2.0, 2.0, 2.2)))
    (parity,) = measured(build, one, reference=same).parity
    assert (parity.snr_db, parity.equal, parity.samples) == (999, 1.0, ready.SAMPLES)
    (parity,) = measured(build, one, reference=other).parity
    assert parity.snr_db == pytest.approx(20 * np.log10(11), abs=0.01) and parity.equal == 0


def test_samples_of_the_user_are_compared(build: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "samples.npy", np.full((5, 4), 10, np.float32))
    one, other = network(tmp_path / "a.onnx", 1.0), network(tmp_path / "b.onnx", 1.5)
    (parity,) = measured(build, one, reference=other, samples=tmp_path / "samples.npy").parity
    assert (parity.samples, parity.max_error) == (5, 5.0)


def test_a_file_that_cannot_be_loaded_is_a_result_and_stays_in_the_results(build: Store, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no model")
    (result,) = ready.bench(build, file.find(tmp_path / "net.onnx"), [LOCAL], QUICK)
    assert result.measurement is None and isinstance(result.failure, StageFailed)
    (cell,) = results.cells(build)
    assert cell.status == "failed" and cell.reason and "\n" not in cell.reason
    network(tmp_path / "net.onnx", 1.0)
    measured(build, file.find(tmp_path / "net.onnx"))
    assert sorted(cell.status for cell in results.cells(build)) == ["failed", "ok"]  # two files of one name


def test_figures_whose_later_run_failed_say_so(build: Store, tmp_path: Path) -> None:
    found = measured(build, network(tmp_path / "net.onnx", 1.0))
    (path,) = build.root.rglob("measurement.json")
    store.write(path.with_name("failure.json"), Failure("failed", "ended by SIGSEGV", "", "key"))
    (cell,) = results.cells(build)
    assert cell.status == "ok" and "SIGSEGV" in cell.warnings[-1] and found.file == cell.model


def test_free_axes_are_named(build: Store, tmp_path: Path) -> None:
    (result,) = ready.bench(build, network(tmp_path / "net.onnx", 1.0, (1, "n")), [LOCAL], QUICK)
    assert result.failure is not None and "x" in str(result.failure) and "free" in str(result.failure)


def test_a_file_that_no_runtime_here_runs_is_unsupported(build: Store, tmp_path: Path) -> None:
    (tmp_path / "net.mlpackage").mkdir()
    (tmp_path / "net.mlpackage" / "Manifest.json").write_text("{}")
    with pytest.raises(Unsupported, match="Apple"):
        ready.bench(build, file.find(tmp_path / "net.mlpackage"), [LOCAL], QUICK)


@pytest.mark.parametrize(
    ("shapes", "named"),
    [(((1, 4), (1, 5)), r"\(1, 4\).*\(1, 5\)"), (((1, "n"), (1, 4)), "free"), (((1, 4), None), "fixed shape")],
)
def test_files_that_cannot_be_compared_are_refused(
    shapes: tuple[tuple[int | str, ...] | None, ...], named: str, build: Store, tmp_path: Path
) -> None:
    both = [
        network(tmp_path / f"{i}.onnx", 1.0, shape) if shape else several_inputs(tmp_path / f"{i}.onnx")
        for i, shape in enumerate(shapes)
    ]
    with pytest.raises(BadOption, match=named):
        ready.bench(build, both[0], [LOCAL], Options(), both[1])


@pytest.mark.parametrize(("name", "content"), [("none.tflite", None), ("empty.onnx", b""), ("net.txt", b"x")])
def test_a_path_that_is_no_ready_file_is_refused(name: str, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadOption, match=name):
        file.find(tmp_path / name)


def test_the_commands_take_a_ready_file(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx", 2.0).path
    quick = ("--processes", "1", "--min-runs", "3", "--min-seconds", "0")
    done = inv(tmp_path / "build", "bench", "--model", path, *quick)
    assert done.code == 0 and "net.onnx" in done.out and "top-1" not in done.out, done.err
    (cell,) = json.loads(inv(tmp_path / "build", "results", "--json").out)
    assert (cell["model"], cell["recipe"], cell["status"]) == ("net.onnx", "as it is", "ok")
    assert inv(tmp_path / "build", "push", "--model", path).code == 0
    for words in (("--target", "onnx"), ("--data", tmp_path), ("--inputs", path)):
        done = inv(tmp_path / "build", "bench", "--model", path, *words)
        assert done.code == 2 and len(done.err.strip().splitlines()) == 1 and "Traceback" not in done.err
    assert inv(tmp_path / "build", "bench", "--model", "digits_cnn", "--reference", path).code == 2


def test_manifests_are_read_as_they_were_written(build: Store, tmp_path: Path) -> None:
    found = measured(build, network(tmp_path / "net.onnx", 2.0))
    (path,) = build.root.rglob("measurement.json")
    assert store.read(FileMeasurement, path) == found
