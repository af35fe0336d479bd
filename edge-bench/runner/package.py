"""edge-bench's C++ runner with ExecuTorch's libraries: what `edge_bench.runtimes.executorch_runner` loads."""

from pathlib import Path

LIBRARY = Path(__file__).with_name("librunner.so")
