"""edge-bench's C++ runner with ExecuTorch's libraries. `edge_bench.runtimes.executorch_runner` loads it."""

from pathlib import Path

LIBRARY = Path(__file__).with_name("librunner.so")
