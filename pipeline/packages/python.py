"""A wheel with the model, a typed API and its golden data, for servers and notebooks."""

from __future__ import annotations

import base64
import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.android import package
from pipeline.datasets import _images
from pipeline.packages import HOST, _api, _templates

if TYPE_CHECKING:
    from pipeline.packages import Contents, ShippedCell

FOLDER = "python"

TEMPLATES = Path(__file__).parent / "_python"
RUNTIMES = {"onnx": ("onnxruntime",), "tflite": ("ai-edge-litert",), "executorch": ("executorch", "torch")}
"""The targets whose files a wheel can run, and the distributions that do so. The first target that a bundle has is the
wheel's default."""

TAKEN = frozenset({"numpy", "PIL", "pil", "onnxruntime", "ai_edge_litert", "executorch", "torch"})
"""Modules that the wheel imports: a model of that name gets another module name."""

PREPROCESSING: tuple[Callable[..., object], ...] = (_images.fit, _images._upright, _images._converted)
"""The functions that make the model's input, which the wheel has copies of."""

PYTHON = ">=3.10"


@dataclass(frozen=True)
class _File:
    """What the wheel's `ModelFile` has."""

    file: str
    sha256: str
    recipe: str
    layout: str
    runtime: str
    tolerance: float


def supports(contents: Contents) -> str | None:
    """A typed API, and a file that a runtime for Python runs, with golden outputs."""
    reason = _api.unsupported(contents.spec)
    if reason is None and not _cells(contents):
        return f"no file of the bundle runs in Python and has golden outputs (targets: {', '.join(RUNTIMES)})"
    return reason


def write(contents: Contents, folder: Path) -> None:
    """Writes the wheel; see `Package`."""
    api = _api.describe(contents.spec, contents.model, contents.version, contents.weights_sha256)
    module = f"{api.module}_model" if api.module in TAKEN else api.module
    cells = _cells(contents)
    files = {
        target: _File(
            f"models/{target}/{cell.artifact.file}",
            cell.artifact.sha256,
            cell.recipe,
            str(cell.artifact.inputs[0].layout),
            RUNTIMES[target][0],
            cell.tolerance,
        )
        for target, cell in cells.items()
    }
    values = {
        "api": api,
        "module": module,
        "extra": api.artifact,
        "targets": {target: asdict(file) for target, file in files.items()},
        "shape": contents.spec.inputs[0].shape,
        "preprocessing": contents.spec.preprocessing,
        "grey": _images.GREY,
        "max_aspect_ratio": _images.MAX_ASPECT_RATIO,
        "code": "\n\n".join(inspect.getsource(one) for one in PREPROCESSING).rstrip(),
    }
    sources = {"__init__.py": f"{api.task}.py.jinja"}
    sources |= {f"{name}.py": f"{name}.py.jinja" for name in ("__main__", "_engine", "_image")}
    entries = {
        f"{module}/{name}": _templates.render(TEMPLATES / template, **values).encode()
        for name, template in sources.items()
    }
    entries[f"{module}/py.typed"] = b""
    entries[f"{module}/golden/inputs.npy"] = (contents.root / "golden" / "inputs.npy").read_bytes()
    for target, cell in cells.items():
        entries[f"{module}/{files[target].file}"] = (contents.root / cell.file).read_bytes()
        golden = contents.root / "golden" / cell.recipe / target / f"{HOST}.npy"
        entries[f"{module}/golden/{target}.npy"] = golden.read_bytes()
    distribution = api.artifact.replace("-", "_")
    info = f"{distribution}-{api.version}.dist-info"
    entries[f"{info}/METADATA"] = _metadata(contents, api, cells, module).encode()
    entries[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: lastmile\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    entries[f"{info}/RECORD"] = _record(entries, f"{info}/RECORD").encode()
    # .dist-info comes last, as the wheel format recommends
    ordered = dict(sorted(entries.items(), key=lambda entry: (entry[0].startswith(info), entry[0])))
    (folder / f"{distribution}-{api.version}-py3-none-any.whl").write_bytes(package.zipped(ordered))


def _cells(contents: Contents) -> dict[str, ShippedCell]:
    """The recommended file of each target that has a runtime for Python."""
    found = {target: contents.recommended(target) for target in RUNTIMES}
    return {target: cell for target, cell in found.items() if cell is not None and HOST in cell.golden}


def _metadata(contents: Contents, api: _api.Api, cells: Mapping[str, ShippedCell], module: str) -> str:
    """Core metadata 2.4. Each target is an extra: at least the runtime's version that the file was checked with."""
    licence = [] if contents.licence == "NOASSERTION" else [f"License-Expression: {contents.licence}"]
    extras = []
    for target, cell in cells.items():
        extras.append(f"Provides-Extra: {target}")
        for runtime in RUNTIMES[target]:
            version = cell.artifact.tools.get(runtime, "none").partition("+")[0]
            least = "" if version == "none" else f">={version}"
            extras.append(f'Requires-Dist: {runtime}{least}; extra == "{target}"')
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {api.artifact}",
        f"Version: {api.version}",
        f"Summary: {api.model}: an image classifier with {len(api.labels)} classes",
        *licence,
        f"Requires-Python: {PYTHON}",
        "Requires-Dist: numpy>=1.24",
        "Requires-Dist: pillow>=9.1",
        *extras,
        "Description-Content-Type: text/markdown",
    ]
    default = next(iter(cells))
    text = (
        f"    pip install '{api.artifact}[{default}]'\n\n"
        f"```python\nfrom PIL import Image\nfrom {module} import {api.type}\n\n"
        f'prediction = {api.type}().classify(Image.open("photo.jpg"))\n'
        "print(prediction.label, prediction.score)\n```\n\n"
        f"`python -m {module}` runs the golden inputs and compares the outputs.\n"
    )
    return "\n".join(lines) + "\n\n" + text


def _record(entries: Mapping[str, bytes], own: str) -> str:
    """Source: the recording installed projects specification."""
    lines = []
    for name, content in sorted(entries.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}")
    return "\n".join([*lines, f"{own},,"]) + "\n"
