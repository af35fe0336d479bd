"""Export: a checkpoint under every recipe asked for becomes a file for every target asked for, each checked.

What is up to date costs nothing: planning reads manifests and loads no framework. What is not is made by one process
a target, side by side on the cores there are; each loads its converter once and works through its recipes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from pipeline import registry
from pipeline.core import Artifact, Checkpoint, Failure, Recipe, safe_file_name, to_json
from pipeline.errors import Broken, DiskFull, StageFailed, Unsupported
from pipeline.stages import quantize as quantizing
from pipeline.stages import train
from pipeline.system import proc, store
from pipeline.system.progress import say
from pipeline.system.store import Store

MANIFEST, FAILURE, LOG = "artifact.json", "failure.json", "export.log"
Work = tuple[train.Job, str]
"""What a target's process is to make: a job's model under a recipe."""


@dataclass(frozen=True)
class Outcome:
    """What became of one cell.

    Attributes:
        status: "ok", "unsupported" or "failed".
        artifact: the manifest where it is ok.
        fresh: it was made now; False where it was up to date.
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


def recipes(names: Sequence[str]) -> list[Recipe]:
    """Recipes by name."""
    return [registry.load("recipes", name).RECIPE for name in names]


def export(build: Store, job: train.Job, targets: Sequence[str], names: Sequence[str]) -> list[Outcome]:
    """Makes what is missing of targets × recipes, and what those need before it; see `export_all`."""
    return export_all(build, [job], targets, names)


def export_all(build: Store, jobs: Sequence[train.Job], targets: Sequence[str], names: Sequence[str]) -> list[Outcome]:
    """Makes what is missing of jobs × targets × recipes: a target's process serves every framework.

    Args:
        jobs: one a framework.

    Raises:
        MissingExtra: what makes a job's graphs is not installed; nothing is trained then.

    Returns:
        One outcome a cell, in the order asked for; a failed cell does not keep others from being made.
    """
    done = [current(build, job, targets, names) for job in jobs]
    if None not in done:
        return [outcome for outcomes in done for outcome in outcomes or []]
    for job, outcomes in zip(jobs, done, strict=True):
        if outcomes is None:
            registry.require(registry.load("frameworks", job.framework).GRAPHS)
    with store.lock(build, f"export of {jobs[0].model}"):
        wanted = recipes(names)
        todo: dict[str, list[Work]] = {}
        for job in jobs:
            for target, recipe in _prepared(build, job, targets, wanted):
                todo.setdefault(target, []).append((job, recipe))
        made = _run_workers(build, todo)
        outcomes = []
        for job in jobs:
            checkpoint = _checkpoint(build, job)
            outcomes += [_outcome(build, checkpoint, r, t, made) for r in wanted for t in targets]
        return outcomes


def _prepared(build: Store, job: train.Job, targets: Sequence[str], wanted: Sequence[Recipe]) -> list[tuple[str, str]]:
    """(target, recipe) of what is missing of a job, whose checkpoint and graphs are then there."""
    checkpoint = train.train(build, job)
    model = train.model_of(checkpoint, job)
    todo = [
        (target, recipe)
        for target in targets
        for recipe in wanted
        if _ready(build, checkpoint, recipe, target) is None
        and registry.load("targets", target).supports(recipe, job.framework) is None
    ]
    if todo:
        quantizing.quantize(build, model, checkpoint, None)
    for recipe in wanted:
        if recipe.static and recipe in [needed for _, needed in todo]:
            quantizing.quantize(build, model, checkpoint, recipe)
    return [(target, recipe.name) for target, recipe in todo]


def current(build: Store, job: train.Job, targets: Sequence[str], names: Sequence[str]) -> list[Outcome] | None:
    """All outcomes, if every cell is up to date; else None. Loads no framework and writes nothing."""
    checkpoint = train.ready(build, job)
    if checkpoint is None:
        return None
    outcomes = [_outcome(build, checkpoint, r, t, set()) for r in recipes(names) for t in targets]
    return outcomes if all(o.status in ("ok", "unsupported") for o in outcomes) else None


def refuse_unsupported(framework: str, targets: Sequence[str], names: Sequence[str]) -> None:
    """For a command that names every cell itself.

    Raises:
        Unsupported: a target cannot do a recipe; its reason is the message.
    """
    for target in targets:
        for recipe in recipes(names):
            reason = registry.load("targets", target).supports(recipe, framework)
            if reason:
                raise Unsupported(f"{target} does not support {recipe.name}: {reason}")


def raise_if_failed(outcomes: Sequence[Outcome]) -> None:
    """
    Raises:
        StageFailed: an export failed; each one's reason, the last lines of its log and the log's path are said before.
    """
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
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
        more = f", and {len(reasons) - 1} other reasons" if len(reasons) > 1 else ""
        raise StageFailed(f"{len(failed)} of {len(outcomes)} exports failed ({cells}): {reasons[0]}{more}")


def key(checkpoint: Checkpoint, recipe: Recipe, target: str) -> str:
    """Hash of all that decides what the file is."""
    module = registry.load("targets", target)
    return store.digest([
        quantizing.key(checkpoint, recipe if recipe.static else None), to_json(recipe),
        registry.versions(module.TOOLS), registry.source_hash("targets", target),
    ])  # fmt: skip


