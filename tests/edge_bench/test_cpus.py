"""CPUs: what the process may use, what its cgroup allows, pinning, and clusters of different CPUs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from edge_bench import cpus, facts
from edge_bench.errors import BadCpus

from .calls import Call

QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("text", "numbers"), [("0", [0]), ("0-3,6", [0, 1, 2, 3, 6]), ("2,1", [1, 2]), ("7,0-1,0", [0, 1, 7])]
)
def test_a_list_of_cpus_is_read_and_written_as_the_kernel_does(text: str, numbers: list[int]) -> None:
    assert cpus.parse(text) == numbers
    assert cpus.parse(cpus.text(numbers)) == numbers


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "0,,1", "0-99999", "1.5"])
def test_a_text_that_is_no_list_of_cpus_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        cpus.parse(text)


def test_the_cores_are_those_that_the_process_may_use() -> None:
    script = "from edge_bench import cpus, facts; print(cpus.count(), facts.device()['cores'], facts.device()['cpus'])"
    one = min(os.sched_getaffinity(0))
    command = ["taskset", "-c", str(one), sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"1 1 {one}\n"


def cgroup(folder: Path, line: str, files: dict[str, str]) -> None:
    """A cgroup file system in `folder`, with this line in /proc/self/cgroup."""
    (folder / "cgroup").write_text(line + "\n")
    for name, content in files.items():
        path = folder / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")


@pytest.mark.parametrize(
    ("line", "files", "count"),
    [
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "250000 100000"}, 2),
        ("0::/a/b", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "400000 100000"}, 1),
        ("0::/host/path", {"cpu.max": "300000 100000"}, 3),  # in a container
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {}, 8),
        ("4:cpu,cpuacct:/a", {f"cpu,cpuacct/a/{QUOTA}": "200000", f"cpu,cpuacct/a/{PERIOD}": "50000"}, 4),
        ("4:cpu,cpuacct:/a", {f"cpu/{QUOTA}": "200000", f"cpu/{PERIOD}": "100000"}, 2),
        ("1:cpu:/", {f"cpu/{QUOTA}": "-1", f"cpu/{PERIOD}": "100000"}, 8),
    ],
)
def test_a_limit_of_cpu_time_limits_the_cores(
    line: str, files: dict[str, str], count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup(tmp_path, line, files)
    monkeypatch.setattr(cpus, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(cpus, "CGROUP_FOLDER", tmp_path / "fs")
    monkeypatch.setattr(cpus, "allowed", lambda: set(range(8)))
    assert cpus.count() == count


def test_isolated_cpus_are_no_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask may contain isolated CPUs, but the kernel does not spread threads over them."""
    (tmp_path / "isolated").write_text("2-3\n")
    monkeypatch.setattr(cpus, "ISOLATED", tmp_path / "isolated")
    monkeypatch.setattr(cpus, "limit", lambda: None)
    monkeypatch.setattr(cpus, "allowed", lambda: {0, 1, 2, 3})
    assert (cpus.count(), facts.device()["cores"], facts.device()["isolated"]) == (2, 2, "2-3")
    monkeypatch.setattr(cpus, "allowed", lambda: {2, 3})
    assert cpus.count() == 1
    cpus.require_spread([2], 1)
    cpus.require_spread([0, 1], 2)
    with pytest.raises(BadCpus, match="isolated"):
        cpus.require_spread([1, 2], 2)
    (tmp_path / "isolated").write_text("\n")
    assert (cpus.isolated(), facts.device()["isolated"]) == (set(), None)


