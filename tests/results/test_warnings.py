"""caveats: when a measurement is doubted, and that each doubt is said once."""

from __future__ import annotations

import dataclasses
from typing import Any

from pipeline.core import Cell, Measurement, from_json
from pipeline.results import warnings
from tests.test_core import golden


def measurement(**changes: Any) -> Measurement:
    """A measurement that gives no reason for a warning, with fields replaced."""
    quiet = dataclasses.replace(from_json(Measurement, golden("measurement.json")), runs=((4, 1_480_000),) * 100)
    return dataclasses.replace(quiet, **changes)


def test_a_quiet_measurement_gives_no_warning() -> None:
    assert warnings.of_times(measurement()) == ()


def test_few_runs_are_warned_of() -> None:
    (text,) = warnings.of_times(measurement(runs=((1, 1_000_000),) * 20))
    assert text == "p99 of 20 runs is little more than the slowest of them: measure 100 or more"


def test_no_runs_are_warned_of() -> None:
    assert warnings.of_times(measurement(runs=())) == ("no runs are on record: measure again",)


def test_a_wide_spread_is_warned_of() -> None:
    runs = tuple((1, 1_000_000 + 4_000 * i) for i in range(100))
    (text,) = warnings.of_times(measurement(runs=runs))
    assert text.startswith("the middle half of the runs spreads over 17% of the median:")
    assert "governor 'performance'" in text


def test_a_long_tail_is_warned_of() -> None:
    runs = ((1, 1_000_000),) * 97 + ((1, 5_000_000),) * 3
    (text,) = warnings.of_times(measurement(runs=runs))
    assert text.startswith("p99 is 5.0 times p50:")


def test_throttling_is_warned_of_and_not_knowing_is_not() -> None:
    (text,) = warnings.of_times(measurement(throttled=True))
    assert "let it cool" in text
    assert warnings.of_times(measurement(throttled=None)) == ()


def test_a_governor_that_changes_the_clock_is_warned_of() -> None:
    def governed(governor: str | None) -> tuple[str, ...]:
        device = {"name": "pi", "emulated": False, "cores": 4, "governor": governor}
        return warnings.of_times(measurement(device=device))

    assert governed("ondemand") == (
        "the device's clock may change while it is measured (governor 'ondemand'): set it to 'performance'",
    )
    assert governed("performance") == governed(None) == ()


def test_other_programs_are_warned_of() -> None:
    (text,) = warnings.of_times(measurement(load_average=(2.5, 3.0)))
    assert text.startswith("other programs were running (load average 2.5 on 4 cores)")


def test_the_measurements_own_threads_are_not_other_programs() -> None:
    runtime = {"name": "litert", "version": "2.3.0", "threads": 4}
    assert warnings.of_times(measurement(load_average=(4.5, 4.5), runtime=runtime)) == ()


def test_nothing_is_said_about_the_times_of_an_emulated_device() -> None:
    assert warnings.of_times(measurement(runs=(), throttled=True, device={"name": "pi", "emulated": True})) == ()


# -- each kind once ----------------------------------------------------------------------------------------------------


def cell(recipe: str, *warnings: str, model: str = "toy", device: str | None = "local", status: str = "ok") -> Cell:
    return Cell(model, "torch", recipe, "onnx", device, False, status, warnings=warnings)


BUSY = "other programs were running (load average {} on 2 cores): close them and measure again"


def test_a_warning_of_one_cell_names_it() -> None:
    found = warnings.once([cell("fp32"), cell("int8", BUSY.format(3.4))])
    assert found == ["int8 on onnx: " + BUSY.format(3.4)]


def test_a_warning_of_all_measured_cells_counts_them_and_gives_the_range_of_its_number() -> None:
    measured = [cell("fp32", BUSY.format(3.4)), cell("fp16", BUSY.format(3.2)), cell("int8", BUSY.format(10.5))]
    unmeasured = [cell("mixed", device=None), cell("int16x8", status="missing")]
    assert warnings.once([*measured, *unmeasured]) == ["3 of 3 cells: " + BUSY.format("3.2 to 10.5")]


def test_a_warning_of_some_cells_names_them() -> None:
    found = warnings.once([cell("fp32"), cell("fp16", BUSY.format(3.4)), cell("int8", BUSY.format(3.4))])
    assert found == ["2 of 3 cells (fp16 on onnx; int8 on onnx): " + BUSY.format(3.4)]


def test_different_kinds_are_said_apart_each_in_its_own_line() -> None:
    tail = "p99 is {} times p50: something interrupts some runs"
    found = warnings.once([cell("fp32", BUSY.format(3.4), tail.format(2.5)), cell("int8", tail.format(4.0))])
    assert found == ["fp32 on onnx: " + BUSY.format(3.4), "2 of 2 cells: " + tail.format("2.5 to 4.0")]


def test_model_and_device_are_named_where_there_are_several() -> None:
    found = warnings.once([cell("fp32"), cell("fp32", "hot", model="big", device="pi5")])
    assert found == ["big (torch), fp32 on onnx, pi5: hot"]


def test_numbers_inside_of_names_are_no_quantities() -> None:
    found = warnings.once([cell("fp32", "failed at conv1"), cell("int8", "failed at conv2")])
    assert found == ["fp32 on onnx: failed at conv1", "int8 on onnx: failed at conv2"]


def test_no_warnings_give_no_lines() -> None:
    assert warnings.once([cell("fp32")]) == []
