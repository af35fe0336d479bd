"""An emulated board as tests use it: commands there as its user or as root, and edge-bench with the runner on it."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core import Device
from pipeline.devices import ssh
from pipeline.emulate import pi
from pipeline.system.store import Store

ROOT = Path(__file__).parent.parent


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
        there = pi.endpoint(self.build, self.name)
        assert isinstance(there, dict), there
        return there

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return int((self.build.root / "boards" / self.name / "pid").read_text())

    def ssh(self, user: str) -> list[str]:
        """The words before a command of that user's."""
        *words, last = pi.as_root(self.build, self.name)
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
        """What edge-bench with the runner says there, in a folder with net.pte and x.npy."""
        return self.run(f"cd edge-bench && PYTHONPATH={self._runtime} python3 -m edge_bench {words}")

    @cached_property
    def _runtime(self) -> str:
        """Where edge-bench is there, brought as `inv devices.setup` brings it; the files are beside it."""
        device = Device(f"{self.name}-emulated", "ssh", True, {"board": self.name})
        with ssh.exclusive(self.build, device):
            ssh.setup(self.build, device, "executorch_runner")
        assert self.files is not None
        words = ["tar", "-C", self.files, "-cf", "-", "net.pte", "x.npy"]
        archive = subprocess.run(words, capture_output=True, check=True)
        there = "mkdir -p edge-bench && tar -C edge-bench -xf - && sync && ls -d $PWD/.lastmile/runtimes/*"
        done = subprocess.run([*self.ssh("pi"), there], input=archive.stdout, check=True, capture_output=True)
        (found,) = (path for path in done.stdout.decode().split() if self.run(f"ls {path}/executorch_runner* || true"))
        return found

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
