"""The emulated board for tests: runs commands on it as its user or as root, and edge-bench with the runner."""

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
    """A running board.

    Attributes:
        build: the store that contains it.
        files: a folder with net.pte and x.npy, for edge-bench.
    """

    build: Store
    name: str
    files: Path | None = None

    @property
    def endpoint(self) -> dict[str, Any]:
        endpoint = pi.endpoint(self.build, self.name)
        assert isinstance(endpoint, dict), endpoint
        return endpoint

    @property
    def pid(self) -> int:
        """QEMU's PID."""
        return int((self.build.root / "boards" / self.name / "pid").read_text())

    def ssh(self, user: str) -> list[str]:
        """The ssh command line, up to the command, that runs a command as this user."""
        *argv, address = pi.as_root(self.build, self.name)
        return [*argv, address.replace("root@", f"{user}@")]

    def run(self, command: str, user: str = "pi") -> str:
        """The output of a shell command."""
        done = subprocess.run([*self.ssh(user), command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def root(self, command: str) -> str:
        """The output of a shell command that runs as root."""
        return self.run(command, "root")

    def edge_bench(self, args: str) -> str:
        """The output of edge-bench with the runner, in a folder with net.pte and x.npy."""
        return self.run(f"cd edge-bench && PYTHONPATH={self._runtime} python3 -m edge_bench {args}")

    @cached_property
    def _runtime(self) -> str:
        """edge-bench's path on the board. Sets it up as `inv devices.setup` does, and sends `files`."""
        device = Device(f"{self.name}-emulated", "ssh", True, {"board": self.name})
        with ssh.exclusive(self.build, device):
            ssh.setup(self.build, device, "executorch_runner")
        assert self.files is not None
        argv = ["tar", "-C", self.files, "-cf", "-", "net.pte", "x.npy"]
        archive = subprocess.run(argv, capture_output=True, check=True)
        unpack = "mkdir -p edge-bench && tar -C edge-bench -xf - && sync && ls -d $PWD/.lastmile/runtimes/*"
        done = subprocess.run([*self.ssh("pi"), unpack], input=archive.stdout, check=True, capture_output=True)
        (found,) = (path for path in done.stdout.decode().split() if self.run(f"ls {path}/executorch_runner* || true"))
        return found

    def local_predictions(self) -> list[np.ndarray]:
        """The outputs of ExecuTorch's Python bindings on this machine, for net.pte and x.npy."""
        assert self.files is not None
        out = self.files / "local.npz"
        args = ["predict", self.files / "net.pte", "--inputs", self.files / "x.npy", "--layout", "NCHW", "--out", out]
        subprocess.run([sys.executable, "-m", "edge_bench", *args], check=True, capture_output=True)
        return _outputs(out.read_bytes())

    def predictions(self, name: str) -> list[np.ndarray]:
        """The outputs in a file that edge-bench wrote on the board."""
        done = subprocess.run([*self.ssh("pi"), f"cat edge-bench/{name}"], check=True, capture_output=True)
        return _outputs(done.stdout)


def _outputs(archive: bytes) -> list[np.ndarray]:
    with np.load(io.BytesIO(archive)) as kept:
        return [kept[f"output_{index}"] for index in range(len(kept.files))]
