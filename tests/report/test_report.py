"""The report of a build folder with all targets and recipes: the figures in it, and that it is safe and offline."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import formatting
from pipeline.core import Cell, Parity, from_json
from pipeline.report.document import write_report as report
from pipeline.results import collect
from pipeline.system.store import Store
from tests.builds import BOARD, LOCAL, Tree, process

HOSTILE = "<script>alert('no')</script> | & `x`"
LABELS = ("airplane", "automobile", "bird", "cat", HOSTILE, "dog", "frog", "horse", "ship", "truck")
RECIPES = ("fp32", "fp16", "int8", "int8_dynamic", "int8_weight_only")
TARGETS = ("tflite", "executorch", "onnx", "coreml")
SHARES = {"fp32": 1.0, "fp16": 0.52, "int8": 0.3, "int8_dynamic": 0.29, "int8_weight_only": 0.31}
SIZES = {"tflite": 321_160, "executorch": 322_900, "onnx": 347_004, "coreml": 318_400}
MILLISECONDS = {"tflite": 0.25, "executorch": 0.19, "onnx": 0.21}
SPEEDS = {"fp32": 1.0, "fp16": 1.02, "int8": 0.55, "int8_dynamic": 0.8, "int8_weight_only": 1.01}


class Demo(Tree):
    """Every recipe under every target, with 500 samples of 10 classes: figures like those of a small image model."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, "resnet8", labels=LABELS)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(1)
        self.truth = self.random.integers(0, 10, 500)
        self.logits = self.random.normal(size=(500, 10)).astype(np.float32)
        self.logits[np.arange(500), self.truth] += 2.6

    def fill(self) -> None:
        self.checkpoint(samples=500)
        static = self.near(0.16)
        for recipe in RECIPES:
            for target in TARGETS:
                if (recipe, target) != ("int8_dynamic", "coreml"):
                    self.export(recipe, target)
            for target in TARGETS[:3]:
                outputs = static if recipe == "int8" else self.near(0.001 if recipe.startswith("fp") else 0.1)
                if (recipe, target) == ("int8", "onnx"):
                    outputs = outputs + (self.random.random(outputs.shape) < 0.016).astype(np.float32) * 0.1
                self.run(recipe, target, np.round(outputs, 1) if recipe == "int8" else outputs)
        for target in TARGETS[:2]:
            self.measure("fp32", target, device=BOARD, runs=((1, 41_000_000),) * 5)
            self.measure("int8", target, np.round(static, 1), device=BOARD, runs=((1, 38_000_000),) * 5)
        broken = self.build.cell("resnet8", "torch", "int8_dynamic", "onnx")
        (broken / "artifact.json").unlink()
        self.fail("int8_dynamic", "onnx", "no kernel for DynamicQuantizeLinear")

    def near(self, noise: float) -> Any:
        return (self.logits + self.random.normal(size=self.logits.shape, scale=noise)).astype(np.float32)

    def export(self, recipe: str, target: str) -> None:
        checked = Parity(
            "quantized graph" if recipe == "int8" else "float model", 500, 41.2, 0.99991, 0.12, 1.0, 0.994, 0.87
        )
        notes = ("weights are unpacked to float32 when the model is loaded",) if recipe == "int8_weight_only" else ()
        size = int(SIZES[target] * SHARES[recipe])
        parity = None if target == "coreml" else checked
        self.artifact(recipe, target, size, parity=parity, notes=notes, tools={"torch": "2.13.0", target: "1.2.3"})

    def run(self, recipe: str, target: str, outputs: Any) -> None:
        ns = MILLISECONDS[target] * SPEEDS[recipe] * 1e6
        runs = tuple((4, int(4 * ns * (1 + abs(self.random.normal(scale=0.02))))) for _ in range(150))
        busy = (3.5, 3.8) if (recipe, target) == ("fp16", "onnx") else (0.4, 0.9)
        self.measure(
            recipe, target, outputs, device={**LOCAL, "memory_bytes": 16_000_000_000}, runs=runs, load_average=busy
        )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    made = Demo(tmp_path_factory.mktemp("build"))
    made.fill()
    assert report(made.build) == made.root / "report.html"
    return made


@pytest.fixture(scope="module")
def page(demo: Demo) -> str:
    """The page without the source of plotly.js."""
    return re.sub(
        r"<script>/\*\*\n\* plotly\.js.*?</script>", "", (demo.root / "report.html").read_text(), flags=re.DOTALL
    )


def section(page: str, name: str) -> str:
    """One section of the page."""
    found = re.search(rf'<section id="{name}">.*?</section>', page, re.DOTALL)
    assert found, name
    return found[0]


