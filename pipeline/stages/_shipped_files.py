"""The model files of a bundle: the measured files with metadata, shown to give the same outputs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import registry
from pipeline.core import Artifact
from pipeline.errors import StageFailed
from pipeline.packages import HOST, _metadata
from pipeline.stages import _parity
from pipeline.system import store
from pipeline.targets import Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROCESSES = 2
"""Runtimes that are started side by side: most of the time they load libraries."""


@dataclass(frozen=True)
class ShippedFile:
    """A model file in models/ of a bundle.

    Attributes:
        measured: the file in the build folder.
        folder: of the file in the bundle.
        artifact: the manifest there, with the sha256 of the file there.
    """

    measured: Path
    folder: Path
    artifact: Artifact

    @property
    def paths(self) -> list[Path]:
        """The file, and what lies beside it in the same format."""
        return sorted(self.folder.glob(f"*{self.measured.suffix}"))


def write(measured: Path, artifact: Artifact, version: str, licence: str, folder: Path) -> ShippedFile:
    """Writes a model file with metadata, and its manifest; see `_metadata.write`."""
    folder.mkdir(parents=True)
    shipped = _metadata.write(measured, artifact, version, licence, folder)
    store.write(folder / "artifact.json", shipped)
    return ShippedFile(measured, folder, shipped)


def prove(files: Sequence[ShippedFile], golden: Path) -> None:
    """Runs each file that has metadata on the golden inputs: its outputs must be the measured file's, bit for bit.

    Files that no runtime on this machine runs are not run.

    Raises:
        StageFailed: a file cannot be run, or an output differs.
    """
    changed = [file for file in files if store.sha256(file.measured) != file.artifact.sha256]
    with ThreadPoolExecutor(PROCESSES) as pool:
        for _ in pool.map(lambda file: _prove(file, golden), changed):
            pass


def outputs(path: Path, artifact: Artifact, inputs: NDArray[Any]) -> list[NDArray[Any]] | None:
    """The float32 outputs of a model file on this machine; None if nothing here runs files of its target."""
    import numpy as np

    module: Target = registry.load("targets", artifact.target)
    own = getattr(module, "predict", None)
    if own is None and module.RUNTIME is None:
        return None
    names = [port.name for port in artifact.outputs]
    found = own(path, inputs, names) if own is not None else _parity.predict(path, module, inputs)
    return [np.asarray(output, np.float32) for output in found]


def _prove(file: ShippedFile, golden: Path) -> None:
    import numpy as np

    target = file.artifact.target
    inputs = np.load(golden / "inputs.npy", allow_pickle=False)
    for path in file.paths:
        found = outputs(path, file.artifact, inputs)
        if found is None:
            return
        known = [np.load(golden / file.artifact.recipe / target / f"{HOST}.npy", allow_pickle=False)]
        if len(found) != 1 or not np.array_equal(found[0], known[0]):  # golden outputs may be of another runtime
            known = outputs(file.measured, file.artifact, inputs) or []
        for i, (one, other) in enumerate(zip(known, found, strict=True)):
            if not np.array_equal(one, other, equal_nan=True):
                raise StageFailed(
                    f"{path.name} ({file.artifact.recipe} on {target}) gives other outputs with metadata than without: "
                    f"output {i} differs by up to {float(abs(one - other).max()):.3g}"
                )
