"""Ship: the files of a model that passed become a bundle for a mobile team, build/ship/<model>-<version>/."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import formatting, packages, registry, stats, tasks
from pipeline.core import (
    Artifact,
    Bundle,
    BundledCell,
    BundledFile,
    Checkpoint,
    Golden,
    LeftOut,
    command_options,
    to_json,
)
from pipeline.errors import BadOption, Broken, Unsupported
from pipeline.packages import HOST, Contents, Package, ShippedCell, _api
from pipeline.registry import Plugin
from pipeline.report import card, document
from pipeline.results import bundle as bundles
from pipeline.results import collect, reference, rows, signature, verdicts, versions
from pipeline.results.reference import Reference
from pipeline.results.rows import Row
from pipeline.stages import _bill, _shipped_files, push, quantize
from pipeline.stages.plan import Job, Plan
from pipeline.system import store
from pipeline.system.progress import say
from pipeline.system.store import Store

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from numpy.typing import NDArray

FOLDER = "ship"
"""In the build folder: holds the bundles."""
VERIFY = Path(__file__).with_name("Verify.java")
"""The program that checks a bundle with nothing but a JDK; it lies in every bundle."""
GOLDEN_SAMPLES = 8
SLACK = 2.0
"""A golden output may differ by this many times the largest difference that was seen."""
ROUNDING = 1e-6
"""Added to every tolerance, times the largest golden output: float32 on another processor rounds otherwise."""
UNKNOWN = 1e-3
"""A runtime that nothing here can run is assumed to differ by this share of the largest output."""
NO_LICENCE = "NOASSERTION"
LICENCE = re.compile(
    r"[A-Za-z0-9.:+-]+(?: WITH [A-Za-z0-9.-]+)?(?: (?:AND|OR) [A-Za-z0-9.:+-]+(?: WITH [A-Za-z0-9.-]+)?)*"
)
"""An SPDX expression without parentheses."""


@dataclass(frozen=True)
class Options:
    """What to ship beside the plan.

    Attributes:
        version: major.minor.patch.
        key: a private key that signs the bundle; None for an unsigned one.
        packages: the packages to write.
        licence: an SPDX expression.
        every_package, every_recipe, every_target: whether the user named none. What was named must be shippable; of
            everything, what cannot be shipped is left out and listed.
    """

    version: str
    packages: tuple[Plugin[Package], ...] = ()
    key: Path | None = None
    licence: str = NO_LICENCE
    every_package: bool = True
    every_recipe: bool = True
    every_target: bool = True

    def check(self) -> None:
        """
        Raises:
            BadOption: an option is invalid.
        """
        versions.parse(self.version)
        if not _is_expression(self.licence):
            raise BadOption(f"--licence {self.licence!r} is not an SPDX expression, such as Apache-2.0")


@dataclass(frozen=True)
class Shipped:
    """What `ship` made or found.

    Attributes:
        path: the bundle's folder.
        made: whether it was made or signed now; False if it was up to date.
    """

    path: Path
    bundle: Bundle
    made: bool


@dataclass(frozen=True)
class _File:
    """A file that is shipped, and where its manifests are.

    Attributes:
        rows: its measurements; empty if no device of this machine can run it.
    """

    folder: Path
    artifact: Artifact
    row: Row
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        return f"{self.artifact.recipe} on {self.artifact.target}"

    @property
    def place(self) -> str:
        return f"{self.artifact.recipe}/{self.artifact.target}"


@dataclass(frozen=True)
class _Shipment:
    """What goes into a bundle."""

    build: Store
    job: Job
    checkpoint: Checkpoint
    options: Options
    files: tuple[_File, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def key(self) -> str:
        """Hash of everything that the bundle's content depends on."""
        checkpoint, options = self.checkpoint, self.options
        return store.digest([
            to_json(checkpoint.spec), checkpoint.weights_sha256, checkpoint.predictions_sha256,
            checkpoint.dataset_sha256, [to_json(file.artifact) for file in self.files],
            [to_json(row.measurement) for file in self.files for row in file.rows],
            to_json(self.left_out), options.version, options.licence,
            {plugin.name: packages.source_hash(plugin.name) for plugin in options.packages}, options.every_package,
            registry.code_hash("pipeline.stages.ship"), store.sha256(VERIFY),
        ])  # fmt: skip


