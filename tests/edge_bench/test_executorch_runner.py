"""The C++ runner, really built: the same outputs as ExecuTorch's Python bindings, bit for bit, without torch.

test_runtimes.py tests the contract of all runtimes on it too.
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
def test_its_outputs_equal_those_of_the_python_bindings_bit_for_bit(
    edge_bench: Call, runner: Path, program: str
) -> None:
    call = ("predict", program, *LAYOUT, "--out")
    bindings = edge_bench(*call, "b.npz").json
    ours = edge_bench(*call, "r.npz", "--runtime", "executorch_runner", path=runner).json

    assert ours["predictions_sha256"] == bindings["predictions_sha256"]
    assert ours["outputs"] == bindings["outputs"]
    assert ours["runtime"] == {**bindings["runtime"], "name": "executorch_runner"}


def test_it_detects_overwritten_inputs_as_the_bindings_do(edge_bench: Call, runner: Path) -> None:
    refills = {}
    for program in ("overwrites.pte", "net.pte", "quantizes.pte"):
        ours = edge_bench("run", program, "--runtime", "executorch_runner", *SHORT, path=runner).json["refills_input"]
        assert ours == edge_bench("run", program, *SHORT).json["refills_input"], program
        refills[program] = ours
    assert refills["overwrites.pte"] is True


def test_it_loads_no_torch_and_uses_a_fraction_of_the_memory(edge_bench: Call, runner: Path, models: Path) -> None:
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


def test_a_truncated_program_is_an_error_of_one_line(
    edge_bench: Call, runner: Path, models: Path, tmp_path: Path
) -> None:
    whole = (models / "net.pte").read_bytes()
    for length in (0, 8, 100, len(whole) // 2, len(whole) - 100):
        (tmp_path / "cut.pte").write_bytes(whole[:length])
        error = edge_bench("run", "cut.pte", "--runtime", "executorch_runner", *SHORT, path=runner).error
        assert error.startswith("cut.pte: executorch_runner refuses to load it (ExecuTorch error 0x"), length


def test_without_the_runner_the_error_names_the_commands_that_install_it(edge_bench: Call) -> None:
    error = edge_bench("run", "net.pte", "--runtime", "executorch_runner").error
    assert error.startswith("executorch_runner: ")
    assert "inv devices.setup" in error and "inv bench" in error


def test_a_later_input_replaces_an_earlier_one(runner: Path, models: Path) -> None:
    # The runtime may read an input from the caller's memory.
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


def test_a_second_build_reuses_the_first(runner: Path) -> None:
    assert build_runner.build(Store(runner.parent.parent), platform.machine()) == runner


def test_an_unknown_architecture_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"armv7l .*aarch64, x86_64"):
        build_runner.build(Store(tmp_path), "armv7l")


def test_the_cross_compiled_runner_is_for_aarch64_and_requires_no_newer_glibc_than_its_libraries() -> None:
    folder = build_runner.build(Store(Path(__file__).parents[2] / "build"), "aarch64") / build_runner.PACKAGE

    def glibc(path: Path) -> tuple[int, ...]:
        symbols = path.read_bytes().split(b"GLIBC_")[1:]
        versions = [symbol.split(b"\0")[0].decode() for symbol in symbols]
        return max(tuple(map(int, version.split("."))) for version in versions if version.replace(".", "").isdigit())

    header = (folder / "librunner.so").read_bytes()[:20]
    assert header[:5] == b"\x7fELF\x02"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64
    assert glibc(folder / "librunner.so") <= (2, 28)
    assert np.all([glibc(path) <= (2, 28) for path in folder.glob("libexecutorch*.so")])
