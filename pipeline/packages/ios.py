"""Swift packages with the model, a typed API and tests: Core ML, and ExecuTorch in a package of its own.

ios/<Name>/                 the API, and the Core ML model as a resource
ios/<Name>ExecuTorch/       runs the ExecuTorch program; depends on <Name> and on ExecuTorch's own Swift package
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.datasets import _images
from pipeline.errors import Broken
from pipeline.packages import HOST, _api, _templates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.packages import Contents, ShippedCell

FOLDER = "ios"

TEMPLATES = Path(__file__).parent / "_ios"
PROGRAM = Path("Data", "com.apple.CoreML", "model.mlmodel")
"""The model inside a .mlpackage folder."""
SYSTEMS = {8: (17, 14), 9: (18, 15)}
"""The first versions of iOS and macOS that read a Core ML file, by its specification version. Source: Model.proto"""


@dataclass(frozen=True)
class _File:
    """What the templates need of a model file."""

    file: str
    sha256: str
    recipe: str
    tolerance: float
    input: str
    output: str
    version: str


@dataclass(frozen=True)
class _Golden:
    samples: int
    classes: int


def supports(contents: Contents) -> str | None:
    """A typed API, and a Core ML or ExecuTorch file."""
    reason = _api.unsupported(contents.spec)
    if reason is None and not _cells(contents):
        return "the bundle has no Core ML file, and no ExecuTorch file with golden outputs"
    return reason


def write(contents: Contents, folder: Path) -> None:
    """Writes the packages; see `Package`."""
    import numpy as np

    api = _api.describe(contents.spec, contents.model, contents.version, contents.weights_sha256)
    cells = _cells(contents)
    inputs = np.load(contents.root / "golden" / "inputs.npy", allow_pickle=False)
    coreml = cells.get("coreml")
    ios, macos = SYSTEMS[min(SYSTEMS)] if coreml is None else _systems(contents.root / coreml.file)
    values: dict[str, Any] = {
        "api": api,
        "input": api.inputs[0],
        "preprocessing": contents.spec.preprocessing,
        "max_aspect_ratio": _images.MAX_ASPECT_RATIO,
        "golden": _Golden(len(inputs), len(api.labels)),
        "ios": ios,
        "macos": macos,
        **{target: _file(cells[target]) if target in cells else None for target in ("coreml", "executorch")},
    }
    sources = {"Package.swift": "Package.swift", f"Sources/{api.type}/{api.type}.swift": f"{api.task}.swift"}
    sources |= {f"Sources/{api.type}/{name}.swift": f"{name}.swift" for name in ("Engine", "Pixels", "Images")}
    sources[f"Tests/{api.type}Tests/GoldenTests.swift"] = "GoldenTests.swift"
    resources = folder / api.type / "Sources" / api.type / "Resources"
    if coreml is not None:
        sources[f"Sources/{api.type}/CoreMLEngine.swift"] = "CoreMLEngine.swift"
    _render(folder / api.type, sources, values)
    (resources / "golden").mkdir(parents=True)
    (resources / "golden" / "inputs.bin").write_bytes(_bytes(inputs))
    if coreml is not None:
        shutil.copytree(contents.root / coreml.file, resources / coreml.artifact.file)
        (resources / "golden" / "coreml.bin").write_bytes(_golden(contents, coreml))
    if "executorch" in cells:
        _write_executorch(contents, cells["executorch"], api.type, folder, values)


def _write_executorch(contents: Contents, cell: ShippedCell, name: str, folder: Path, values: dict[str, Any]) -> None:
    own = f"{name}ExecuTorch"
    sources = {
        "Package.swift": "ExecuTorchPackage.swift",
        f"Sources/{own}/ExecuTorchEngine.swift": "ExecuTorchEngine.swift",
        f"Tests/{own}Tests/ExecuTorchTests.swift": "ExecuTorchTests.swift",
    }
    _render(folder / own, sources, values)
    resources = folder / own / "Sources" / own / "Resources"
    (resources / "golden").mkdir(parents=True)
    (resources / "golden" / "executorch.bin").write_bytes(_golden(contents, cell))
    shutil.copyfile(contents.root / cell.file, resources / cell.artifact.file)


def _cells(contents: Contents) -> dict[str, ShippedCell]:
    """The recommended files for iOS. Core ML's golden outputs are the float model's, if nothing has run the file."""
    found = {target: contents.recommended(target) for target in ("coreml", "executorch")}
    return {
        target: cell
        for target, cell in found.items()
        if cell is not None and (target == "coreml" or HOST in cell.golden)
    }


def _file(cell: ShippedCell) -> _File:
    artifact = cell.artifact
    version = artifact.tools.get("executorch", "").partition("+")[0]
    names = artifact.inputs[0].name, artifact.outputs[0].name
    return _File(artifact.file, artifact.sha256, cell.recipe, cell.tolerance, *names, version)


def _render(folder: Path, sources: dict[str, str], values: dict[str, Any]) -> None:
    for path, template in sources.items():
        out = folder / path
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(_templates.render(TEMPLATES / f"{template}.jinja", **values), encoding="utf-8")


def _golden(contents: Contents, cell: ShippedCell) -> bytes:
    """The outputs that the file should have, as little-endian floats."""
    import numpy as np

    folder = contents.root / "golden"
    own = folder / cell.recipe / cell.target
    place = HOST if HOST in cell.golden else next(iter(cell.golden), None)
    path = own / f"{place}.npy" if place else folder / "float.npy"
    return bytes(np.load(path, allow_pickle=False).astype("<f4").tobytes())


def _bytes(inputs: NDArray[Any]) -> bytes:
    """Pixels as bytes."""
    import numpy as np

    pixels = inputs.astype(np.uint8)
    if not np.array_equal(pixels, inputs):
        raise Broken("golden/inputs.npy has values that are no pixels from 0 to 255")
    return pixels.tobytes()


def _systems(package: Path) -> tuple[int, int]:
    """The first versions of iOS and macOS that read a .mlpackage."""
    content = (package / PROGRAM).read_bytes()
    version = content[1] if content[:1] == b"\x08" else 0  # field 1 of Model.proto, a number below 128
    if version not in SYSTEMS:
        raise Broken(f"{package.name} has the specification version {version}; known: {', '.join(map(str, SYSTEMS))}")
    return SYSTEMS[version]