def _ready(build: Store, checkpoint: Checkpoint, recipe: Recipe, target: str) -> Artifact | None:
    """The artifact that is there, if it is of these inputs and its file is whole."""
    folder = build.cell(checkpoint.spec.name, checkpoint.framework, recipe.name, target)
    artifact = store.read_or_warn(Artifact, folder / MANIFEST)
    if artifact is None or artifact.key != key(checkpoint, recipe, target):
        return None
    path = folder / safe_file_name(artifact.file)
    if not path.exists() or store.sha256(path) != artifact.sha256:
        say(f"{path} is not what its manifest says (sha256 differs); made anew")
        return None
    return artifact


def _outcome(
    build: Store, checkpoint: Checkpoint, recipe: Recipe, target: str, made: set[tuple[str, str, str]]
) -> Outcome:
    module = registry.load("targets", target)
    reason = module.supports(recipe, checkpoint.framework)
    if reason:
        return Outcome(recipe.name, target, "unsupported", reason, framework=checkpoint.framework)
    folder = build.cell(checkpoint.spec.name, checkpoint.framework, recipe.name, target)
    artifact = _ready(build, checkpoint, recipe, target)
    if artifact is not None:
        fresh = (checkpoint.framework, recipe.name, target) in made
        return Outcome(
            recipe.name,
            target,
            "ok",
            None,
            artifact,
            folder / artifact.file,
            folder / LOG,
            fresh,
            framework=checkpoint.framework,
        )
    failure = store.read_or_warn(Failure, folder / FAILURE)
    if failure is None or failure.key != key(checkpoint, recipe, target):
        return Outcome(recipe.name, target, "failed", "not made", log=folder / LOG, framework=checkpoint.framework)
    return Outcome(
        recipe.name, target, failure.status, failure.reason, log=folder / LOG, framework=checkpoint.framework
    )


# -- the processes -----------------------------------------------------------------------------------------------------


def _run_workers(build: Store, todo: dict[str, list[Work]]) -> set[tuple[str, str, str]]:
    """One process a target, as many at once as there are cores.

    Returns:
        (framework, recipe, target) of what was made.
    """
    if not todo:
        return set()
    cores = os.cpu_count() or 1
    say(f"exporting {sum(map(len, todo.values()))} files for {', '.join(todo)}")
    with ThreadPoolExecutor(cores) as pool:
        threads = max(1, cores // len(todo))
        stop = Event()
        running = [pool.submit(_run_worker, build, target, work, threads, stop) for target, work in todo.items()]
        try:
            return {cell for future in running for cell in future.result()}
        except BaseException:
            stop.set()
            while not all(future.cancel() or future.done() for future in running):
                proc.end_all()
                time.sleep(0.05)
            raise


def _run_worker(build: Store, target: str, work: list[Work], threads: int, stop: Event) -> set[tuple[str, str, str]]:
    """Works through a target's recipes; a process that dies costs one of them, and the next goes on after it.

    Args:
        stop: is set when another worker or the user ended it all.

    Returns:
        (framework, recipe, target) of what was made.

    Raises:
        DiskFull: a worker found no space.
    """
    left, made = list(work), set()
    several = len({job.framework for job, _ in work}) > 1

    def named(job: train.Job, recipe: str) -> str:
        return f"{target} {recipe}" + (f" ({job.framework})" if several else "")

    def each(line: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            raise Broken(f"the {target} exporter said {line!r}") from None
        if event.get("disk_full"):
            raise DiskFull(event["disk_full"])
        job, recipe = left.pop(0)  # it works in this order
        if event["status"] == "ok":
            made.add((job.framework, recipe, target))
        say(f"  {named(job, recipe)}: {event['says']}")

    while left and not stop.is_set():
        request = {"target": target, "work": [[train.plain(build, job), recipe] for job, recipe in left]}
        argv = [sys.executable, "-m", "pipeline.stages._export_process", json.dumps(request)]
        # A fixed hash seed: converters iterate over sets, and the same export should be the same file.
        done = proc.watch(argv, each, {"OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": "0"})
        if stop.is_set():
            break  # ended by us: nothing is known of what it was at
        if left and done.code != 0:
            job, recipe = left.pop(0)  # the one at work when the process died
            _died(build, job, recipe, target, done)
            say(f"  {named(job, recipe)}: failed: {done.reason}")
        elif left:
            raise Broken(f"the {target} exporter ended without {', '.join(recipe for _, recipe in left)}")
    return made


def _died(build: Store, job: train.Job, recipe: str, target: str, done: proc.Done) -> None:
    """Keeps how a process died where its result would be."""
    checkpoint = _checkpoint(build, job)
    folder = build.cell(checkpoint.spec.name, checkpoint.framework, recipe, target)
    (which,) = recipes([recipe])
    store.write(folder / FAILURE, Failure("failed", done.reason, LOG, key(checkpoint, which, target)))


def _checkpoint(build: Store, job: train.Job) -> Checkpoint:
    """What was there when this export began; its lock is held."""
    checkpoint = train.ready(build, job)
    assert checkpoint is not None
    return checkpoint


def line(outcome: Outcome) -> str:
    """An outcome for the terminal: where the file is, how large, and how it was checked."""
    cell = f"{outcome.target:11} {outcome.recipe:17}"
    artifact = outcome.artifact
    if artifact is None:
        return f"{cell} {outcome.status}: {outcome.reason}"
    return f"{cell} {outcome.path}  {artifact.size_bytes:,} bytes  {checked(artifact)}"


def checked(artifact: Artifact) -> str:
    """How an artifact compares with what it was made from."""
    parity = artifact.parity
    if parity is None:
        return artifact.unchecked or "not checked"
    return f"{parity.snr_db:.1f} dB, top-1 agreement {parity.top1_agreement:.1%} with the {parity.against}"
