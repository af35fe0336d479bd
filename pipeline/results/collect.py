"""What was exported and measured: one cell for every model, recipe and target, and one for every device that ran it.

Only manifests and predictions are read. No framework is imported and nothing is written. A broken file in the build
folder becomes a failed cell with a reason: it is neither left out nor raised as an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline import formatting, registry
from pipeline.core import Artifact, Cell, Failure, Recipe, safe_file_name
from pipeline.errors import Broken
from pipeline.recipes import of_model, special
from pipeline.results import keys, measured, output_diff, reference, verdicts, warnings
from pipeline.results.reference import Reference
from pipeline.results.rows import READ_ERRORS, Row, failed, require_same
from pipeline.system import store
from pipeline.system.store import Store


def cells(build: Store, models: Sequence[tuple[str, str]] | None = None, margin: float = verdicts.MARGIN) -> list[Cell]:
    """The cells of each (model, framework) × recipe × target, one for each device that ran the file.

    Args:
        models: (model, framework) pairs; by default those with a checkpoint.
        margin: of the verdicts, in percentage points.

    Raises:
        BadOption: the margin is not between 0 and 100 points.
    """
    return [row.cell for row in rows(build, models, margin)]


def rows(build: Store, models: Sequence[tuple[str, str]] | None = None, margin: float = verdicts.MARGIN) -> list[Row]:
    """As `cells`, with the manifests each cell was read from."""
    verdicts.check(margin)
    found: list[Row] = []
    for model, framework in build.models() if models is None else models:
        found += _of_model(build, model, framework)
    return [replace(row, cell=verdicts.judged(row.cell, margin)) for row in _told_apart(found)]


def _told_apart(found: Sequence[Row]) -> list[Row]:
    """Marks the figures of different hardware under one device name, such as two phones on one cable one after the
    other."""
    measured = {(row.cell.device, row.cell.hardware) for row in found if row.cell.status == "ok" and row.measurement}
    names = [name for name, _ in measured]
    return [replace(row, cell=replace(row.cell, shares_name=names.count(row.cell.device) > 1)) for row in found]


def _of_model(build: Store, model: str, framework: str) -> Iterator[Row]:
    baseline = reference.read(build, model, framework)
    recipes, own = _recipes(build, model, framework), registry.names("recipes")
    for each in recipes.values():
        if special(each) and not _used(build, model, framework, each):
            continue
        recipe = each  # one from a file was stored with the model's exceptions
        if baseline.checkpoint is not None and each.name in own:
            recipe = of_model(each, baseline.checkpoint.spec)
        for target in registry.load_all("targets")[0]:
            cell = Cell(model, framework, recipe.name, target, None, False, "missing")
            yield from _of_target(build, baseline, cell, recipe)
    yield from _of_removed_plugins(build, model, framework, recipes)


def _used(build: Store, model: str, framework: str, recipe: Recipe) -> bool:
    """Whether a file or graph was made under a recipe, or failed."""
    names = "artifact.json", "failure.json", "graph.json"
    home = build.home(model, framework) / recipe.name
    return any(any(home.glob(f"*/{name}")) for name in names)


def _recipes(build: Store, model: str, framework: str) -> dict[str, Recipe]:
    """Every recipe by name, with those from files that the model was exported under: float recipes first, then by name.

    A file that cannot be read is left out; its exports are failed cells.
    """
    found = [module.RECIPE for module in registry.load_all("recipes")[0].values()]
    own = registry.names("recipes")
    for path in build.home(model, framework).glob("*/recipe.json"):
        recipe = store.read_or_warn(Recipe, path)
        if recipe is not None and recipe.name == path.parent.name and recipe.name not in own:
            found.append(recipe)
    found.sort(key=lambda recipe: (recipe.quantized, recipe.weights != "float32", recipe.name))
    return {recipe.name: recipe for recipe in found}


def _of_target(build: Store, baseline: Reference, cell: Cell, recipe: Recipe) -> Iterator[Row]:
    """The rows of one model, recipe and target: one, or one for each device that measured it."""
    folder = build.cell(cell.model, cell.framework, cell.recipe, cell.target)
    try:
        artifact = _artifact(folder, baseline, cell)
    except READ_ERRORS as error:
        yield Row(failed(cell, f"{error}: inv export{baseline.options(cell)}"), baseline.checkpoint)
        return
    if isinstance(artifact, str) or artifact is None:
        yield Row(_not_exported(build, folder, baseline, cell, recipe, artifact), baseline.checkpoint)
        return
    cell = replace(
        cell,
        size_bytes=artifact.size_bytes,
        parity=artifact.parity,
        graph_parity=artifact.graph_parity,
        coverage=artifact.coverage,
        unchecked=artifact.unchecked,
        warnings=warnings.of_coverage(artifact.coverage),
    )
    homes = {path.parent for name in ("measurement.json", "failure.json") for path in folder.glob(f"*/**/{name}")}
    found = [
        measured.row(build, home, artifact, baseline, replace(cell, device=device, threads=threads))
        for home, device, threads in sorted(
            (home, *store.device_and_threads(home.relative_to(folder))) for home in homes
        )
    ]
    hosts = [row for row in found if row.home and row.measurement and output_diff.is_host(row.measurement)]
    for row in found:
        elsewhere = row.home and row.measurement and not output_diff.is_host(row.measurement)
        yield measured.with_host_step(row, hosts, baseline) if elsewhere else row
    if not homes:
        yield Row(_not_measured(baseline, cell), baseline.checkpoint, artifact)


def _artifact(folder: Path, baseline: Reference, cell: Cell) -> Artifact | str | None:
    """The artifact; a sentence if it was made from other weights than the checkpoint's; None if there is none."""
    artifact = store.read(Artifact, folder / "artifact.json")
    if artifact is None:
        return None
    require_same(
        "artifact",
        (cell.model, cell.framework, cell.recipe, cell.target),
        (artifact.model, artifact.framework, artifact.recipe, artifact.target),
    )
    file = folder / safe_file_name(artifact.file)
    if not file.exists():
        raise Broken(f"{artifact.file} is missing")
    if store.size(file) != artifact.size_bytes:
        raise Broken(f"{artifact.file} has {store.size(file)} bytes; its manifest has {artifact.size_bytes}")
    checkpoint = baseline.checkpoint
    if checkpoint is not None and checkpoint.weights_sha256 != artifact.weights_sha256:
        return f"exported from other weights than the checkpoint's: inv export{baseline.options(cell)}"
    return artifact


