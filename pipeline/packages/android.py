"""Android: the model as a library with a typed Kotlin API in a Maven repository, and as an AI pack of Google Play.

    maven/                       the model's AAR and the inference library that it depends on: pipeline/android/maven.py
    verification-metadata.xml    SHA-256 of every file in maven/, for Gradle
    ai-pack/<pack>/              a Gradle module: the model files without code, chosen by the memory of the phone

The assets of the AAR:

    <module>/golden/<i>.png                                           golden images
    <module>/<target>/artifact.json, <model file>, golden.f32         a model file and its golden outputs, float32
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from pipeline import android, stats
from pipeline.android import TARGETS, maven
from pipeline.android.maven import Coordinate, Library
from pipeline.core import Cell, Measurement
from pipeline.errors import NeedsTool
from pipeline.packages import Contents, ShippedCell, _api, _templates
from pipeline.system import packages, store

FOLDER = "android"
SUMMARY = "an AAR with a typed Kotlin API in a Maven repository, and an AI pack"
TEMPLATES = Path(__file__).parent / "_android"
GROUP = f"{android.GROUP}.models"
"""Maven group ID of the models' libraries, and the Kotlin package that theirs are in."""
RUNTIMES = {
    "tflite": ("LITERT", "litert", "LiteRT, which was TensorFlow Lite"),
    "executorch": ("EXECUTORCH", "executorch", "ExecuTorch"),
}
"""For each target: the runtime's name in the API, its name in the inference library, and its title."""
GIBIBYTE = 1 << 30
VERIFICATION = "verification-metadata.xml"


@dataclass(frozen=True)
class Group:
    """Phones that get the same files of an AI pack.

    Attributes:
        name: of the device group; None if there is one group only.
        least, below: memory in bytes; None if unbounded.
        cells: one of each target.
    """

    name: str | None
    least: int | None
    below: int | None
    cells: tuple[ShippedCell, ...]


def supports(contents: Contents) -> str | None:
    """Why there is no Android package; None if there is one."""
    if not _recommended(contents):
        return f"there is no file of a runtime that Android apps have ({', '.join(TARGETS)})"
    try:
        packages.require("android")
    except NeedsTool as error:
        return str(error)
    return _api.unsupported(contents.spec)


def sources() -> str:
    """Hash of what the libraries are made from besides this package."""
    return android.library_identity()


def write(contents: Contents, folder: Path) -> None:
    """Writes maven/, verification-metadata.xml and ai-pack/.

    Raises:
        NeedsTool, StageFailed: see `android.inference`.
    """
    repository = folder / "maven"
    inference = android.inference(contents.build)
    libraries = (inference, _library(contents, inference.coordinate))
    for library in libraries:
        maven.publish(library, repository)
    (folder / VERIFICATION).write_text(_verification(repository, [library.coordinate for library in libraries]))
    _write_pack(contents, folder / "ai-pack")


# -- the library -------------------------------------------------------------------------------------------------------


def _library(contents: Contents, inference: Coordinate) -> Library:
    api = _describe(contents)
    name = f"{GROUP}.{api.module}"
    sources = {f"{name.replace('.', '/')}/{api.type}.kt": _source(contents, api, name).encode()}
    return Library(
        coordinate=Coordinate(GROUP, api.artifact, contents.version),
        description=f"The model {contents.model} with a typed API for Android",
        license=contents.licence,
        namespace=name,
        min_sdk=android.min_sdk(),
        classes=android.classes(contents.build, name, sources),
        sources=sources,
        assets=_assets(contents, api),
        dependencies=(inference, android.standard_library()),
    )


def _describe(contents: Contents) -> _api.Api:
    return _api.describe(contents.spec, contents.model, contents.version, contents.weights_sha256)


def _source(contents: Contents, api: _api.Api, package: str) -> str:
    files = []
    for cell in _recommended(contents):
        runtime, engine, title = RUNTIMES[cell.target]
        files.append({
            "runtime": runtime, "engine": engine, "title": title,
            "target": cell.target, "recipe": cell.recipe, "sha256": cell.artifact.sha256,
        })  # fmt: skip
    tolerances = {cell.artifact.sha256: cell.tolerance for cell in contents.cells if cell.target in TARGETS}
    return _templates.render(
        TEMPLATES / f"{api.task}.kt.jinja",
        api=api,
        package=package,
        input=api.inputs[0],
        files=files,
        images=len(_images(contents)),
        tolerances=sorted(tolerances.items()),
    )


def _recommended(contents: Contents) -> list[ShippedCell]:
    """The recommended file of each target that Android apps can run."""
    return [cell for target in TARGETS if (cell := contents.recommended(target)) is not None]


def _assets(contents: Contents, api: _api.Api) -> dict[str, bytes]:
    golden = {f"{api.module}/golden/{image.name}": image.read_bytes() for image in _images(contents)}
    return golden | _files(contents, _recommended(contents), api.module)


def _images(contents: Contents) -> list[Path]:
    return sorted((contents.root / "golden" / "images").glob("*.png"), key=lambda path: int(path.stem))


