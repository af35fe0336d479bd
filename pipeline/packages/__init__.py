"""Packages: each module in this folder writes a bundle's files for one kind of receiver: Android, iOS, Python,
inference servers.

`inv ship` writes models/ and golden/ of a bundle first, and then calls every package. The root of the bundle is then

    models/<recipe>/<target>/<artifact.file>     with metadata; artifact.json beside it
    golden/inputs.npy                            raw inputs of the evaluation split, (N, height, width, channels)
    golden/images/<i>.png                        the same as images, in the size of the model's input
    golden/float.npy                             the float model's outputs, float32
    golden/<recipe>/<target>/<device>.npy        outputs of the file, float32; "host" is the machine that shipped it
    golden/golden.json                           `Golden`: labels, top-1 and tolerances
    measured/<recipe>/<target>/<device>.json     `Measurement`: raw samples
    measured/<recipe>/<target>/<device>.npy      top-1 of every evaluation sample, int32

A package's templates lie in a folder beside its module whose name begins with an underscore.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline import registry
from pipeline.core import Artifact, Cell, Measurement, ModelSpec
from pipeline.system import store
from pipeline.system.store import Store

HERE = Path(__file__).parent
HOST = "host"
"""The name of this machine in golden/."""


@dataclass(frozen=True)
class ShippedCell:
    """One model file of a bundle.

    Attributes:
        measurements: one for each device that ran it; empty if none could.
        results: the row of the results for each measurement; one without a device if there is no measurement.
        golden: places that the golden outputs of this file come from: HOST, and names of devices.
        tolerance: the largest |difference| from the golden outputs that an app should accept: twice the largest that
            was seen between runtimes, hosts and devices.
    """

    recipe: str
    target: str
    artifact: Artifact
    measurements: tuple[Measurement, ...]
    results: tuple[Cell, ...]
    golden: tuple[str, ...]
    tolerance: float

    @property
    def folder(self) -> str:
        """The file's folder, relative to the bundle's."""
        return f"models/{self.recipe}/{self.target}"

    @property
    def file(self) -> str:
        """The model file's path, relative to the bundle's folder."""
        return f"{self.folder}/{self.artifact.file}"


@dataclass(frozen=True)
class Contents:
    """What a package is written from.

    Attributes:
        root: the bundle's folder.
        model, version: for example "digits_cnn" and "1.2.0".
        licence: an SPDX expression; "NOASSERTION" if the licence was not stated.
        accuracy: the float model's, on the evaluation split.
        samples: size of that split.
        recipes: the recommended recipe of each target; see `recommended`.
    """

    root: Path
    model: str
    version: str
    spec: ModelSpec
    framework: str
    weights_sha256: str
    licence: str
    cells: tuple[ShippedCell, ...]
    accuracy: float
    samples: int
    recipes: Mapping[str, str]

    @property
    def build(self) -> Store:
        """The build folder that the bundle is in, for what a package keeps between runs."""
        return Store(self.root.parents[1])

    def recommended(self, target: str) -> ShippedCell | None:
        """A target's fastest file whose accuracy drop is shown to be below the margin on every device; fp32 if there is
        none. None if the bundle has no file of the target."""
        return next((c for c in self.cells if c.target == target and c.recipe == self.recipes[target]), None)


class Package(Protocol):
    """The interface of a module in this folder.

    A package whose files are made from more than Python code and templates also has a function `sources() -> str`, a
    hash of the rest.

    Attributes:
        FOLDER: the folder in the bundle that the package writes: "android", "ios", "python", "serving".
    """

    FOLDER: str

    def supports(self, contents: Contents) -> str | None:
        """Why the package cannot be made from these contents; None if it can."""

    def write(self, contents: Contents, folder: Path) -> None:
        """Writes the package's files into `folder`, which exists and is empty. The same contents give the same bytes.

        Raises:
            StageFailed: a tool failed.
        """


def source_hash(name: str) -> str:
    """Hash of a package's source, of its `sources()`, and of the templates of all packages in this folder."""
    more = getattr(registry.load("packages", name), "sources", None)
    templates = [
        (str(path.relative_to(HERE)), store.sha256(path))
        for folder in sorted(HERE.glob("_*"))
        if folder.is_dir() and folder.name != "__pycache__"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return store.digest([registry.source_hash("packages", name), templates, more() if more else None])