def ship(build: Store, plan: Plan, options: Options) -> Shipped:
    """Makes the bundle of a plan's files, unless it is up to date. Nothing is trained, exported or measured.

    Raises:
        BadOption: the version exists with other content, or says less than what changed; an option is invalid.
        Unsupported: a named file or package cannot be shipped, or there is nothing to ship.
        Broken: a manifest or a file does not match.
    """
    options.check()
    signer = signature.private_key(options.key) if options.key else None
    if len(plan.jobs) != 1:
        raise BadOption("a bundle has one framework: name one with --framework")
    (job,) = plan.jobs
    tasks.require_image_classes(job.model.spec, "inv ship")
    checkpoint = _checkpoint(build, job)
    files, left_out = _chosen(build, plan, options)
    shipment = _Shipment(build, job, checkpoint, options, tuple(files), tuple(left_out))
    final = build.root / FOLDER / f"{checkpoint.spec.name}-{options.version}"
    key = shipment.key
    found = _existing(final, key)
    if found is not None and (signer is None or signature.is_signed(final)):
        return _up_to_date(final, found, signer)
    with store.lock(build, f"shipping {checkpoint.spec.name} {options.version}"):
        found = _existing(final, key)
        if found is not None:
            if signer is None or signature.is_signed(final):
                return _up_to_date(final, found, signer)
            signature.write(final, signer)
            return Shipped(final, found, made=True)
        previous = _previous(shipment)
        with store.atomic(final) as new:
            new.mkdir()
            made = _written(shipment, new, previous, key)
            if signer is not None:
                signature.write(new, signer)
    return Shipped(final, made, made=True)


def _up_to_date(final: Path, bundle: Bundle, signer: EllipticCurvePrivateKey | None) -> Shipped:
    """
    Raises:
        Broken: the bundle has another signature than this key's.
    """
    if signer is not None:
        found = signature.check(final, signer.public_key())
        if found:
            raise Broken(f"{final}: {found[0]}; a version is never overwritten: use a higher one, or remove the folder")
    return Shipped(final, bundle, made=False)


def _is_expression(text: str) -> bool:
    """Whether a text has the form of an SPDX expression. Its innermost parentheses are replaced by a name at a time."""
    while True:
        shorter = re.sub(r"\(([^()]+)\)", lambda match: "X" if LICENCE.fullmatch(match[1]) else "", text)
        if shorter == text:
            return LICENCE.fullmatch(text) is not None
        text = shorter


# -- what is shipped ---------------------------------------------------------------------------------------------------


def _checkpoint(build: Store, job: Job) -> Checkpoint:
    name, framework = job.model.spec.name, job.framework.name
    checkpoint = store.read(Checkpoint, build.checkpoint(name, framework) / "checkpoint.json")
    if checkpoint is None:
        raise Unsupported(
            f"{name} ({framework}) is not trained yet, so there is nothing to ship: "
            f"inv train{command_options(name, framework)}"
        )
    return checkpoint


def _chosen(build: Store, plan: Plan, options: Options) -> tuple[list[_File], list[LeftOut]]:
    """The files to ship, and those that cannot be shipped.

    Raises:
        Unsupported: one that cannot be shipped was named, or nothing can be.
        Broken: a file does not match its manifest.
    """
    (job,) = plan.jobs
    model, framework = job.model.spec.name, job.framework.name
    targets = [target.name for target in plan.targets]
    recipes = None if options.every_recipe else [recipe.name for recipe in plan.recipes]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in collect.rows(build, [(model, framework)]):
        if row.cell.target in targets and (recipes is None or row.cell.recipe in recipes):
            groups.setdefault((row.cell.recipe, row.cell.target), []).append(row)
    files, left_out = list[_File](), list[LeftOut]()
    devices = [device.name for device in plan.devices]
    for (recipe, target), found in groups.items():
        folder = build.cell(model, framework, recipe, target)
        file, reasons = _passed(folder, found, devices, f"{recipe} on {target}")
        files += [file] if file else []
        left_out += reasons
    named = [one for one in left_out if one.status != "unsupported"]
    if named and not (options.every_recipe and options.every_target):
        raise Unsupported(f"cannot ship {'; '.join(f'{one.what}: {one.reason}' for one in named)}")
    if not files:
        raise Unsupported(
            f"no file of {model} can be shipped: "
            + formatting.listed(f"{one.what}: {one.reason}" for one in named or left_out)
        )
    return files, left_out


