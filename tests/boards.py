"""An emulated board as tests use it: commands there as its user or as root, and edge-bench with a runtime on it."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import emulate, runner
from pipeline.store import Store

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "edge-bench" / "src" / "edge_bench"


@dataclass(frozen=True)
class Board:
    """A board that runs.

    Attributes:
        build: the store whose boards/ it lies in.
        files: a folder with net.pte and x.npy, which edge-bench is called with.
    """

    build: Store
    name: str
    files: Path | None = None

    @property
    def endpoint(self) -> dict[str, Any]:
        there = emulate.endpoint(self.build, self.name)
        assert isinstance(there, dict), there
        return there

    def ssh(self, user: str) -> list[str]:
        """The words before a command of that user's."""
        *words, last = emulate.as_root(self.build, self.name)
        return [*words, last.replace("root@", f"{user}@")]

    def run(self, command: str, user: str = "pi") -> str:
        """What a shell command says."""
        done = subprocess.run([*self.ssh(user), command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def root(self, command: str) -> str:
        """The same, as the board's root."""
        return self.run(command, "root")

    def edge_bench(self, words: str) -> str:
        """What edge-bench says there; it is brought there first, with numpy, the runner, net.pte and x.npy."""
        self._pushed  # noqa: B018
        return self.run(f"cd edge-bench && PYTHONPATH=. python3 -m edge_bench {words}")

    @cached_property
    def _pushed(self) -> None:
        folder = self.build.root / "for-tests"
        shutil.rmtree(folder, ignore_errors=True)
        words = ["--quiet", "--no-deps", "--target", folder, "--only-binary", ":all:", "--python-version", "3.11"]
        words += ["--python-platform", "aarch64-manylinux_2_28", "--compile-bytecode", "numpy"]
        subprocess.run([sys.executable, "-m", "uv", "pip", "install", *words], check=True)
        shutil.copytree(SOURCE, folder / "edge_bench", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(runner.build(self.build, "aarch64"), folder, dirs_exist_ok=True)
        assert self.files is not None
        for name in ("net.pte", "x.npy"):
            shutil.copy(self.files / name, folder)
        archive = subprocess.run(["tar", "-C", folder, "-cf", "-", "."], capture_output=True, check=True)
        there = "mkdir -p edge-bench && tar -C edge-bench -xf - && sync"
        subprocess.run([*self.ssh("pi"), there], input=archive.stdout, check=True)

    def predictions_here(self) -> list[np.ndarray]:
        """What ExecuTorch's own bindings give on this machine for net.pte and x.npy."""
        assert self.files is not None
        out = self.files / "here.npz"
        words = ["predict", self.files / "net.pte", "--inputs", self.files / "x.npy", "--layout", "NCHW", "--out", out]
        subprocess.run([sys.executable, "-m", "edge_bench", *words], check=True, capture_output=True)
        return _outputs(out.read_bytes())

    def predictions_there(self, name: str) -> list[np.ndarray]:
        """The same from a file that edge-bench wrote there."""
        done = subprocess.run([*self.ssh("pi"), f"cat edge-bench/{name}"], check=True, capture_output=True)
        return _outputs(done.stdout)


def _outputs(archive: bytes) -> list[np.ndarray]:
    with np.load(io.BytesIO(archive)) as kept:
        return [kept[f"output_{index}"] for index in range(len(kept.files))]