def _files(contents: Contents, cells: Iterable[ShippedCell], folder: str) -> dict[str, bytes]:
    """Model files for the assets, each with its manifest and its golden outputs."""
    import numpy as np

    found = {}
    for cell in cells:
        source = contents.root / cell.folder
        for name in ("artifact.json", cell.artifact.file):
            found[f"{folder}/{cell.target}/{name}"] = (source / name).read_bytes()
        golden = contents.root / "golden"
        path = golden / cell.recipe / cell.target / f"{cell.golden[0]}.npy" if cell.golden else golden / "float.npy"
        found[f"{folder}/{cell.target}/golden.f32"] = np.load(path, allow_pickle=False).astype("<f4").tobytes()
    return found


def _verification(repository: Path, coordinates: Sequence[Coordinate]) -> str:
    """Gradle's dependency verification. It trusts all other groups, so that a project without one can use it."""
    lines = []
    for name in sorted(coordinates, key=str):
        lines.append(
            f"      <component group={quoteattr(name.group)} name={quoteattr(name.name)} "
            f"version={quoteattr(name.version)}>"
        )
        for path in sorted((repository / name.folder).iterdir()):
            if path.suffix.removeprefix(".") not in maven.HASHES:
                lines += [
                    f"         <artifact name={quoteattr(path.name)}>",
                    f'            <sha256 value="{store.sha256(path)}" origin="the bundle" />',
                    "         </artifact>",
                ]
        lines.append("      </component>")
    return _templates.render(TEMPLATES / f"{VERIFICATION}.jinja", components="\n".join(lines), group=android.GROUP)


# -- the AI pack -------------------------------------------------------------------------------------------------------


def _write_pack(contents: Contents, folder: Path) -> None:
    """Writes the Gradle module of the pack. bundletool removes the group from the name of each folder of assets."""
    api = _describe(contents)
    name = f"{api.module}_pack"
    found = groups(contents)
    files = {"build.gradle.kts": _templates.render(TEMPLATES / "build.gradle.kts.jinja", name=name).encode()}
    if len(found) > 1:
        text = _templates.render(TEMPLATES / "device_targeting_config.xml.jinja", groups=[g for g in found if g.least])
        files["device_targeting_config.xml"] = text.encode()
    for group in found:
        assets = name if group.name is None else f"{name}#group_{group.name}"
        files |= _files(contents, group.cells, f"src/main/assets/{assets}")
    for path, content in files.items():
        target = folder / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def groups(contents: Contents) -> list[Group]:
    """The device groups of an AI pack: one for each memory size, in GiB, that a measured phone has.

    A group gets the fastest file that was measured on all its phones and whose accuracy drop is shown to be below the
    margin. Phones with less memory than any that was measured are the group "other"; they get the recommended files, as
    all phones do if none was measured. Latency on an emulated phone does not count.
    """
    default = tuple(_recommended(contents))
    sizes = sorted({_memory(row) for cell in default for row in _rows(contents, cell.target)})
    if not sizes:
        return [Group(None, None, None, default)]
    found = [Group("other", None, None, default)]
    for least, below in zip(sizes, [*sizes[1:], None], strict=True):
        cells = tuple(_fastest(contents, cell, least) for cell in default)
        found.append(Group(f"ram_{least}gb", least * GIBIBYTE, None if below is None else below * GIBIBYTE, cells))
    return found


@dataclass(frozen=True)
class _Row:
    """A file on a phone."""

    cell: ShippedCell
    result: Cell
    measurement: Measurement


def _rows(contents: Contents, target: str) -> Iterator[_Row]:
    """The files of a target with latency and memory, on every phone that measured them."""
    for cell in contents.cells:
        for result, measurement in zip(cell.results, cell.measurements, strict=False):
            memory = measurement.device.get("memory_bytes")
            if cell.target == target and measurement.device.get("kind") == "adb" and memory and result.latency_ms:
                yield _Row(cell, result, measurement)


def _memory(row: _Row) -> int:
    """The phone's memory in whole GiB. Android reports less than the memory that is built in."""
    return max(1, int(row.measurement.device["memory_bytes"]) // GIBIBYTE)


def _fastest(contents: Contents, default: ShippedCell, memory: int) -> ShippedCell:
    """The file of the default's target that is fastest on the slowest phone with this much memory."""
    rows = [row for row in _rows(contents, default.target) if _memory(row) == memory]
    phones = {row.result.device for row in rows}
    slowest: dict[str, tuple[float, ShippedCell]] = {}
    for cell in {row.cell.recipe: row.cell for row in rows}.values():
        own = [row for row in rows if row.cell is cell]
        small_drop = all(row.result.verdict in (stats.BETTER, stats.NO_WORSE) for row in own)
        if {row.result.device for row in own} == phones and (small_drop or cell.recipe == "fp32"):
            slowest[cell.recipe] = (max(_milliseconds(row) for row in own), cell)
    return min(slowest.values(), key=lambda found: found[0])[1] if slowest else default


def _milliseconds(row: _Row) -> float:
    assert row.result.latency_ms is not None  # `_rows` gives only those with one
    return row.result.latency_ms.p50