def _passed(
    folder: Path, found: Sequence[Row], devices: Sequence[str], name: str
) -> tuple[_File | None, list[LeftOut]]:
    """One file with the measurements that passed; and why the others did not.

    Raises:
        Broken: the file does not match its manifest.
    """
    ready = [row for row in found if row.cell.status == "ok"]
    if devices:
        ready = [row for row in ready if row.cell.device in (None, *devices)]
    reasons = [
        LeftOut(_named(name, row), row.cell.status, str(row.cell.reason)) for row in found if row.cell.status != "ok"
    ]
    if devices:
        reasons += [
            LeftOut(f"{name} on {device}", "missing", f"not measured on {device}")
            for device in devices
            if found[0].cell.status != "unsupported" and device not in {row.cell.device for row in found}
            and not (found[0].artifact and found[0].artifact.unchecked)
        ]  # fmt: skip
    for row in found:
        home = folder if row.cell.device is None else _measured_at(folder, row)
        if row.cell.status == "failed" and row.checkpoint and not (home / "failure.json").exists():
            raise Broken(f"{_named(name, row)}: {row.cell.reason}")  # nothing failed: a manifest or file was changed
    if not ready:
        return None, reasons
    artifact = ready[0].artifact
    assert artifact is not None  # true of every row that is ok
    if artifact.parity is None and artifact.unchecked is None:
        return None, [LeftOut(name, "missing", "it was never checked against the model: inv export"), *reasons]
    if store.sha256(folder / artifact.file) != artifact.sha256:
        raise Broken(f"{folder / artifact.file} does not match artifact.json: inv export")
    return _File(folder, artifact, ready[0], tuple(row for row in ready if row.measurement)), reasons


def _named(name: str, row: Row) -> str:
    return f"{name} on {row.cell.device}" if row.cell.device else name


def _measured_at(folder: Path, row: Row) -> Path:
    """The folder of a row's measurement below that of its file."""
    home = folder / str(row.cell.device)
    return home if row.cell.threads in (None, 1) else home / f"{store.THREADS}{row.cell.threads}"


# -- which version -----------------------------------------------------------------------------------------------------


def _existing(final: Path, key: str) -> Bundle | None:
    """The bundle in a folder, if it was made from this.

    Raises:
        BadOption: the folder holds something else.
        Broken: a file of the bundle was changed.
    """
    if not final.exists():
        return None
    found = bundles.read(final)
    if found.key != key:
        raise BadOption(
            f"--version {found.version}: {final} exists and was made from other files or by another Lastmile; a "
            "version is never overwritten: use a higher one, or remove the folder"
        )
    return found


def _previous(shipment: _Shipment) -> str | None:
    """The highest version of the model that was shipped before.

    Raises:
        BadOption: the version says less than what changed since then.
    """
    checkpoint = shipment.checkpoint
    known = list(versions.earlier(shipment.build.root / FOLDER, checkpoint.spec.name))
    if not known:
        return None
    highest, path = max(known)
    files = [file.artifact for file in shipment.files]
    found = versions.change(path, bundles.read(path), checkpoint.spec, checkpoint.weights_sha256, files)
    versions.check(versions.parse(shipment.options.version), highest, found)
    return str(highest)


# -- writing -----------------------------------------------------------------------------------------------------------


