"""Warnings: which measurements get one, and how warnings of the same kind are merged."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from pipeline.core import Cell, Coverage, FloatLayer, Measurement, Process, from_json
from pipeline.results import warnings
from tests.builds import PROCESS, process
from tests.test_core import golden


def measurement(processes: Sequence[Process] | None = None, **changes: Any) -> Measurement:
    """A measurement without warnings, with fields of each process or of the measurement replaced."""
    own = {name: changes.pop(name) for name in PROCESS & set(changes)}
    noun = dataclasses.replace(from_json(Measurement, golden("measurement.json")), **changes)
    return dataclasses.replace(noun, processes=tuple(processes or [quiet(**own)] * 5))


def quiet(**changes: Any) -> Process:
    return process(**{"runs": ((4, 1_480_000),) * 100, "load_average": (0.1, 0.9), **changes})


def test_a_quiet_measurement_gives_no_warning() -> None:
    assert warnings.of_times(measurement()) == ()


def test_few_runs_give_a_warning() -> None:
    (text,) = warnings.of_times(measurement(runs=((1, 1_000_000),) * 4))
    assert "p99 of only 20 runs" in text and "100 runs or more" in text


def test_no_runs_give_a_warning() -> None:
    (text,) = warnings.of_times(measurement(runs=()))
    assert "no runs" in text


def test_runs_that_differ_within_a_process_give_a_warning() -> None:
    runs = tuple((1, 1_000_000 + 4_000 * i) for i in range(100))
    (text,) = warnings.of_times(measurement(runs=runs))
    assert "17% of the median" in text
    assert "'performance'" in text


def test_processes_that_differ_give_a_warning() -> None:
    def differing(*us: int) -> tuple[str, ...]:
        return warnings.of_times(measurement([quiet(runs=((1, 1_000 * each),) * 100) for each in us]))

    (text,) = differing(1_000, 1_020, 990, 1_130, 1_010)
    assert "5 processes differ by 14%" in text
    assert differing(1_000, 1_020, 990, 1_080, 1_010) == ()


def test_a_file_of_which_less_than_nine_tenths_is_quantized_gives_a_warning_that_names_the_largest_layers() -> None:
    layers = tuple(FloatLayer(f"up.{i}", "aten.conv_transpose2d", 100 - i, "no rule") for i in range(5))
    (text,) = warnings.of_coverage(Coverage(0.95, 0.421, layers))
    assert "42.1 %" in text and "up.0" in text and "up.2" in text and "up.3" not in text and "2 more" in text
    assert "aten.conv_transpose2d" in text and "no rule" in text
    assert warnings.of_coverage(Coverage(0.5, 0.9, layers)) == ()
    assert warnings.of_coverage(None) == ()


def test_one_process_gives_a_warning() -> None:
    (text,) = warnings.of_times(measurement([quiet()]))
    assert "one process" in text and "--processes" in text


def test_a_long_tail_of_single_runs_gives_a_warning() -> None:
    single = (400_050,) * 97 + (2_000_050,) * 3
    (text,) = warnings.of_times(measurement(single_runs=single))
    assert text.startswith("p99 is 5.0 times the median")


def test_throttling_in_any_process_gives_a_warning_and_unknown_throttling_does_not() -> None:
    (text,) = warnings.of_times(measurement([*[quiet(throttled=False)] * 4, quiet(throttled=True)]))
    assert "throttled" in text
    assert warnings.of_times(measurement(throttled=None)) == ()


def test_each_reason_of_throttling_gives_its_own_warning() -> None:
    def slowed(*reasons: str) -> tuple[str, ...]:
        return warnings.of_times(measurement([*[quiet()] * 4, quiet(throttled=True, throttling=reasons)]))

    (text,) = slowed("undervoltage")
    assert text.startswith("undervoltage") and "5 V 3 A" in text
    assert ["soft temperature limit" in text for text in slowed("soft_temperature_limit")] == [True]
    assert len(slowed("undervoltage", "frequency_capped", "throttled")) == 3
    assert [len(slowed(reason)) for reason in warnings.SLOWED] == [1] * len(warnings.SLOWED)
    assert ["let it cool" in text for text in slowed("a reason of a later version")] == [True]


def test_a_governor_that_changes_the_clock_gives_a_warning() -> None:
    def governed(governor: str | None) -> tuple[str, ...]:
        device = {"name": "pi", "emulated": False, "cores": 4, "governor": governor}
        return warnings.of_times(measurement(device=device))

    (text,) = governed("ondemand")
    assert "'ondemand'" in text and "'performance'" in text
    assert governed("performance") == governed(None) == ()
    (text,) = governed("performance / schedutil")  # of two clusters
    assert "schedutil" in text


def test_a_busy_machine_gives_a_warning() -> None:
    (text,) = warnings.of_times(measurement(load_average=(2.5, 3.0)))
    assert "load average 2.5 on 4 cores" in text


def test_the_measurements_own_threads_do_not_count_as_other_programs() -> None:
    runtime = {"name": "litert", "version": "2.3.0", "threads": 4}
    assert warnings.of_times(measurement(load_average=(4.5, 4.5), runtime=runtime)) == ()


def test_times_of_an_emulated_device_give_no_warning() -> None:
    assert warnings.of_times(measurement(runs=(), throttled=True, device={"name": "pi", "emulated": True})) == ()


# -- phones ------------------------------------------------------------------------------------------------------------


def state(**changes: Any) -> dict[str, Any]:
    good = {
        "thermal_status": 0, "thermal_headroom": 0.4, "battery_level": 0.8, "charging": True, "power_save": False,
        "cpus": [6, 7],
    }  # fmt: skip
    return {**good, **changes}


def on_a_phone(
    processes: Sequence[Process] | None = None, before: dict[str, Any] | None = None,
    sample: dict[str, Any] | None = None, **facts: Any,
) -> tuple[str, ...]:  # fmt: skip
    states = [{"before": before or state(), "samples": [sample or state()], "after": state()}] * 5
    device = {"name": "pixel", "emulated": False, "cores": 8, "android": "14", "states": states, **facts}
    return warnings.of_times(measurement(processes, device=device))


def test_a_phone_in_a_good_state_gives_no_warning() -> None:
    assert on_a_phone(fixed_performance=True, fixed_performance_error=None, compiled="speed", governor="walt") == ()


def test_battery_saver_gives_a_warning() -> None:
    (text,) = on_a_phone(before=state(power_save=True))
    assert "battery saver" in text


def test_a_phone_close_to_throttling_between_its_runs_gives_a_warning() -> None:
    (text,) = on_a_phone(sample=state(thermal_headroom=0.97))
    assert "0.97" in text and "cool_down_c" in text
    assert on_a_phone(sample=state(thermal_headroom=None)) == ()


def test_a_phone_that_was_throttled_between_its_runs_gives_a_warning() -> None:
    hot = [quiet(throttled=True, throttling=("thermal_status",))] * 5
    (text,) = on_a_phone(hot)
    assert "Android" in text and "power supply" not in text


def test_a_low_battery_that_does_not_charge_gives_a_warning() -> None:
    (text,) = on_a_phone(before=state(battery_level=0.12, charging=False))
    assert "12%" in text
    assert on_a_phone(before=state(battery_level=0.12, charging=True)) == ()


def test_a_refused_fixed_performance_mode_gives_a_warning_with_the_phones_reason() -> None:
    (text,) = on_a_phone(fixed_performance=False, fixed_performance_error="Failed to set FIXED_PERFORMANCE mode")
    assert "Failed to set FIXED_PERFORMANCE mode" in text


def test_an_app_that_was_not_compiled_ahead_gives_a_warning() -> None:
    (text,) = on_a_phone(compiled=None, compile_error="Failure: package not found")
    assert "Failure: package not found" in text


def test_a_peak_of_memory_that_was_not_reset_gives_a_warning() -> None:
    (text,) = on_a_phone([quiet(peak_rss_reset=False)] * 5)
    assert "peak memory" in text


def test_a_phones_owner_is_not_told_to_set_the_governor() -> None:
    (text,) = on_a_phone(governor="schedutil")
    assert "fixed_performance = true" in text and "'performance'" not in text
    runs = tuple((1, 1_000_000 + 4_000 * i) for i in range(100))
    (text,) = on_a_phone([quiet(runs=runs)] * 5)
    assert "fixed_performance = true" in text and "governor" not in text
    assert len(on_a_phone(governor="schedutil", fixed_performance=True)) == 0


# -- merging -----------------------------------------------------------------------------------------------------------


def cell(recipe: str, *warnings: str, model: str = "toy", device: str | None = "local", status: str = "ok") -> Cell:
    return Cell(model, "torch", recipe, "onnx", device, False, status, warnings=warnings)


BUSY = "other programs were running (load average {} on 2 cores): close them and measure again"


def test_a_warning_of_one_cell_names_it() -> None:
    found = warnings.once([cell("fp32"), cell("int8", BUSY.format(3.4))])
    assert found == ["int8 on onnx: " + BUSY.format(3.4)]


def test_a_warning_of_all_measured_cells_has_their_count_and_the_range_of_its_number() -> None:
    measured = [cell("fp32", BUSY.format(3.4)), cell("fp16", BUSY.format(3.2)), cell("int8", BUSY.format(10.5))]
    unmeasured = [cell("mixed", device=None), cell("int16x8", status="missing")]
    assert warnings.once([*measured, *unmeasured]) == ["3 of 3 cells: " + BUSY.format("3.2 to 10.5")]


def test_a_warning_of_some_cells_names_them() -> None:
    found = warnings.once([cell("fp32"), cell("fp16", BUSY.format(3.4)), cell("int8", BUSY.format(3.4))])
    assert found == ["2 of 3 cells (fp16 on onnx; int8 on onnx): " + BUSY.format(3.4)]


def test_each_kind_of_warning_has_its_own_line() -> None:
    tail = "p99 is {} times p50"
    found = warnings.once([cell("fp32", BUSY.format(3.4), tail.format(2.5)), cell("int8", tail.format(4.0))])
    assert found == ["fp32 on onnx: " + BUSY.format(3.4), "2 of 2 cells: " + tail.format("2.5 to 4.0")]


def test_model_and_device_are_named_if_there_are_several() -> None:
    found = warnings.once([cell("fp32"), cell("fp32", "hot", model="big", device="pi5")])
    assert found == ["big (torch), fp32 on onnx, pi5: hot"]


def test_numbers_inside_names_are_not_merged() -> None:
    found = warnings.once([cell("fp32", "failed at conv1"), cell("int8", "failed at conv2")])
    assert found == ["fp32 on onnx: failed at conv1", "int8 on onnx: failed at conv2"]


def test_no_warnings_give_no_lines() -> None:
    assert warnings.once([cell("fp32")]) == []