def test_a_limit_of_cpu_time_is_a_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup(tmp_path, "0::/a", {"a/cpu.max": "150000 100000", "a/cpu.stat": "nr_periods 9\nnr_throttled 4"})
    monkeypatch.setattr(cpus, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(cpus, "CGROUP_FOLDER", tmp_path / "fs")
    assert facts.device()["cpu_limit"] == 1.5
    assert cpus.times_stopped() == [4]


def test_a_measuring_process_runs_on_the_cpus_that_it_is_pinned_to(edge_bench: Call) -> None:
    last = max(os.sched_getaffinity(0))
    short = ("--min-runs", "1", "--min-seconds", "0", "--warmup-seconds", "0")
    done = edge_bench("run", "net.tflite", "--cpus", last, *short).json
    assert done["runtime"]["cpus"] == str(last)
    assert cpus.parse(done["device"]["cpus"]) == sorted(os.sched_getaffinity(0)), "those of the machine"


def test_pinning_applies_to_this_process_and_its_threads() -> None:
    script = (
        "import os, threading; from edge_bench import cpus\n"
        "last = max(cpus.allowed()); cpus.pin([last]); found = []\n"
        "thread = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))\n"
        "thread.start(); thread.join()\n"
        "print(os.sched_getaffinity(0) == found[0] == {last})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_names_governors_and_frequencies_are_those_of_every_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board with two kinds of cores; the second has no driver for its clock."""
    parts = ["0xd05"] * 4 + ["0xd0b"] * 2
    info = "\n\n".join(f"processor\t: {cpu}\nCPU part\t: {part}" for cpu, part in enumerate(parts))
    (tmp_path / "cpuinfo").write_text(info + "\n\nHardware\t: a board\n")
    for policy, files in {
        "policy0": {"related_cpus": "0 1 2 3", "scaling_governor": "schedutil", "cpuinfo_max_freq": "1800000"},
        "policy4": {"related_cpus": "4 5", "scaling_governor": "performance", "cpuinfo_max_freq": "2400000"},
    }.items():
        (tmp_path / policy).mkdir()
        for name, content in {**files, "scaling_cur_freq": files["cpuinfo_max_freq"]}.items():
            (tmp_path / policy / name).write_text(content + "\n")
    monkeypatch.setattr(facts, "POLICIES", tmp_path)
    monkeypatch.setattr(facts, "CAPACITIES", tmp_path)
    monkeypatch.setattr(facts, "CPU_INFO", tmp_path / "cpuinfo")
    found = facts.device()
    assert found["cpu"] == "Cortex-A55 + Cortex-A76"
    assert (found["governor"], found["frequency_max_hz"]) == ("schedutil / performance", 2_400_000_000)
    assert found["clusters"] == [
        {"cpus": "0-3", "cpu": "Cortex-A55", "governor": "schedutil", "frequency_max_hz": 1_800_000_000},
        {"cpus": "4-5", "cpu": "Cortex-A76", "governor": "performance", "frequency_max_hz": 2_400_000_000},
    ]
    assert facts.state()["frequency_hz"] == [1_800_000_000, 2_400_000_000]


def test_cores_without_a_clock_are_told_apart_by_their_names_and_capacities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board whose kernel has no cpufreq, and cores of two implementers."""
    cores = [("0x41", "0xd05")] * 2 + [("0x51", "0x804")] * 2 + [("0x41", "0xd05")]
    blocks = [f"processor: {n}\nCPU implementer: {who}\nCPU part: {part}" for n, (who, part) in enumerate(cores)]
    (tmp_path / "cpuinfo").write_text("\n\n".join(blocks))
    for cpu, capacity in enumerate([400, 400, 1024, 1024, 600]):
        (tmp_path / f"cpu{cpu}").mkdir()
        (tmp_path / f"cpu{cpu}/cpu_capacity").write_text(f"{capacity}\n")
    for name, path in {"POLICIES": "none", "CPU_INFO": "cpuinfo", "CAPACITIES": "."}.items():
        monkeypatch.setattr(facts, name, tmp_path / path)
    found = [(cluster["cpus"], cluster["cpu"]) for cluster in facts.device()["clusters"]]
    assert found == [("0-1", "Cortex-A55"), ("2-3", "Qualcomm part 0x804"), ("4", "Cortex-A55")]
