"""Export: every target of a plan under every recipe becomes a file, and every file is checked.

Up-to-date files cost nothing: planning reads manifests and loads no framework. For the rest, one process per target
loads its converter once and works through the recipes; up to one process per core runs at a time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from pipeline import errors, registry, tasks
from pipeline.core import Artifact, Checkpoint, Failure, ModelSpec, Parity, Recipe, safe_file_name, to_json
from pipeline.errors import Broken, DiskFull, ExportsFailed
from pipeline.recipes import _exceptions
from pipeline.registry import Plugin
from pipeline.results import keys
from pipeline.stages import quantize as quantizing
from pipeline.stages import train
from pipeline.stages.plan import Job, Plan
from pipeline.system import cpus, proc, store
from pipeline.system.progress import counter, say
from pipeline.system.store import Store
from pipeline.targets import Target

MANIFEST, FAILURE, LOG = "artifact.json", "failure.json", "export.log"
Work = tuple[Job, Recipe]
"""What a target's process makes: a job's model under a recipe."""
Made = set[tuple[str, str, str]]
"""(framework, recipe, target) of files that were just made."""


@dataclass(frozen=True)
class Outcome:
    """The result for one cell.

    Attributes:
        status: "ok", "unsupported" or "failed".
        artifact: the manifest, where the status is "ok".
        fresh: whether it was made now, and not already up to date.
    """

    recipe: str
    target: str
    status: str
    reason: str | None = None
    artifact: Artifact | None = None
    path: Path | None = None
    log: Path | None = None
    fresh: bool = False
    framework: str = "torch"


def export(build: Store, plan: Plan) -> list[Outcome]:
    """Makes the files of a plan that are missing or out of date, and what they depend on.

    Raises:
        StageFailed: a graph has not been trained yet; nothing is exported then.
        MissingExtra: a package that captures graphs is not installed; nothing is trained then.
        PipelineError: the only framework of the plan cannot be trained. One of several fails its cells only.

    Returns:
        One outcome per cell, in the plan's order. A failed cell does not stop the others.
    """
    done = [current(build, plan, job) for job in plan.jobs]
    if None not in done:
        return [outcome for outcomes in done for outcome in outcomes or []]
    _require_trained(build, plan)
    for job, outcomes in zip(plan.jobs, done, strict=True):
        if outcomes is None:
            registry.require(job.framework.module.GRAPHS)
    with store.lock(build, f"export of {plan.model.spec.name}"):
        todo: dict[str, list[Work]] = {}
        failed: dict[str, str] = {}
        for job in plan.jobs:
            try:
                train.ensure(build, job)
            except train.OWN_FAILURES as error:
                if len(plan.jobs) == 1:
                    raise
                failed[job.framework.name] = str(error)
                say(f"{job.framework.name}: failed: {error}")
                continue
            _keep_recipes(build, plan, job)
            for target, recipe in _prepared(build, plan, job):
                todo.setdefault(target.name, []).append((job, recipe))
        made = _run_workers(build, {t: todo[t.name] for t in plan.targets if t.name in todo})
        outcomes = []
        for job in plan.jobs:
            framework = job.framework.name
            if framework in failed:  # it has no checkpoint
                reason, cells = failed[framework], [(r.name, t.name) for r in plan.recipes for t in plan.targets]
                outcomes += [Outcome(*cell, "failed", reason, framework=framework) for cell in cells]
                continue
            checkpoint = _checkpoint(build, job)
            outcomes += [_outcome(build, job, checkpoint, r, t, made) for r in plan.recipes for t in plan.targets]
        return outcomes


def _require_trained(build: Store, plan: Plan) -> None:
    """
    Raises:
        StageFailed: a recipe's graph must be trained first.
    """
    for job in plan.jobs:
        for recipe in plan.recipes:
            if recipe.training == "qat":
                checkpoint = train.ready(build, job)
                if checkpoint is None or quantizing.ready(build, job, checkpoint, recipe) is None:
                    raise quantizing.untrained(job, recipe)


def _keep_recipes(build: Store, plan: Plan, job: Job) -> None:
    """Writes the recipes that came from files, so that results know them."""
    own = registry.names("recipes")
    for recipe in plan.recipes:
        if recipe.name not in own:
            path = build.recipe(plan.model.spec.name, job.framework.name, recipe.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            store.write(path, recipe)


def _prepared(build: Store, plan: Plan, job: Job) -> list[tuple[Plugin[Target], Recipe]]:
    """(target, recipe) of the job's missing files; the checkpoint and the graphs that they need exist afterwards."""
    checkpoint = train.ensure(build, job)
    todo = [
        (target, recipe)
        for target in plan.targets
        for recipe in plan.recipes
        if _ready(build, job, checkpoint, recipe, target) is None
        and target.module.supports(recipe, job.framework.name) is None
    ]
    if not todo:
        return []
    failure = _failure(build, job, checkpoint, None)
    captured = quantizing.ready(build, job, checkpoint, None)
    if captured is not None:
        for recipe in dict.fromkeys(recipe for _, recipe in todo):
            _exceptions.check(recipe, captured.operations, checkpoint.spec.float_modules)
    failures = {
        recipe.name: failure or _failure(build, job, checkpoint, recipe if recipe.static else None)
        for recipe in dict.fromkeys(recipe for _, recipe in todo)
    }
    for target, recipe in todo:
        if found := failures[recipe.name]:
            reason, log = found
            folder = build.cell(checkpoint.spec.name, checkpoint.framework, recipe.name, target.name)
            store.remove(folder / MANIFEST)
            cell_key = key(build, job, checkpoint, recipe, target)
            store.write(folder / FAILURE, Failure("failed", reason, os.path.relpath(log, folder), cell_key))
    return [(target, recipe) for target, recipe in todo if failures[recipe.name] is None]


