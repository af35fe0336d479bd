"""Frameworks: train a model, run it on this machine, capture it as a graph, quantize that graph.

A framework is a module here with the verbs of `Framework`; what they take and give is numpy and files, so that no
stage knows a framework's types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.datasets import Split
from pipeline.sources import Model
from pipeline.targets import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Group:
    """The processes that train together; the machines of a group are alike.

    Attributes:
        devices: how many of each machine's take part: GPUs, or shares of the CPU's cores.
        nodes, node_rank: how many machines, and which of them this is.
        address: "host" or "host:port" of machine 0, where they meet; empty with one machine, or another launcher.
        command: argv of a process that takes part, for a framework that needs one a device or a machine; empty in such
            a process itself.
        rank: this process's, where another launcher has started it and every other one that takes part.
    """

    devices: int = 1
    nodes: int = 1
    node_rank: int = 0
    address: str = ""
    command: tuple[str, ...] = ()
    rank: int | None = None

    @property
    def size(self) -> int:
        """Devices in all."""
        return self.devices * self.nodes

    @property
    def follows(self) -> bool:
        """Whether another process finishes what this one takes part in."""
        return (self.node_rank if self.rank is None else self.rank) > 0


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        batch_size: samples a step, those of all devices together.
        accelerator: "auto" (a GPU where there is one), "cpu" or "cuda".
        lr: peak learning rate.
        seed: of initial weights, order of samples and augmentation: on the same machine's CPU the same seed gives the
            same weights, interrupted or not; a GPU adds up in any order, and rounds otherwise each time.
        resume: go on from where an interrupted training with the same settings ended.
        group: who trains. It decides how fast, not what comes out, so it is in no key.
    """

    epochs: int
    batch_size: int
    lr: float
    seed: int
    accelerator: str = "auto"
    resume: bool = True
    group: Group = Group()


class Framework(Protocol):
    """The verbs of a module in this folder.

    Attributes:
        WEIGHTS: name of the weights file in a checkpoint.
        TOOLS: distributions whose versions decide what comes out.
        EXTRA: the extra of pyproject.toml that brings them.
        PACKAGES: what training, predicting and exchanging weights import, and the extras that bring it.
        GRAPHS: the same of what makes its graphs.
        FORMS: what `source` gives: "program", a torch.export program; "saved_model", a TensorFlow SavedModel.
        SUMMARY: one line for people.
    """

    WEIGHTS: str
    TOOLS: tuple[str, ...]
    EXTRA: str
    PACKAGES: Mapping[str, str]
    GRAPHS: Mapping[str, str]
    FORMS: tuple[str, ...]
    SUMMARY: str

    def joined(self, devices: int) -> Group | None:
        """The group that another launcher has put this process into, and its environment variables tell; None where
        there is none.

        Args:
            devices: what the command says of each machine's; 1 where it says nothing.

        Raises:
            BadOption: they tell of none that can be.
        """

    def train(
        self, model: Model, data: Mapping[str, Split], settings: Settings, home: Path, key: str
    ) -> dict[str, Any]:
        """Trains and leaves the best epoch's weights as `home`/training/<WEIGHTS>.

        In a group this is called in every process, and on every machine by the process that starts them; the first
        machine's alone write to `home`.

        Args:
            data: splits "train" and "validation".
            home: the model's folder in build/; the state to resume from and TensorBoard scalars go there too.
            key: what is trained; a state of another key is not resumed.

        Returns:
            The training's facts; nothing on another machine than the first.
        """

    def adopt(self, model: Model, weights: Path, out: Path) -> None:
        """Checks a user's weights against the model and writes them as the file `out`.

        Raises:
            BadWeights: they do not fit, or the file is not only weights.
        """

    def predict(self, model: Model, weights: Path, split: Split, accelerator: str = "auto") -> NDArray[np.float32]:
        """Float outputs (N, classes) for a whole split."""

    def features(self, model: Model, weights: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the last layer with weights sees, float32 (N, D), for images (N, height, width, channels)."""

    def graph(self, model: Model, weights: Path) -> bytes:
        """The network as a serialized GraphDef, for people to look at in TensorBoard.

        Raises:
            BadModel: the framework cannot follow the model's code.
        """

    def unpack(self, model: Model, weights: Path) -> dict[str, NDArray[np.float32]]:
        """A checkpoint's tensors in the form in which frameworks exchange them: by "<layer>.<tensor>" with PyTorch's
        tensor names and axes, and the dots in a layer's name as _ ("features_0_1.running_mean")."""

    def pack(self, model: Model, tensors: Mapping[str, NDArray[np.float32]], out: Path) -> None:
        """Writes such tensors as a weights file of this framework.

        Raises:
            BadModel: the twins have other layers, or of other shapes.
        """

    def capture(self, model: Model, weights: Path, folder: Path) -> None:
        """Writes the float graph into `folder`."""

    def quantize(
        self, captured: Path, value_range: tuple[float, float], images: NDArray[np.uint8], folder: Path
    ) -> None:
        """Calibrates the float graph in `captured` on `images` and writes the static int8 graph into `folder`."""

    def evaluate(self, folder: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Outputs of the graph in `folder` (float or quantized) for images (N, height, width, channels)."""

    def step(self, folder: Path) -> float | None:
        """The output's quantization step in the graph in `folder`; None for a float graph."""

    def source(self, model: Model, weights: Path, captured: Path, quantized: Path | None) -> Source:
        """The graphs in these folders, for a target, and the model they were captured from."""