def _written(shipment: _Shipment, new: Path, previous: str | None, key: str) -> Bundle:
    """Writes the whole bundle into the folder `new`."""
    checkpoint, files, options = shipment.checkpoint, shipment.files, shipment.options
    shipped = [
        _shipped_files.write(
            file.folder / file.artifact.file, file.artifact, options.version, options.licence,
            new / "models" / file.place,
        )
        for file in files
    ]  # fmt: skip
    _write_measured(shipment, new)
    cells = _write_golden(shipment, new, [file.artifact for file in shipped])
    _shipped_files.prove(shipped, new / "golden")
    spec = checkpoint.spec
    contents = Contents(
        new, spec.name, options.version, spec, checkpoint.framework, checkpoint.weights_sha256, options.licence,
        tuple(cells), checkpoint.accuracy, checkpoint.samples, _recommended(files),
    )  # fmt: skip
    made, more = _write_packages(contents, options)
    tools = {name: version for file in files for name, version in file.artifact.tools.items()}
    unset = Bundle(
        digest=bundles.UNSET,
        model=spec.name,
        version=options.version,
        previous=previous,
        framework=checkpoint.framework,
        licence=options.licence,
        spec=spec,
        weights_sha256=checkpoint.weights_sha256,
        dataset_sha256=checkpoint.dataset_sha256,
        samples=checkpoint.samples,
        accuracy=checkpoint.accuracy,
        tools=dict(sorted({**tools, **checkpoint.tools}.items())),
        recommended=contents.recipes,
        cells=tuple(_bundled(cell, file) for cell, file in zip(cells, files, strict=True)),
        packages=tuple(made),
        left_out=(*shipment.left_out, *more),
        files={},
        key=key,
    )
    found = [row for file in files for row in file.rows or (file.row,)]
    (new / "README.md").write_text(card.card(unset, found), encoding="utf-8")
    title = f"{unset.model} {unset.version}"
    (new / "report.html").write_text(document.page(found, title), encoding="utf-8")
    shutil.copyfile(VERIFY, new / VERIFY.name)
    _bill.write(new, unset, _files(new))
    complete = replace(unset, files=_files(new))
    (new / bundles.MANIFEST).write_text(bundles.text(complete), encoding="utf-8")
    return bundles.manifest(new)


def _bundled(cell: ShippedCell, file: _File) -> BundledCell:
    paths = tuple(f"measured/{file.place}/{_measurement(row)}.json" for row in file.rows)
    return BundledCell(
        cell.recipe, cell.target, cell.file, file.artifact.sha256, cell.results, paths, cell.golden, cell.tolerance
    )


def _measurement(row: Row) -> str:
    """The name of a measurement's files: the device, with the threads if they are several."""
    threads = row.cell.threads
    return str(row.cell.device) if threads in (None, 1) else f"{row.cell.device}-threads-{threads}"


def _files(root: Path) -> dict[str, BundledFile]:
    found = (root / name for name, _ in bundles.walk(root))
    return {
        path.relative_to(root).as_posix(): BundledFile(store.sha256(path), path.stat().st_size)
        for path in sorted(found, key=lambda path: path.relative_to(root).as_posix())
    }


def _write_measured(shipment: _Shipment, new: Path) -> None:
    """The raw measurements, and the top-1 of every sample in each of them: what a later version is compared with."""
    import numpy as np

    files, base = shipment.files, _reference(shipment)
    folder = new / "measured"
    folder.mkdir()
    np.save(folder / "labels.npy", base.labels.astype(np.int64))
    np.save(folder / "float.npy", base.top1.astype(np.int32))
    for file in files:
        for row in file.rows:
            path = folder / file.place / f"{_measurement(row)}.json"
            store.write(path, row.measurement)
            np.save(path.with_suffix(".npy"), stats.top1(rows.outputs(row)[0]).astype(np.int32))


def _reference(shipment: _Shipment) -> Reference:
    """The float model's outputs.

    Raises:
        Broken: they cannot be read.
    """
    checkpoint = shipment.checkpoint
    found = reference.read(shipment.build, checkpoint.spec.name, checkpoint.framework)
    if found.problem:
        raise Broken(found.problem)
    return found