def _failure(build: Store, job: Job, checkpoint: Checkpoint, recipe: Recipe | None) -> tuple[str, Path] | None:
    """Makes a graph: the float one (None) or a static recipe's. Returns the reason and the log if that fails: the cells
    that need the graph fail, and everything else goes on.

    Raises:
        DiskFull: the disk is full.
    """
    try:
        quantizing.quantize(build, job, checkpoint, recipe)
    except DiskFull:
        raise
    except Exception as error:  # the user's code, torch.export and the quantizer may raise anything
        reason = errors.reason(error)
        what = f"quantizing ({recipe.name})" if recipe else "capturing"
        say(f"{what} {checkpoint.spec.name} ({checkpoint.framework}) failed: {reason}")
        return reason, quantizing.log(build, checkpoint, recipe)
    return None


def current(build: Store, plan: Plan, job: Job) -> list[Outcome] | None:
    """All outcomes of a job, if every cell is up to date; otherwise None. Loads no framework and writes nothing."""
    checkpoint = train.ready(build, job)
    if checkpoint is None:
        return None
    outcomes = [_outcome(build, job, checkpoint, r, t, set()) for r in plan.recipes for t in plan.targets]
    return outcomes if all(o.status in ("ok", "unsupported") for o in outcomes) else None


def raise_if_failed(outcomes: Sequence[Outcome]) -> None:
    """
    Raises:
        ExportsFailed: an export failed. Each failure's reason, the last lines of its log and the log's path are printed
            first.
    """
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in {outcome.log: outcome for outcome in reversed(failed)}.values():  # several cells may share a log
        last = outcome.log.read_text(errors="replace").split("\n") if outcome.log and outcome.log.is_file() else []
        last = [line for line in last if line.strip()][-5:]
        if last:
            say(f"{outcome.target} {outcome.recipe}: {outcome.reason}")
            for line in last:
                say(f"    {line[:200]}")
            say(f"    (log: {outcome.log})")
    if failed:
        cells = ", ".join(f"{outcome.target} {outcome.recipe}" for outcome in failed)
        reasons = list(dict.fromkeys(outcome.reason for outcome in failed))
        more = f", and {len(reasons) - 1} other reason{'s' * (len(reasons) > 2)}" if len(reasons) > 1 else ""
        raise ExportsFailed(f"{len(failed)} of {len(outcomes)} exports failed ({cells}): {reasons[0]}{more}")


def key(build: Store, job: Job, checkpoint: Checkpoint, recipe: Recipe, target: Plugin[Target]) -> str:
    """See `keys.artifact`."""
    return keys.artifact(build, checkpoint, recipe, target.name)


def _ready(build: Store, job: Job, checkpoint: Checkpoint, recipe: Recipe, target: Plugin[Target]) -> Artifact | None:
    """The existing artifact, if it was made from these inputs and its file is intact."""
    folder = build.cell(checkpoint.spec.name, checkpoint.framework, recipe.name, target.name)
    artifact = store.read_or_warn(Artifact, folder / MANIFEST)
    if artifact is None or artifact.key != key(build, job, checkpoint, recipe, target):
        return None
    path = folder / safe_file_name(artifact.file)
    if not path.exists() or store.sha256(path) != artifact.sha256:
        say(f"{path} does not match its manifest (sha256 differs): exporting again")
        return None
    return artifact


def _outcome(
    build: Store, job: Job, checkpoint: Checkpoint, recipe: Recipe, target: Plugin[Target], made: Made
) -> Outcome:
    framework = job.framework.name
    folder = build.cell(checkpoint.spec.name, framework, recipe.name, target.name)

    def outcome(status: str, reason: str | None = None, **more: Any) -> Outcome:
        return Outcome(recipe.name, target.name, status, reason, framework=framework, **more)

    reason = target.module.supports(recipe, framework)
    if reason:
        return outcome("unsupported", reason)
    artifact = _ready(build, job, checkpoint, recipe, target)
    if artifact is not None:
        fresh = (framework, recipe.name, target.name) in made
        return outcome("ok", artifact=artifact, path=folder / artifact.file, log=folder / LOG, fresh=fresh)
    failure = store.read_or_warn(Failure, folder / FAILURE)
    if failure is None or failure.key != key(build, job, checkpoint, recipe, target):
        return outcome("failed", "not made", log=folder / LOG)
    return outcome(failure.status, failure.reason, log=(folder / failure.log).resolve())


