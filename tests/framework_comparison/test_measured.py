"""Every part of `inv frameworks`, measured for real on the tiny model."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import from_json
from pipeline.framework_comparison import run
from pipeline.framework_comparison.parts import FRAMEWORKS, Part, debugging, graphs, training
from pipeline.framework_comparison.parts import parts as part_names
from pipeline.framework_comparison.parts._trainings import WAYS
from pipeline.system.store import Store
from tests.plans import plan

OPTIONS = run.Options(rounds=1, epochs=1)
PLAN = plan("tflite", "int8", frameworks="all")


@pytest.fixture(scope="module")
def compared(matrix: Store, keras_matrix: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a comparison of both frameworks' builds."""
    build = Store(shutil.copytree(matrix.root, tmp_path_factory.mktemp("compared") / "build"))
    shutil.copytree(keras_matrix.root, build.root, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "SIZES", (7, 8))
        patch.setattr(graphs, "MOST", 3)
        patch.setattr(debugging, "MODES", ("eager",))
        patch.setattr(training, "WAYS", [way for way in WAYS if "two" not in way.name])
        page = run.compare(build, PLAN, part_names(), OPTIONS)
    assert page == build.root / "tiny.frameworks" / "report.html"
    return page.parent


@pytest.fixture(scope="module")
def parts(compared: Path) -> dict[str, Part]:
    return {name: from_json(Part, json.loads((compared / f"{name}.json").read_text())) for name in part_names()}


def reasons(part: Part, *words: str) -> dict[str, set[str | None]]:
    """Why each framework has no figures, in rows whose table or name contains these words."""
    rows = [row for row in part.rows if all(word in f"{row.table}: {row.what}" for word in words)]
    assert rows
    return {name: {row.sides[name].reason for row in rows} for name in FRAMEWORKS}


def figures(part: Part, table: str, what: str) -> tuple[float, float]:
    (row,) = [row for row in part.rows if (row.table, row.what) == (table, what)]
    return row.torch.samples[0][0], row.keras.samples[0][0]


def test_a_process_of_one_framework_does_not_import_the_other(parts: dict[str, Part]) -> None:
    for name in ("graphs", "training", "debugging", "visualisation"):
        loaded = parts[name].loaded
        assert "torch" in loaded["torch"] and not {"tensorflow", "keras"} & set(loaded["torch"]), name
        assert {"tensorflow", "keras"} <= set(loaded["keras"]) and "torch" not in loaded["keras"], name


def test_every_row_has_both_frameworks_with_figures_or_a_reason(parts: dict[str, Part]) -> None:
    for part in parts.values():
        assert part.rows
        for row in part.rows:
            assert all(row.sides[name].samples or row.sides[name].reason for name in FRAMEWORKS), row


def test_steps_are_timed_eager_and_compiled_with_few_traces(parts: dict[str, Part]) -> None:
    assert reasons(parts["graphs"]) == {"torch": {None}, "keras": {None}}
    for row in parts["graphs"].rows:
        if row.table.startswith("A training step"):
            assert {len(row.sides[name].samples[0]) for name in FRAMEWORKS} == {3}
        if row.table.startswith("Graphs traced"):
            assert 1 <= row.torch.samples[0][0] <= 3 and 1 <= row.keras.samples[0][0] <= 3


def test_training_is_measured_and_a_missing_gpu_is_a_reason(parts: dict[str, Part]) -> None:
    part = parts["training"]
    assert reasons(part, "one CPU worker") == {"torch": {None}, "keras": {None}}
    if (kept := reasons(part, "one GPU"))["torch"] != {None}:
        assert all("GPU" in str(reason) for found in kept.values() for reason in found)
    curves = [curve for curve in part.curves if "one CPU worker" in curve.chart]
    assert [(curve.framework, len(curve.points)) for curve in curves] == [("torch", 1), ("keras", 1)]


def test_messages_are_verbatim_and_rows_tell_whether_they_name_the_layer(parts: dict[str, Part]) -> None:
    rows = {(row.table, row.what): row for row in parts["debugging"].rows}
    shape = rows[debugging.MESSAGES, "a wrong number of channels, eager"]
    assert shape.torch.text == "RuntimeError: mat1 and mat2 shapes cannot be multiplied (64x128 and 129x10)"
    assert "layer 'classifier' is incompatible" in str(shape.keras.text)
    named = rows["Is the layer named", "a wrong number of channels, eager"]
    assert (named.torch.text, named.keras.text) == ("no", "yes")
    silent = rows["Is there a message", "a NaN, eager"]
    assert (silent.torch.text, silent.keras.text) == ("no", "no")
    found = rows["Is there a message", f"{debugging.CASES['nan, looked for']}, eager"]
    assert (found.torch.text, found.keras.text) == ("yes", "yes")
    texts = [side.text or "" for row in parts["debugging"].rows for side in row.sides.values()]
    assert not [text for text in texts if str(Path(run.__file__).parents[1]) in text or "\x1b" in text]


def test_both_write_the_same_tags_to_tensorboard_and_their_own_graph(parts: dict[str, Part]) -> None:
    def tags(what: str) -> tuple[float, float]:
        return figures(parts["visualisation"], "In TensorBoard", what)

    assert tags("curves") == (4, 4) and tags("graphs") == (1, 1)
    assert tags("histograms of weights") == (8, 8) and tags("layers with weights") == (5, 5)
    assert tags("layers found by name in the graph") == (5, 5)


def test_exports_of_both_frameworks_are_measured(parts: dict[str, Part]) -> None:
    deployment = parts["deployment"]
    assert figures(deployment, "Exports that work", "number of files") == (1, 1)
    for table in ("Export, s", "Latency, p50, ms", "Peak memory, MB", "File size, kB"):
        torch, keras = figures(deployment, table, "int8 on tflite")
        assert torch > 0 and keras > 0
    (drop,) = [row for row in deployment.rows if (row.table, row.what) == ("Accuracy drop, points", "int8 on tflite")]
    assert sum(count for _, count in drop.differences) == 504


# -- output ------------------------------------------------------------------------------------------------------------


def test_the_page_and_the_markdown_have_every_row(compared: Path, parts: dict[str, Part]) -> None:
    page = html.unescape((compared / "report.html").read_text())
    plain = (compared / "report.md").read_text().replace("\\", "")
    for part in parts.values():
        section = re.search(rf'<section id="{part.name}">.*?</section>', page, re.DOTALL)
        assert section
        for row in part.rows:
            assert row.what in section[0] and row.what in plain


def test_the_json_has_each_row_with_its_samples_and_its_verdict(compared: Path, parts: dict[str, Part]) -> None:
    judged: dict[str, Any] = json.loads((compared / "report.json").read_text())
    assert judged["model"] == "tiny" and [part["name"] for part in judged["parts"]] == part_names()
    for part in judged["parts"]:
        assert [row["what"] for row in part["rows"]] == [row.what for row in parts[part["name"]].rows]
        assert all(row["verdict"]["words"] for row in part["rows"])
    rows = [row for part in judged["parts"] for row in part["rows"] if row["kind"] == "measured"]
    assert {row["verdict"]["better"] for row in rows} == {None}  # one round has no interval


def test_an_up_to_date_part_is_not_measured_again(compared: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in compared.glob("*.json")}
    build = Store(compared.parent)
    run.compare(build, PLAN, ["writing", "debugging", "deployment"], OPTIONS)
    after = {path.name: path.stat().st_mtime_ns for path in compared.glob("*.json")}
    assert [name for name, time in after.items() if time != before[name]] == ["report.json"]
    assert not list(compared.glob(".tmp-*"))
