"""The C++ runner, built for real: the outputs of ExecuTorch's Python bindings, bit for bit, without torch.

The contract that it shares with every runtime is in test_runtimes.py.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.devices import _runner as build_runner
from pipeline.errors import StageFailed
from pipeline.system.store import Store

from .calls import Call, environment

LAYOUT = ("--inputs", "samples.npy", "--layout", "NCHW")
SHORT = ("--min-runs", "3", "--min-seconds", "0", "--warmup-seconds", "0")


@pytest.mark.parametrize("program", ["net.pte", "overwrites.pte", "quantizes.pte"])
def test_its_outputs_are_the_python_bindings_bit_for_bit(edge_bench: Call, runner: Path, program: str) -> None:
    call = ("predict", program, *LAYOUT, "--out")
    bindings = edge_bench(*call, "b.npz").json
    ours = edge_bench(*call, "r.npz", "--runtime", "executorch_runner", path=runner).json

    assert ours["predictions_sha256"] == bindings["predictions_sha256"]
    assert ours["outputs"] == bindings["outputs"]
    assert ours["runtime"] == {**bindings["runtime"], "name": "executorch_runner"}


def test_it_refills_an_input_that_a_run_overwrites_as_the_bindings_do(edge_bench: Call, runner: Path) -> None:
    refills = {}
    for program in ("overwrites.pte", "net.pte", "quantizes.pte"):
        ours = edge_bench("run", program, "--runtime", "executorch_runner", *SHORT, path=runner).json["refills_input"]
        assert ours == edge_bench("run", program, *SHORT).json["refills_input"], program
        refills[program] = ours
    assert refills["overwrites.pte"] is True


def test_it_needs_no_torch_and_a_fraction_of_the_memory(edge_bench: Call, runner: Path, models: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from edge_bench import runtimes, samples\n"
        "session = runtimes.imported('executorch_runner').load(Path(sys.argv[1]), 1)\n"
        "session.set([samples.pseudo_random(info) for info in session.inputs]); session.invoke()\n"
        "print(len(session.get()), [m for m in ('torch', 'executorch', 'pipeline') if m in sys.modules])"
    )
    command = [sys.executable, "-c", script, str(models / "net.pte")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(runner))
    assert done.stdout == "2 []\n"
    bindings = edge_bench("run", "net.pte", *SHORT).json["peak_rss_bytes"]
    ours = edge_bench("run", "net.pte", *SHORT, "--runtime", "executorch_runner", path=runner).json["peak_rss_bytes"]
    assert ours < bindings / 4


def test_a_cut_program_is_refused_in_one_line(edge_bench: Call, runner: Path, models: Path, tmp_path: Path) -> None:
    whole = (models / "net.pte").read_bytes()
    for length in (0, 8, 100, len(whole) // 2, len(whole) - 100):
        (tmp_path / "cut.pte").write_bytes(whole[:length])
        complaint = edge_bench("run", "cut.pte", "--runtime", "executorch_runner", *SHORT, path=runner).complaint
        assert complaint.startswith("cut.pte: executorch_runner refuses to load it (ExecuTorch error 0x"), length


def test_without_the_runner_the_complaint_says_who_brings_it(edge_bench: Call) -> None:
    complaint = edge_bench("run", "net.pte", "--runtime", "executorch_runner").complaint
    assert complaint == (
        "executorch_runner: executorch-runner is not installed; "
        "Lastmile builds it: inv devices.setup brings it to a board, and inv bench to this machine"
    )


def test_samples_may_be_changed_after_they_were_set(runner: Path, models: Path) -> None:
    # The runtime may read an input where it lies: two sets and one run must see the second.
    script = (
        "import sys, numpy as np; from pathlib import Path; from edge_bench import runtimes\n"
        "session = runtimes.imported('executorch_runner').load(Path(sys.argv[1]), 1)\n"
        "def out(value):\n"
        "    session.set([np.full((1, 3, 8, 8), value, np.float32)]); session.invoke(); return session.get()[0]\n"
        "one, two, again = out(10), out(200), out(10)\n"
        "print(np.array_equal(one, again), np.array_equal(one, two))"
    )
    command = [sys.executable, "-c", script, str(models / "net.pte")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(runner))
    assert done.stdout == "True False\n"


def test_a_second_build_is_the_first(runner: Path) -> None:
    assert build_runner.build(Store(runner.parent.parent), platform.machine()) == runner


def test_an_architecture_without_a_runner_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"no ExecuTorch runner for armv7l \(there is one for aarch64, x86_64\)"):
        build_runner.build(Store(tmp_path), "armv7l")


def test_the_cross_built_runner_is_aarch64_and_wants_no_newer_glibc_than_its_libraries() -> None:
    folder = build_runner.build(Store(Path(__file__).parents[2] / "build"), "aarch64") / build_runner.PACKAGE

    def glibc(path: Path) -> tuple[int, ...]:
        words = path.read_bytes().split(b"GLIBC_")[1:]
        versions = [word.split(b"\0")[0].decode() for word in words]
        return max(tuple(map(int, version.split("."))) for version in versions if version.replace(".", "").isdigit())

    header = (folder / "librunner.so").read_bytes()[:20]
    assert header[:5] == b"\x7fELF\x02"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64
    assert glibc(folder / "librunner.so") <= (2, 28)
    assert np.all([glibc(path) <= (2, 28) for path in folder.glob("libexecutorch*.so")])