# -- the processes -----------------------------------------------------------------------------------------------------


def _run_workers(build: Store, todo: Mapping[Plugin[Target], Sequence[Work]]) -> Made:
    """Runs one process per target, up to one per core at a time."""
    if not todo:
        return set()
    cores = cpus.count()
    count = sum(map(len, todo.values()))
    say(f"exporting {count} files for {', '.join(target.name for target in todo)}")
    with counter("exporting", count, "file") as step, ThreadPoolExecutor(cores) as pool:
        threads = max(1, cores // len(todo))
        stop = Event()
        running = [pool.submit(_run_worker, build, target, work, threads, stop, step) for target, work in todo.items()]
        try:
            return {cell for future in running for cell in future.result()}
        except BaseException:
            stop.set()
            while not all(future.cancel() or future.done() for future in running):
                proc.end_all()
                time.sleep(0.05)
            raise


def _run_worker(
    build: Store, target: Plugin[Target], work: Sequence[Work], threads: int, stop: Event, step: Callable[[], None]
) -> Made:
    """Works through a target's recipes. If a process dies, its current recipe fails, and a new
    process exports the rest.

    Args:
        stop: set to end the export: another worker failed, or the user interrupted it.
        step: called after each file, even if it failed.

    Raises:
        DiskFull: the disk is full.
    """
    left, made = list(work), Made()
    several = len({job.framework.name for job, _ in work}) > 1

    def named(job: Job, recipe: Recipe) -> str:
        return f"{target.name} {recipe.name}" + (f" ({job.framework.name})" if several else "")

    def each(line: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            raise Broken(f"the exporter for {target.name} printed {line!r}, which is no JSON") from None
        if event.get("disk_full"):
            raise DiskFull(event["disk_full"])
        job, recipe = left.pop(0)  # in the order of the request
        if event["status"] == "ok":
            made.add((job.framework.name, recipe.name, target.name))
        say(f"  {named(job, recipe)}: {event['says']}")
        step()

    while left and not stop.is_set():
        argv = process(build, target.name, left)
        # Converters iterate over sets: with a fixed hash seed, the same export gives the same file.
        done = proc.watch(argv, each, {"OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": "0"})
        if stop.is_set():
            break  # we ended it
        if left:
            job, recipe = left.pop(0)  # the recipe that the process was exporting
            reason = done.reason if done.code != 0 else "the export's process ended early, with exit code 0"
            _died(build, job, recipe, target, reason)
            say(f"  {named(job, recipe)}: failed: {reason}")
            step()
    return made


def process(build: Store, target: str, work: Sequence[Work]) -> list[str]:
    """The command of the process that makes a target's files, in this order."""
    request = {
        "build": str(build.root),
        "target": target,
        "work": [{"job": job.to_json(), "recipe": to_json(recipe)} for job, recipe in work],
    }
    return [sys.executable, "-m", keys.FILES, json.dumps(request)]


def _died(build: Store, job: Job, recipe: Recipe, target: Plugin[Target], reason: str) -> None:
    """Writes the end of a process as the failure of its cell."""
    checkpoint = _checkpoint(build, job)
    folder = build.cell(checkpoint.spec.name, checkpoint.framework, recipe.name, target.name)
    store.write(folder / FAILURE, Failure("failed", reason, LOG, key(build, job, checkpoint, recipe, target)))


def _checkpoint(build: Store, job: Job) -> Checkpoint:
    """The checkpoint that this export trained or found. The caller holds the lock.

    Raises:
        Broken: it is not up to date any more.
    """
    checkpoint = train.ready(build, job)
    if checkpoint is None:
        raise Broken(f"the checkpoint of {job.model.spec.name} changed during the export: run the command again")
    return checkpoint


def line(outcome: Outcome) -> str:
    """An outcome for the terminal, beside its status: the file's path, size and check, or the reason."""
    cell = f"{outcome.target:11} {outcome.recipe:17}"
    artifact = outcome.artifact
    if artifact is None:
        return f"{cell} {outcome.reason}"
    return f"{cell} {outcome.path}  {artifact.size_bytes:,} bytes  {checked(artifact)}"


def checked(artifact: Artifact) -> str:
    """How an artifact compares with its graph, a quantized graph with the float model, and what is quantized."""
    parity, graph, coverage = artifact.parity, artifact.graph_parity, artifact.coverage
    text = _compared(artifact.spec, parity) if parity else artifact.unchecked or "not checked"
    if graph:
        text += f" (the graph: {_compared(artifact.spec, graph)})"
    return f"{text}; {coverage.multiply_adds:.1%} of the multiply-adds quantized" if coverage else text


def _compared(spec: ModelSpec, parity: Parity) -> str:
    return f"{parity.snr_db:.1f} dB{tasks.agreement(spec, parity.top1_agreement)} with the {parity.against}"