def lines(part: str) -> list[list[str]]:
    """The texts of a part's table rows."""
    rows = re.findall(r"<tr>(.*?)</tr>", part.replace("\N{NON-BREAKING HYPHEN}", "-"), re.DOTALL)
    return [
        [html.unescape(text.strip()) for text in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]


def markdown(demo: Demo) -> str:
    return (demo.root / "report.md").read_text()


# -- content -----------------------------------------------------------------------------------------------------------


def test_the_table_has_every_cell_with_its_figures(demo: Demo, page: str) -> None:
    found = collect.cells(demo.build)
    rows = [row for row in lines(section(page, "cells")) if row[0] != "recipe"]
    first, then = ([c for c in found if c.emulated is emulated] for emulated in (False, True))
    assert [row[:3] for row in rows] == [[c.recipe, c.target, c.device or "–"] for c in (*first, *then)]
    (int8,) = [row for row in rows if row[:3] == ["int8", "executorch", "local"]]
    (cell,) = [c for c in found if (c.recipe, c.target, c.device) == ("int8", "executorch", "local")]
    macro_f1 = f"{100 * cell.figures['macro_f1']:.2f}"
    assert int8[3:] == [
        "96.9", "0.106", "0.108", "0.109", "0.0 %", "3.00", "50.0", "10.0", "80.20", macro_f1, "+1.00",
        "[−0.95, +2.95]", "cannot tell", "94.00",
    ]  # fmt: skip


def test_headers_have_units_and_figures_are_right_aligned(page: str) -> None:
    part = section(page, "cells")
    assert '<th class="number">p99, ms</th>' in part
    assert '<td class="number">0.109</td>' in part


def test_unsupported_and_failed_cells_show_their_reasons_in_both_tables(page: str) -> None:
    reason = "Core ML cannot quantize activations at run time; int8_weight_only stores the same weights"
    assert ["int8_dynamic", "coreml", "–", "–", f"unsupported: {reason}"] in lines(section(page, "cells"))
    below = [row[1:4] + row[5:] for row in lines(section(page, "unmeasured"))]
    assert ["int8_dynamic", "coreml", "–", "unsupported", reason] in below
    assert ["int8_dynamic", "onnx", "–", "failed", "no kernel for DynamicQuantizeLinear"] in below


def test_core_ml_is_shown_as_not_checked_and_never_as_ok(demo: Demo, page: str) -> None:
    rows = [row for row in lines(section(page, "cells")) if row[1] == "coreml" and row[0] != "int8_dynamic"]
    assert len(rows) == 4
    assert all(len(row) == 5 and row[4].startswith("not checked by Lastmile") for row in rows)
    assert [row[5] for row in lines(section(page, "unmeasured")) if row[2] == "coreml"].count("not checked") == 4
    assert not [line for line in markdown(demo).splitlines() if "coreml" in line and "ok" in line.split()]


def test_an_emulated_device_has_instructions_with_their_spread_and_no_latency(page: str) -> None:
    found = lines(section(page, "cells"))
    _, head = [row for row in found if row[0] == "recipe"]
    assert head[4:7] == ["p50, instructions", "p90, instructions", "p99, instructions"]
    assert not [title for title in head if title.endswith(("ms", "µs"))]
    rows = [row for row in found if row[2] == "pi4-emulated"]
    assert [row[4] for row in rows] == ["41,000,000", "41,000,000", "38,000,000", "38,000,000"]
    assert '"text":"p50, instructions"' in section(page, "trade-off")
    assert "Cannot tell whether the drop is below 1 point: int8 on tflite" in section(page, "summary")


def test_output_differences_are_shown_step_by_step(page: str) -> None:
    head, *rows = lines(section(page, "steps"))
    assert head[4:] == ["metric, %", "bit-equal, %", "same top-1, %", "samples", "largest difference"]
    runtime = "litert 2.3.0, 1 thread, XNNPACK"
    way = [row[2:] for row in rows if row[:2] == ["int8", "tflite"]]
    assert way[0] == ["framework", "torch 2.13.0", "81.20", "–", "–", "500", "–"]
    assert [line[:2] for line in way[1:]] == [["→ local", runtime], ["→ pi4-emulated", runtime]]
    assert way[2][2:] == ["80.20", "100.00", "100.00", "500", "0"]
    _, emulated = section(page, "summary").split("<h3>resnet8 (torch) on pi4-emulated</h3>")
    assert "2 of 4 files are bit-equal on all 500 samples" in emulated


def test_a_missing_step_names_the_command_that_measures_it(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.checkpoint()
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx", device=BOARD)
    page = report(tree.build).read_text()
    reason = "not measured on the host: inv bench --model toy --target onnx --recipe int8 --device local"
    assert ["int8", "onnx", "→ local", reason] in lines(section(page, "steps"))
    assert "Not compared with the host" in section(page, "summary")


def test_without_another_device_the_report_names_the_command_to_measure_on_one(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.checkpoint()
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx")
    assert "inv bench --device NAME" in section(report(tree.build).read_text(), "steps")


def test_a_throttled_run_is_marked_wherever_its_times_appear(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.checkpoint()
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx")
    tree.measure("int8", "onnx", device={**LOCAL, "name": "pi4", "kind": "ssh"}, throttled=True)
    page = report(tree.build, margin=5).read_text()
    assert [row[2] for row in lines(section(page, "cells")) if row[:2] == ["int8", "onnx"]] == [
        "local",
        "pi4 (throttled)",
    ]
    assert section(page, "summary").count("int8 on onnx (throttled). 4.1 kB") == 2
    assert "int8 on onnx (throttled)" in section(page, "trade-off")
    assert [row[2] for row in lines(section(page, "steps"))][-1] == "→ pi4 (throttled)"
    assert ["throttled", "yes"] in lines(section(page, "machines"))
    assert "the device throttled" in section(page, "warnings")
    assert "| int8 | onnx | pi4 (throttled) |" in (tmp_path / "report.md").read_text()


def test_the_fastest_file_has_its_size_latency_and_drop(demo: Demo) -> None:
    report(demo.build, margin=3)
    part = html.unescape(section((demo.root / "report.html").read_text(), "summary"))
    report(demo.build)
    assert (
        "Fastest with a drop below 3 points: int8 on executorch. 96.9 kB (3.3 times smaller than fp32), p50 0.106 ms "
        "(1.8 times faster than fp32), drop +1.00 points [-0.95, +2.95], "
        "no worse than the margin of 3 points over 500 samples."
    ) in part
    assert "38,000,000 instructions" in part
    assert "Fewest instructions with a drop below 3 points: int8 on executorch" in part


def test_a_file_whose_drop_may_exceed_the_margin_is_not_recommended(page: str, demo: Demo) -> None:
    part = html.unescape(section(page, "summary"))
    _, fastest = part.split("Fastest with a drop below 1 point: ")
    assert fastest.startswith("fp32 on executorch")
    (cell,) = [c for c in collect.cells(demo.build) if (c.recipe, c.target, c.device) == ("int8", "tflite", "local")]
    assert (cell.verdict, cell.margin_points) == ("cannot tell", 1.0) and cell.samples_needed is None
    (cell,) = [
        c for c in collect.cells(demo.build, margin=2) if (c.recipe, c.target, c.device) == ("int8", "tflite", "local")
    ]
    assert cell.verdict == "cannot tell" and cell.samples_needed is not None and cell.samples_needed > 500


def test_with_few_samples_no_file_is_recommended(tmp_path: Path) -> None:
    """10 points fewer on 20 samples are not significant, and no reason to ship the file."""
    tree = Tree(tmp_path)
    tree.truth, tree.logits = tree.truth[:20], tree.logits[:20]
    tree.checkpoint()
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx", tree.wrong(2))
    (cell,) = [c for c in collect.cells(tree.build) if c.device]
    assert cell.drop_points == pytest.approx(10) and cell.drop_interval is not None and cell.drop_interval[0] < 0
    assert cell.verdict == "cannot tell" and cell.samples_needed is not None
    part = section(report(tree.build).read_text(), "summary")
    assert "No file can be recommended" in part
    assert f"about {formatting.about(cell.samples_needed)} samples would" in part


def test_if_every_file_is_worse_the_summary_is_one_sentence(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.checkpoint()
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx", tree.wrong(60))
    part = section(report(tree.build).read_text(), "summary")
    assert "Every measured file is less accurate than the float model by more than 1 point." in part
    assert "Cannot tell" not in part and "with a drop below" not in part


def test_a_significant_loss_is_marked_and_not_recommended(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.checkpoint()
    tree.artifact("fp32", "onnx", 8000)
    tree.measure("fp32", "onnx")
    tree.artifact("int8", "onnx", 4000)
    tree.measure("int8", "onnx", tree.wrong(20))
    report(tree.build, margin=5)
    page = (tmp_path / "report.html").read_text()
    assert "Smallest with a drop below 5 points: fp32 on onnx. 8.0 kB" in section(page, "summary")
    (int8,) = [row for row in lines(section(page, "cells")) if row[:3] == ["int8", "onnx", "local"]]
    assert int8[-4:-1] == ["+10.00", "[+5.56, +14.24]*", "worse"]


def test_files_that_are_not_significantly_slower_than_the_fastest_one_are_listed(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.checkpoint()
    medians = {
        "onnx": (100, 103, 98, 101, 100),
        "tflite": (102, 99, 103, 104, 101),  # slower in three of five rounds
        "executorch": (120, 124, 117, 122, 119),  # slower in all of them
    }
    for target, microseconds in medians.items():
        tree.artifact("fp32", target)
        processes = tuple(process(runs=((1, 1000 * us),) * 20) for us in microseconds)
        tree.measure("fp32", target, processes=processes)
    report(tree.build, margin=5)
    part = section((tmp_path / "report.html").read_text(), "summary")
    assert "Fastest with a drop below 5 points: fp32 on onnx" in part
    assert "Not significantly worse: fp32 on tflite." in part


def test_a_file_measured_in_one_process_is_never_called_faster(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.checkpoint()
    for recipe, us in (("fp32", 200), ("int8", 100)):
        tree.artifact(recipe, "onnx")
        tree.measure(recipe, "onnx", processes=(process(runs=((1, 1000 * us),) * 200),))
    report(tree.build, margin=5)
    part = section((tmp_path / "report.html").read_text(), "summary")
    assert "faster than fp32" not in part
    assert "Not significantly worse: fp32 on onnx." in part


def test_numbers_of_instructions_within_one_percent_are_alike(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.checkpoint()
    for target, count in (("onnx", 100_000), ("tflite", 100_800), ("executorch", 102_000)):
        tree.artifact("fp32", target)
        tree.measure("fp32", target, device=BOARD, processes=(process(runs=((10, 10 * count),) * 20),))
    report(tree.build, margin=5)
    part = section((tmp_path / "report.html").read_text(), "summary")
    assert "Fewest instructions with a drop below" in part
    assert "Not significantly worse: fp32 on tflite." in part


def test_bit_equality_has_the_equal_and_all_samples(page: str) -> None:
    local = [row[3:7] for row in lines(section(page, "equality")) if row[2] == "local"]
    assert local == [
        ["executorch", "onnx", "415", "500"],
        ["executorch", "tflite", "500", "500"],
        ["onnx", "tflite", "415", "500"],
    ]


def test_the_drop_of_each_class_is_in_a_chart_and_a_table(page: str) -> None:
    part = section(page, "classes")
    head, first, *_ = lines(part)
    assert head == ["recipe", "target", *LABELS]
    assert first == ["fp32", "executorch", *["0"] * 10]
    assert "46 to 58 samples" in part


def test_of_many_classes_the_20_that_change_most_are_shown(tmp_path: Path) -> None:
    tree = Tree(tmp_path, labels=tuple(f"class {i}" for i in range(40)))
    tree.checkpoint()
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx", tree.wrong(40 + 3))
    report(tree.build)
    part = section((tmp_path / "report.html").read_text(), "classes")
    head = lines(part)[0]
    assert len(head) == 2 + 20
    assert {"class 0", "class 1", "class 2"} <= set(head)
    assert "20 of 40 classes" in part


def test_without_a_change_in_any_class_there_is_a_sentence_and_no_chart(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.checkpoint()
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx")
    part = section(report(tree.build).read_text(), "classes")
    assert "<h3>toy (torch) on local</h3>" in part and "in every class" in part
    assert "<table>" not in part
    assert "plotly" not in part


def test_a_fast_model_is_in_microseconds_on_the_whole_page(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.checkpoint()
    tree.artifact("int8", "onnx")
    tree.measure("int8", "onnx", runs=((1000, 2_230_000),) * 100)
    page = report(tree.build, margin=5).read_text()
    head, *rows = lines(section(page, "cells"))
    (int8,) = [row for row in rows if row[:3] == ["int8", "onnx", "local"]]
    assert head[4:9] == ["p50, µs", "p90, µs", "p99, µs", "spread", "load, ms"]
    assert int8[4:9] == ["2.23", "2.23", "2.23", "0.0 %", "3.00"]
    assert "p50 2.23 µs" in section(page, "summary")
    assert "p50, \\u00b5s" in section(page, "trade-off")


def test_the_summary_counts_warnings_and_each_warning_appears_once(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.checkpoint()
    for target in ("onnx", "tflite"):
        tree.artifact("int8", target)
        tree.measure("int8", target, throttled=True)
    page = report(tree.build).read_text()
    assert "2 of 2 measured cells have warnings" in section(page, "summary")
    assert section(page, "warnings").count("<li>2 of 2 cells: the device throttled") == 1


def test_facts_at_start_and_end_have_their_unit_and_unknown_facts_are_omitted(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.checkpoint()
    small = {"cpus": "0-3", "cpu": "Cortex-A55", "governor": "schedutil", "frequency_max_hz": 1_800_000_000}
    large = {"cpus": "4-5", "cpu": "Cortex-A76", "governor": None, "frequency_max_hz": None}
    clocks = (1_500_000_000, 2_400_000_000), (1_800_000_000, 2_400_000_000)
    for target, clock in (("onnx", clocks), ("tflite", ((), ()))):
        tree.artifact("int8", target)
        device = {**LOCAL, "governor": None, "clusters": [small, large]}
        tree.measure("int8", target, device=device, frequency_hz=clock)
    facts = lines(section(report(tree.build).read_text(), "machines"))
    assert ["frequency", "1.50 to 1.80 GHz / 2.40 GHz"] in facts
    assert ["clusters", "0-3: Cortex-A55, schedutil, 1.80 GHz; 4-5: Cortex-A76"] in facts
    assert "governor" not in [name for name, _ in facts]


def test_warnings_devices_tools_and_method_are_there(page: str) -> None:
    assert re.search(r"fp16 on onnx, local: .*load average 3\.5 on 4 cores", section(page, "warnings"))
    assert ["memory", "16.0 GB"] in lines(section(page, "machines"))
    assert ["runtimes", "litert 2.3.0, 1 thread, XNNPACK"] in lines(section(page, "machines"))
    assert ["torch", "2.13.0", "2.13.0", "–"] in lines(section(page, "tools"))
    assert "Bonett and Price" in section(page, "method")


def test_exports_show_their_parity(page: str) -> None:
    row = ["int8", "tflite", "graph", "quantized graph", "500", "41.2", "0.999910", "0.12", "1.0", "99.40", "87.00"]
    row += ["31.5", "98.00", "100.00", "100.00"]
    part = section(page, "exports")
    assert row in lines(part)
    noted = ", ".join(f"int8_weight_only on {target}" for target in sorted(TARGETS))
    assert f"<li>{noted}: weights are unpacked to float32 when the model is loaded</li>" in part


# -- safe and offline --------------------------------------------------------------------------------------------------


def test_the_page_loads_nothing_from_elsewhere(demo: Demo, page: str) -> None:
    assert not re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)\s*=", page)
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(""", page)
    assert "Content-Security-Policy" in page
    assert "default-src 'none'" in html.unescape(page)
    assert (demo.root / "report.html").read_text().count("plotly.js v") == 1


def test_names_from_users_are_escaped(demo: Demo, page: str) -> None:
    assert HOSTILE not in page
    assert "alert(&#39;no&#39;)" in page
    assert "<script>alert" not in page
    assert "<script>" not in markdown(demo)


def test_charts_name_every_measured_cell(demo: Demo, page: str) -> None:
    part = section(page, "trade-off")
    for cell in collect.cells(demo.build):
        if cell.latency_ms:
            assert f"{cell.recipe} on {cell.target}" in part
    assert all(f'"name":"{target}"' in section(page, "sizes") for target in TARGETS)


# -- the other two files -----------------------------------------------------------------------------------------------


def test_the_json_has_the_cells_that_results_prints(demo: Demo) -> None:
    found = json.loads((demo.root / "results.json").read_text())
    assert [from_json(Cell, value) for value in found] == collect.cells(demo.build)


def test_the_markdown_has_the_same_tables(demo: Demo, page: str) -> None:
    text = markdown(demo)
    titles = [html.unescape(title) for title in re.findall(r"<h2>(.*?)</h2>", page)]
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == titles
    assert "| int8 | executorch | local | 96.9 | 0.106 | 0.108 | 0.109 |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) == len(lines(page)) + len(re.findall("<table>", page))


def test_every_line_of_a_markdown_table_has_as_many_columns_as_its_header(demo: Demo) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", markdown(demo), re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_same_build_gives_the_same_report(demo: Demo) -> None:
    before = {name: (demo.root / name).read_bytes() for name in ("report.html", "report.md", "results.json")}
    report(demo.build)
    assert {name: (demo.root / name).read_bytes() for name in before} == before


def test_the_report_of_an_empty_build_folder_names_the_first_command(tmp_path: Path) -> None:
    page = report(Store(tmp_path / "build")).read_text()
    assert "inv train" in section(page, "summary")
    assert "plotly" not in page.replace("js-plotly-plot", "")
    assert json.loads((tmp_path / "build" / "results.json").read_text()) == []