def _write_golden(shipment: _Shipment, new: Path, artifacts: Sequence[Artifact]) -> list[ShippedCell]:
    """Writes golden/: inputs, images, and each file's outputs on this machine and on the devices that measured it.

    Args:
        artifacts: the manifests in models/.
    """
    import numpy as np

    files, base = shipment.files, _reference(shipment)
    fewest = min([row.cell.samples or 0 for file in files for row in file.rows], default=GOLDEN_SAMPLES)
    chosen = stats.stratified(base.labels, min(GOLDEN_SAMPLES, fewest, len(base.labels)))
    inputs = np.load(
        push.evaluation(shipment.build, shipment.job, shipment.checkpoint), mmap_mode="r", allow_pickle=False
    )[chosen]
    folder = new / "golden"
    _write_images(inputs, folder)
    expected = base.outputs[0][chosen].astype(np.float32)
    np.save(folder / "float.npy", expected)
    outputs = {file.place: _golden_outputs(file, base.labels, chosen, inputs) for file in files}
    tolerances = _tolerances(shipment, outputs, expected)
    for place, own in outputs.items():
        (folder / place).mkdir(parents=True)
        for device, output in own.items():
            np.save(folder / place / f"{device}.npy", output)
    store.write(
        folder / "golden.json",
        Golden(
            tuple(chosen.tolist()),
            tuple(base.labels[chosen].tolist()),
            tuple(base.top1[chosen].tolist()),
            {
                f"{place}/{device}": tuple(stats.top1(output).tolist())
                for place, own in outputs.items()
                for device, output in own.items()
            },
            tolerances,
        ),
    )
    return [
        ShippedCell(
            file.artifact.recipe,
            file.artifact.target,
            artifact,
            tuple(row.measurement for row in file.rows if row.measurement),
            tuple(row.cell for row in file.rows) or (file.row.cell,),
            tuple(outputs[file.place]),
            tolerances[file.place],
        )
        for file, artifact in zip(files, artifacts, strict=True)
    ]


def _write_images(inputs: NDArray[Any], folder: Path) -> None:
    """The golden inputs as an array, and each as a PNG file without text and time."""
    import numpy as np
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    np.save(folder / "inputs.npy", inputs)
    for i, pixels in enumerate(inputs):
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(folder / "images" / f"{i}.png")


def _golden_outputs(file: _File, labels: Any, chosen: Any, inputs: Any) -> dict[str, NDArray[Any]]:
    """The outputs of a file for the golden inputs, by where they were computed: this machine first. Recorded outputs of
    the measurements are used; this machine runs the file if it has not measured it. Empty if nothing can run it."""
    import numpy as np

    found: dict[str, NDArray[Any]] = {}
    for row in file.rows:
        place = HOST if row.cell.device == "local" else str(row.cell.device)
        if row.cell.device == HOST:
            raise Unsupported(f"a device cannot be called {HOST!r} in a bundle: rename it in devices.toml")
        if place not in found:  # several threads give the same outputs, within the tolerance
            kept = stats.stratified(labels, row.cell.samples or len(labels))
            found[place] = rows.outputs(row)[0][np.searchsorted(kept, chosen)].astype(np.float32)
    if HOST not in found:
        outputs = _shipped_files.outputs(file.folder / file.artifact.file, file.artifact, inputs)
        if outputs is not None:
            found = {HOST: outputs[0], **found}
    return {HOST: found.pop(HOST), **found} if HOST in found else found