def _not_exported(
    build: Store, folder: Path, baseline: Reference, cell: Cell, recipe: Recipe, stale: str | None
) -> Cell:
    """The cell of a combination without a valid file: unsupported, failed, or not exported yet."""
    reason = registry.load("targets", cell.target).supports(recipe, cell.framework)
    if reason is not None:
        return replace(cell, status="unsupported", reason=formatting.one_line(reason))
    try:
        failure = store.read(Failure, folder / "failure.json")
        if failure is not None and failure.status not in ("failed", "unsupported"):
            raise Broken(f"failure.json has the status {failure.status!r}")
        checkpoint = baseline.checkpoint
        if checkpoint is None or (failure and failure.key != keys.artifact(build, checkpoint, recipe, cell.target)):
            failure = None  # other code, tools or weights: the next export may succeed
    except READ_ERRORS as error:
        return failed(cell, error)
    if failure is not None:
        return replace(cell, status=failure.status, reason=formatting.one_line(failure.reason))
    if baseline.problem:
        return replace(cell, status=baseline.status, reason=baseline.problem)
    return replace(cell, reason=stale or f"not exported yet: inv export{baseline.options(cell)}")


def _not_measured(baseline: Reference, cell: Cell) -> Cell:
    """The cell of a file that no device has run: complete if no device of this machine can run it."""
    if baseline.problem:
        return replace(cell, status=baseline.status, reason=baseline.problem)
    if cell.unchecked is not None:
        return replace(cell, status="ok")
    return replace(cell, reason=f"not measured yet: inv bench{baseline.options(cell)}")


def _of_removed_plugins(build: Store, model: str, framework: str, recipes: dict[str, Recipe]) -> Iterator[Row]:
    """Exports whose recipe or target plug-in was removed or is broken: failed cells."""
    targets, broken = registry.load_all("targets")
    reasons = {**broken, **registry.load_all("recipes")[1]}
    for path in sorted(build.home(model, framework).glob("*/*/artifact.json")):
        recipe, target = path.parent.parent.name, path.parent.name
        if recipe not in recipes or target not in targets:
            what = f"recipe {recipe!r}" if recipe not in recipes else f"target {target!r}"
            why = reasons.get(recipe) or reasons.get(target) or f"unknown {what}"
            reason = formatting.one_line(f"{why}; its export is still in {path.parent}")
            yield Row(Cell(model, framework, recipe, target, None, False, "failed", reason))
