"""Frameworks: train a model, run it on this machine, capture it as a graph, quantize that graph.

A framework is a module in this folder with the functions of `Framework`. They take and return NumPy arrays and files,
so that stages do not depend on a framework's types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.core import BiasCorrection, Operation, Recipe, Sensitivity
from pipeline.datasets import Split
from pipeline.sources import Model
from pipeline.targets import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Outputs = tuple[NDArray[np.float32], ...]
    """A model's outputs in the order of its spec, each (N, …)."""


@dataclass(frozen=True)
class Group:
    """The processes of a distributed training. All machines of a group have the same number of devices.

    Attributes:
        devices: devices per machine: GPUs, or equal shares of the CPU's cores.
        nodes, node_rank: the number of machines, and the rank of this one.
        address: "host" or "host:port" of machine 0; empty for a single machine, or under another launcher.
        command: argv of a training process, for a framework that starts one per device or machine; empty in the
            training process itself.
        rank: the rank of this process, if another launcher has started the processes.
    """

    devices: int = 1
    nodes: int = 1
    node_rank: int = 0
    address: str = ""
    command: tuple[str, ...] = ()
    rank: int | None = None

    @property
    def size(self) -> int:
        """The total number of devices."""
        return self.devices * self.nodes

    @property
    def follows(self) -> bool:
        """Whether another process writes the results of this training."""
        return (self.node_rank if self.rank is None else self.rank) > 0


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        batch_size: samples per step, over all devices.
        accelerator: "auto" (a GPU if there is one), "cpu" or "cuda".
        lr: peak learning rate.
        seed: for initial weights, sample order and augmentation. On the CPU of one machine, the same seed gives the
            same weights, whether training was interrupted or not. GPUs add in varying order, so rounding differs.
        resume: resume an interrupted training with the same settings.
        group: the processes that train. They affect the speed, not the result, so they are in no cache key.
    """

    epochs: int
    batch_size: int
    lr: float
    seed: int
    accelerator: str = "auto"
    resume: bool = True
    group: Group = Group()


@dataclass(frozen=True)
class QuantizedTraining:
    """A training with simulated quantization.

    Attributes:
        recipe: a static recipe.
        captured: the folder of the float graph.
        images: the calibration set.
        folder: where the quantized graph is written.
        home, key: as for `Framework.train`.
    """

    recipe: Recipe
    captured: Path
    images: NDArray[Any]
    folder: Path
    home: Path
    key: str


class Framework(Protocol):
    """The interface of a module in this folder.

    Attributes:
        WEIGHTS: name of the weights file in a checkpoint.
        TOOLS: distributions whose versions affect the result.
        EXTRA: the extra in pyproject.toml that installs them.
        PACKAGES: packages that training, prediction and exchanging weights import → the extra that installs each.
        GRAPHS: as PACKAGES, for capturing and quantizing graphs.
        FORMS: what `source` provides: "program", a torch.export program; "saved_model", a TensorFlow SavedModel.
        SUMMARY: one line for listings.
    """

    WEIGHTS: str
    TOOLS: tuple[str, ...]
    EXTRA: str
    PACKAGES: Mapping[str, str]
    GRAPHS: Mapping[str, str]
    FORMS: tuple[str, ...]
    SUMMARY: str

    def joined(self, devices: int) -> Group | None:
        """The group of this process, from the environment variables of another launcher; None without such a launcher.

        Args:
            devices: the option --devices, 1 by default.

        Raises:
            BadOption: the variables are invalid.
        """

    def train(
        self, model: Model, data: Mapping[str, Split], settings: Settings, home: Path, key: str
    ) -> dict[str, Any]:
        """Trains and writes the best epoch's weights to `home`/training/<WEIGHTS>.

        In a group, every training process calls this, and so does the process that starts them on each machine. Only
        the first machine writes to `home`.

        Args:
            data: splits "train" and "validation".
            home: the model's folder in build/, also for TensorBoard and the state from which training resumes.
            key: the training's cache key; a state with another key is not resumed.

        Returns:
            Facts about the training; empty on all machines but the first.
        """

    def adopt(self, model: Model, weights: Path, out: Path) -> None:
        """Checks a user's weights against the model and writes them to the file `out`.

        Raises:
            BadWeights: they do not fit, or the file contains more than weights.
        """

    def predict(self, model: Model, weights: Path, split: Split, accelerator: str = "auto") -> Outputs:
        """The float outputs for a whole split."""

    def features(self, model: Model, weights: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The inputs of the last layer with weights, float32 (N, D), for images (N, height, width, channels)."""

    def graph(self, model: Model, weights: Path) -> bytes:
        """The network as a serialized GraphDef, for TensorBoard.

        Raises:
            BadModel: the framework cannot trace the model's code.
        """

    def unpack(self, model: Model, weights: Path) -> dict[str, NDArray[np.float32]]:
        """A checkpoint's tensors in the exchange format: by "<layer>.<tensor>".

        Tensors have PyTorch's names and axes; dots in a layer's name are replaced by _ ("features_0_1.running_mean").
        """

    def pack(self, model: Model, tensors: Mapping[str, NDArray[np.float32]], out: Path) -> None:
        """Writes tensors in the exchange format as a weights file of this framework.

        Raises:
            BadModel: the model has other layers or shapes in this framework.
        """

    def capture(self, model: Model, weights: Path, folder: Path) -> None:
        """Captures the float graph and writes it to `folder`."""

    def quantize(
        self,
        captured: Path,
        value_range: tuple[float, float] | None,
        images: NDArray[Any],
        folder: Path,
        recipe: Recipe,
    ) -> BiasCorrection | None:
        """Calibrates the float graph in `captured` on `images` and writes a static recipe's graph to `folder`.

        Args:
            value_range: of the raw pixels of an image; None for an input of another kind, whose normalised values get
                their range from the calibration set.

        Returns:
            What bias correction did; None if the recipe switches it off or there are too few images.
        """

    def sensitivity(
        self, captured: Path, value_range: tuple[float, float] | None, images: NDArray[Any], recipe: Recipe
    ) -> Sensitivity:
        """How much noise each group of layers of the float graph in `captured` adds under a static recipe.

        Args:
            images: the calibration set; the noise is measured on the first of them.
        """

    def train_quantized(
        self, model: Model, data: Mapping[str, Split], settings: Settings, task: QuantizedTraining
    ) -> dict[str, Any]:
        """Calibrates the float graph as `quantize` does, trains it on with simulated quantization until it returns the
        float graph's outputs, and writes the quantized graph to `task.folder`.

        Args:
            data: as for `train`.

        Returns:
            Facts: epoch (the last one), best_epoch (0 is the calibrated graph), every epoch's loss, snr_db of the
            validation outputs before training and after every epoch, seconds, device, and in `stopped` the reason
            why training stopped early, or None.
        """

    def operations(self, captured: Path) -> tuple[Operation, ...]:
        """The operators of the float graph in `captured`, in order, with the names that layers have in the source."""

    def evaluate(self, folder: Path, images: NDArray[Any]) -> Outputs:
        """Outputs of the float or quantized graph in `folder` for samples of a split; see `Split.inputs`."""

    def steps(self, folder: Path) -> tuple[float | None, ...]:
        """The quantization step of each output of the graph in `folder`; None for an output that is float."""

    def source(self, model: Model, weights: Path, captured: Path, quantized: Path | None) -> Source:
        """The input of a target: the graphs in these folders, and the model they were captured from."""