def _tolerances(
    shipment: _Shipment, outputs: Mapping[str, Mapping[str, NDArray[Any]]], expected: NDArray[Any]
) -> dict[str, float]:
    """The tolerance of each file, by its place: twice the largest difference that was seen for its recipe.

    Differences between a file and the graph it was made from, between this machine and a device, and one step of a
    quantized output count. All files of a recipe share a tolerance: what one runtime rounds otherwise, another may on
    the next processor. The golden outputs of a file that nothing has run are the float model's, so how far the other
    files are from them counts as well.
    """
    seen: dict[str, list[float]] = {}
    largest = float(abs(expected).max())
    for file in shipment.files:
        own = list(outputs[file.place].values())
        found = seen.setdefault(file.artifact.recipe, [])
        found += [float(abs(one - other).max()) for one in own for other in own]
        found += [step.max_error for row in file.rows for step in row.cell.steps[2:] if step.max_error is not None]
        found += [file.artifact.parity.max_error] if file.artifact.parity else []
        found += [port.scale for port in file.artifact.outputs if port.scale is not None]
        graph = shipment.build.graphs(
            shipment.checkpoint.spec.name, shipment.checkpoint.framework, file.artifact.recipe
        )
        made = store.read(quantize.Graph, graph / quantize.MANIFEST)
        found += [step for step in made.steps if step is not None] if made is not None else []
    tolerances = {}
    for file in shipment.files:
        known = list(seen[file.artifact.recipe])
        if not outputs[file.place]:
            known += [UNKNOWN * largest]
            known += [
                float(abs(output - expected).max())
                for place, own in outputs.items()
                for output in own.values()
                if place.startswith(f"{file.artifact.recipe}/")
            ]
        tolerances[file.place] = SLACK * max(known, default=0.0) + ROUNDING * largest
    return tolerances


def _recommended(files: Sequence[_File]) -> dict[str, str]:
    """For each target, the recipe of the fastest file whose drop is shown to be below the margin on every device that
    measured it; the smallest one, if nothing has a latency. fp32, or the first, if there is none."""
    found = {}
    for target in dict.fromkeys(file.artifact.target for file in files):
        own = [file for file in files if file.artifact.target == target]
        kept = [file for file in own if file.rows and all(verdicts.recommended(row.cell) for row in file.rows)]
        best = min(kept, key=_cost, default=next((f for f in own if f.artifact.recipe == "fp32"), own[0]))
        found[target] = best.artifact.recipe
    return found


def _cost(file: _File) -> tuple[float, int]:
    """The geometric mean of the latencies on all devices, infinite if there is none; then the size."""
    times = [row.cell.latency_ms.p50 for row in file.rows if row.cell.latency_ms]
    mean = math.exp(sum(math.log(time) for time in times) / len(times)) if times else math.inf
    return mean, file.artifact.size_bytes


def _write_packages(contents: Contents, options: Options) -> tuple[list[str], list[LeftOut]]:
    """Writes the packages. Returns their names, and those that cannot be made.

    Raises:
        Unsupported: one that was named cannot be made.
    """
    made, left_out = [], []
    for plugin in options.packages:
        reason = plugin.module.supports(contents)
        if reason is not None and not options.every_package:
            raise Unsupported(f"the package {plugin.name} cannot be made: {reason}")
        if reason is not None:
            left_out.append(LeftOut(plugin.name, "unsupported", formatting.one_line(reason)))
            continue
        folder = contents.root / plugin.module.FOLDER
        folder.mkdir()
        plugin.module.write(contents, folder)
        made.append(plugin.name)
    renamed = _api.renamed(contents.spec.labels) if made else None
    if renamed is not None:
        say(renamed)
    return made, left_out


def sizes(shipped: Shipped) -> str:
    """How large the bundle is, and how much of it the model files are."""
    total = store.size(shipped.path)
    models = sum(file.size_bytes for name, file in shipped.bundle.files.items() if name.startswith("models/"))
    return (
        f"{len(shipped.bundle.files) + 1} files, {formatting.megabytes(total)} MB; "
        f"the model files have {formatting.megabytes(models)} MB"
    )


def lines(shipped: Shipped) -> Iterator[tuple[str, str]]:
    """What to print about a bundle: (status, text)."""
    bundle = shipped.bundle
    for cell in bundle.cells:
        ran = ", ".join(str(result.device) for result in cell.results if result.device)
        yield "ok" if ran else "not checked", f"{cell.recipe} on {cell.target}: {ran or cell.results[0].unchecked}"
    for one in bundle.left_out:
        yield one.status, f"{one.what}: {one.reason}"
