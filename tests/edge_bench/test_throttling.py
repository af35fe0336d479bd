"""Throttling that starts and ends while a model is measured."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from edge_bench import cpus, facts, measure, throttling

from .calls import Call

SHORT = ("--min-runs", "1", "--warmup-seconds", "0")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the files of a machine that reports no throttling."""
    for module, name in [
        *((facts, name) for name in ("THERMAL_FOLDER", "PLATFORM")),
        *((throttling, name) for name in ("HWMON", "CPU_FOLDER")),
        *((cpus, name) for name in ("CGROUP", "CGROUP_FOLDER")),
    ]:
        monkeypatch.setattr(module, name, tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    monkeypatch.setattr(throttling, "EVERY_SECONDS", 0)
    return tmp_path


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_a_machine_that_reports_nothing_has_no_result_and_is_not_disturbed(system: Path) -> None:
    watch = throttling.Watch()
    assert watch.look_if_due() is False
    assert watch.result() is None


@pytest.mark.parametrize(
    ("quiet", "slowed", "reasons"),
    [
        ("0", "1", ["undervoltage"]),
        ("0", "2", ["frequency_capped"]),
        ("50000", "50005", ["throttled", "undervoltage"]),
        ("f0000", "f0008", ["soft_temperature_limit"]),
    ],
)
def test_bits_of_a_raspberry_pi_that_are_set_only_during_the_run_are_seen(
    system: Path, quiet: str, slowed: str, reasons: list[str]
) -> None:
    attribute = system / "PLATFORM/soc/soc:firmware/get_throttled"
    write(attribute, quiet)
    watch = throttling.Watch()
    states = itertools.chain([quiet, slowed], itertools.repeat(quiet))
    measure.measure(
        lambda: write(attribute, next(states)), 1, measure.Effort(min_runs=4, min_seconds=0), watch.look_if_due
    )
    assert facts.throttled() == hex(int(quiet, 16))
    assert watch.result() == reasons


def test_bits_since_boot_that_are_new_are_seen_without_a_sample(system: Path) -> None:
    attribute = system / "PLATFORM/soc/soc:firmware/get_throttled"
    write(attribute, "50000")
    watch = throttling.Watch()
    write(attribute, "70000")
    assert watch.result() == ["frequency_capped"]


def test_the_alarm_of_the_voltage_sensor_is_undervoltage(system: Path) -> None:
    write(system / "HWMON/hwmon0/name", "cpu_thermal")
    write(system / "HWMON/hwmon1/name", "rpi_volt")
    write(system / "HWMON/hwmon1/in0_lcrit_alarm", 0)
    watch = throttling.Watch()
    write(system / "HWMON/hwmon1/in0_lcrit_alarm", 1)
    watch.look_if_due()
    write(system / "HWMON/hwmon1/in0_lcrit_alarm", 0)
    assert watch.result() == ["undervoltage"]


@pytest.mark.parametrize(
    ("kind", "reasons"), [("thermal-cpufreq-0", ["cooling_device"]), ("cpufreq-cpu4", ["cooling_device"])]
)
def test_a_cooling_device_that_slows_the_cpus_is_seen(system: Path, kind: str, reasons: list[str]) -> None:
    write(system / "THERMAL_FOLDER/cooling_device0/type", kind)
    write(system / "THERMAL_FOLDER/cooling_device0/cur_state", 0)
    watch = throttling.Watch()
    assert watch.result() == []
    write(system / "THERMAL_FOLDER/cooling_device0/cur_state", 2)
    watch.look_if_due()
    write(system / "THERMAL_FOLDER/cooling_device0/cur_state", 0)
    assert watch.result() == reasons


def test_a_fan_is_no_throttling(system: Path) -> None:
    write(system / "THERMAL_FOLDER/cooling_device0/type", "pwm-fan")
    write(system / "THERMAL_FOLDER/cooling_device0/cur_state", 4)
    assert throttling.Watch().result() is None


def test_without_a_cooling_device_a_passive_trip_point_counts(system: Path) -> None:
    zone = system / "THERMAL_FOLDER/thermal_zone0"
    for name, text in {
        "trip_point_0_type": "passive",
        "trip_point_0_temp": 80_000,
        "trip_point_1_type": "critical",
        "trip_point_1_temp": 40_000,
        "temp": 60_000,
    }.items():
        write(zone / name, text)
    watch = throttling.Watch()
    assert watch.result() == []
    write(zone / "temp", 81_000)
    watch.look_if_due()
    write(zone / "temp", 60_000)
    assert watch.result() == ["trip_point"]


def test_counters_of_the_kernel_show_what_happened_between_two_readings(system: Path) -> None:
    heat = system / "CPU_FOLDER/cpu0/thermal_throttle/core_throttle_count"
    write(heat, 7)
    write(system / "CGROUP", "0::/a")
    write(system / "CGROUP_FOLDER/a/cpu.max", "150000 100000")
    write(system / "CGROUP_FOLDER/a/cpu.stat", "usage_usec 9\nnr_periods 5\nnr_throttled 2")
    watch = throttling.Watch()
    assert watch.result() == []
    write(heat, 8)
    write(system / "CGROUP_FOLDER/a/cpu.stat", "usage_usec 9\nnr_periods 6\nnr_throttled 3")
    assert watch.result() == ["cpu_limit", "thermal_throttling"]


def test_the_state_is_read_between_entries_and_short_runs_are_warmed_up_again_after_it() -> None:
    events: list[str] = []

    def look() -> bool:
        events.append("look")
        return True

    entries = measure.measure(lambda: events.append("run"), 2, measure.Effort(min_runs=2, min_seconds=0), look)
    assert events == ["run", "run", "look", "run", "run"] * 2
    assert [loops for loops, _ in entries] == [2, 2]
    events.clear()
    measure.measure(lambda: events.append("run"), 1, measure.Effort(min_runs=2, min_seconds=0), look)
    assert events == ["run", "look"] * 2, "a run of 1 ms or more needs no warm-up"


def test_a_process_samples_vcgencmd_during_its_run(
    edge_bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is undervoltage only at the sixth call, which is a sample between entries."""
    program = tmp_path / "bin/vcgencmd"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho >>"{tmp_path}/calls"\n'
        f'[ $(wc -l <"{tmp_path}/calls") = 6 ] && echo throttled=0x50001 || echo throttled=0x50000\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    done = edge_bench("run", "net.tflite", *SHORT, "--min-seconds", "1.5").json
    assert (done["throttled_before"], done["throttled"]) == ("0x50000", "0x50000")
    assert "undervoltage" in done["throttling"]
