"""Doors: each parses its options, calls one function of pipeline/ and prints what came of it.

Nothing but invoke and the error tree is imported until a door is opened: `inv --list` must load no framework.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import select
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit, ParseError
from invoke.program import Program
from invoke.tasks import task

from pipeline.errors import BadOption, PipelineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline import android
    from pipeline.core import Checkpoint, Device
    from pipeline.results.instruction_budget import Budget, Comparison
    from pipeline.stages.export import Outcome
    from pipeline.stages.train import Job
    from pipeline.system.store import Store

ROOT = Path(__file__).parent
FROM = Path(os.environ.get("LASTMILE_FROM", ""))
"""Where the user stands, which paths are meant from: ./inv runs here, wherever it is called."""

HELP = {
    "model": "a name from `inv models` or the path of a model folder; options behind a colon: name:width=0.5",
    "framework": "one that the model is written in, several with commas between, or all: torch, keras",
    "from_": "the framework whose checkpoint is there",
    "to_": "the framework that is to have it",
    "target": "names from `inv targets`, with commas between, or all",
    "recipe": "names from `inv recipes`, with commas between, or all",
    "device": "a name from `inv devices`",
    "data": "the dataset: a folder or archive; remembered for later commands on this model",
    "weights": "your own weights in place of training: .safetensors, or .pt read with weights_only; .keras",
    "accelerator": "auto (a GPU where there is one), cpu or cuda",
    "epochs": "passes over the training split",
    "batch_size": "samples a step",
    "lr": "peak learning rate",
    "seed": "of initial weights, order and augmentation",
    "resume": "go on where an interrupted training with the same settings ended (--no-resume: afresh)",
    "devices": "GPUs, or processes on the CPU, that train together on this machine",
    "num_nodes": "machines that train together; run the same command on each",
    "node_rank": "which of them this is, from 0; machine 0 keeps the checkpoint",
    "main_address": "HOST or HOST:PORT of machine 0, where they meet",
    "threads": "threads of the runtime: 1, or 1,2,4, or all (1 to all cores of the device)",
    "check": "a file of recorded counts (benchmarks/instructions.json): fail where one grew by more than 2 %",
    "record": "write the counts of this bench into such a file, beside those that are there",
    "samples": "evaluate so many samples, of each class its share, not the whole test split",
    "min_runs": "measure at least so many runs …",
    "min_seconds": "… and for at least so long",
    "time_limit": "seconds after which a measurement is given up",
    "again": "measure also what is up to date",
    "parts": "writing, graphs, training, debugging, visualisation, deployment, with commas between, or all",
    "rounds": "how often each figure is measured in each framework, in turn",
    "accuracy": "the percentage of the validation split whose time is taken; by default the highest that all reach",
    "image": "a picture file: JPEG, PNG, BMP, WebP or GIF",
    "json": "one JSON object a cell",
    "debug": "show the traceback of an error",
    "abi": "processors, with commas between: arm64-v8a, x86_64",
    "engine": "runtimes in the app, with commas between: litert, executorch",
    "release": "nothing that a debugger could enter, shrunk (the default)",
    "keystore": "sign with this Java keystore, its password in LASTMILE_KEYSTORE_PASSWORD; else with the debug key",
    "key_alias": "the keystore's key, where it has several",
    "aar": "make the inference library alone, for another app",
    "phone": "make also what an emulated phone runs",
    "board": "pi4, pi5 or phone",
    "stop": "end the board, or all boards where none is named",
    "dataset": "one with an official archive: cifar10",
    "to": "where the archive goes: a folder or file name",
    "match": "run tests whose names match this pytest expression",
}


def door(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """An invoke task whose errors become one line and exit code 2, with --debug for the traceback."""

    def wrap(body: Callable[..., Any]) -> Any:
        @functools.wraps(body)
        def opened(*args: Any, debug: bool = False, **kwargs: Any) -> None:
            signal.signal(signal.SIGTERM, _terminate)
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # which is what nohup asks for
                signal.signal(signal.SIGHUP, _terminate)
            traced = debug and not own
            try:
                body(*args, **({**kwargs, "debug": debug} if own else kwargs))
                sys.stdout.flush()
            except PipelineError as error:
                if traced:
                    raise
                raise Exit(f"error: {_one_line(error)}", code=2) from error
            except OSError as error:
                if isinstance(error, BrokenPipeError) and _nobody_reads():
                    raise Exit(code=128 + signal.SIGPIPE) from None
                if traced:
                    raise
                raise Exit(f"error: {_of_the_system(error)}", code=2) from error
            except KeyboardInterrupt as error:
                code = 128 + (error.args[0] if error.args else signal.SIGINT)
                raise Exit("interrupted; the next run goes on from here", code=code) from None

        signature = inspect.signature(body)
        own = signature.parameters.get("debug")  # a task for which the word means something else
        last = inspect.Parameter("debug", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=False)
        opened.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *([] if own else [last])])  # type: ignore[attr-defined]
        known = {name: HELP[name] + _default(p) for name, p in opened.__signature__.parameters.items() if name in HELP}  # type: ignore[attr-defined]
        if own:
            known["debug"] = "an app that a debugger and run-as may enter"
        return task(help=known, auto_shortflags=False, **options)(opened)

    return wrap


def _default(parameter: inspect.Parameter) -> str:
    """What an option's help says of its default; a switch's is off, and none is what the help describes."""
    return f" (default: {parameter.default})" if isinstance(parameter.default, str) else ""


def _terminate(number: int, _: object) -> NoReturn:
    """SIGTERM, as `timeout` and CI send it, and SIGHUP, as a terminal that is closed or a lost connection does, end a
    command as Ctrl-C does: with all that it started."""
    if number == signal.SIGHUP:
        signal.signal(number, signal.SIG_IGN)  # it comes from the shell and from the kernel
    raise KeyboardInterrupt(number)


def _nobody_reads() -> bool:
    """Whether who read this command's output has gone, as `head` does when it has enough.

    What is still on its way there then goes nowhere: it would fail again when Python ends.
    A pipe to another program may break too, and that is an error.
    """
    outputs = select.poll()
    for number in (1, 2):
        outputs.register(number, 0)
    gone = [number for number, event in outputs.poll(0) if event & select.POLLERR]
    for number in gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return bool(gone)


def _ends_as_bad_input(read: Callable[[Program], None]) -> Callable[[Program], None]:
    @functools.wraps(read)
    def reads(program: Program) -> None:
        try:
            read(program)
        except ParseError as error:
            more = f"inv --help {error.context.name}" if error.context and error.context.name else "inv --list"
            raise Exit(f"error: {_one_line(error).rstrip('!')} ({more} says what there is)", code=2) from error

    return reads


# invoke itself ends with 1 for words that it does not know, which to a script would be a job that failed. It loads this
# file before it reads them.
for _step in ("parse_tasks", "parse_cleanup"):
    setattr(Program, _step, _ends_as_bad_input(getattr(Program, _step)))


# -- the flow ----------------------------------------------------------------------------------------------------------


@door()
def train(
    _c: Context, model: str = "digits_cnn", framework: str = "torch", data: str | None = None,
    weights: str | None = None, accelerator: str = "auto", epochs: str | None = None, batch_size: str | None = None,
    lr: str | None = None, seed: str | None = None, resume: bool = True, devices: str = "1", num_nodes: str = "1",
    node_rank: str = "0", main_address: str | None = None,
) -> None:  # fmt: skip
    """Train a model (or adopt --weights), unless the checkpoint is up to date; on several devices or machines."""
    from dataclasses import replace

    from pipeline.stages import train as training
    from pipeline.system import store

    choices: dict[str, Any] = {
        "epochs": _number("epochs", epochs, int), "batch_size": _number("batch-size", batch_size, int),
        "lr": _number("lr", lr, float), "seed": _number("seed", seed, int), "accelerator": accelerator,
        "resume": resume, "devices": _whole("devices", devices), "num_nodes": _whole("num-nodes", num_nodes),
        "node_rank": _whole("node-rank", node_rank), "main_address": main_address,
    }  # fmt: skip
    build = _build()
    for plain in _jobs(model, framework, data, weights):
        job = replace(plain, **choices)
        group = training.group(job)
        if group.follows:
            training.take_part(build, job)
            if group.rank is None:
                host = group.address.partition(":")[0] or "machine 0"
                print(f"took part as machine {group.node_rank} of {group.nodes}; the checkpoint is on {host}")
            continue
        checkpoint = training.ready(build, job)
        how = training.renewal(checkpoint) if checkpoint else None
        if checkpoint is None or how:
            with store.lock(build, f"training of {model}"):
                checkpoint = training.make(build, job, how) if how else training.train(build, job)
        _print_checkpoint(build, checkpoint)


@door()
def convert(_c: Context, from_: str, to_: str, model: str = "digits_cnn", data: str | None = None) -> None:
    """Carry a checkpoint's weights into the same network in another framework."""
    from pipeline.stages import convert as converting
    from pipeline.system import store

    (job,) = _jobs(model, from_, data, None)
    _jobs(model, to_, data, None)  # refused before anything is trained
    converting.refuse_same(from_, to_)
    build = _build()
    with store.lock(build, f"conversion of {model}"):
        checkpoint = converting.convert(build, job, to_)
    _print_checkpoint(build, checkpoint)


@door()
def export(
    _c: Context, model: str = "digits_cnn", target: str = "all", recipe: str = "fp32", framework: str = "torch",
    data: str | None = None, weights: str | None = None,
) -> None:  # fmt: skip
    """Export to every target under every recipe asked for, each file checked against the model."""
    _export(_build(), _jobs(model, framework, data, weights), target, recipe, show=True)


@door()
def push(
    _c: Context, model: str = "digits_cnn", target: str = "all", recipe: str = "fp32", framework: str = "torch",
    device: str = "local", data: str | None = None, weights: str | None = None,
) -> None:  # fmt: skip
    """Send artifacts and evaluation data to a device; what is there already is not sent again."""
    from pipeline import devices
    from pipeline.stages import push as pushing

    there = devices.find(device)
    jobs = _jobs(model, framework, data, weights)
    _refuse_unmeasurable(device, target)
    build = _build()
    outcomes = _export(build, jobs, target, recipe)
    done = [pushing.push(build, job, there, _of(job, outcomes)) for job in jobs]
    print(f"{device}: {sum(count for count, _ in done)} files there, {sum(sent for _, sent in done):,} bytes sent")


@door()
def bench(
    _c: Context, model: str = "digits_cnn", target: str = "all", recipe: str = "fp32", framework: str = "torch",
    device: str = "local", data: str | None = None, weights: str | None = None, threads: str = "1",
    min_runs: str = "64", min_seconds: str = "1", time_limit: str = "3600", again: bool = False,
    samples: str | None = None, check: str | None = None, record: str | None = None,
) -> None:  # fmt: skip
    """Measure size, load, latency, memory and accuracy on a device; --check fails where instructions grew."""
    from dataclasses import replace

    from pipeline import devices
    from pipeline.report import terminal
    from pipeline.results import collect, instruction_budget
    from pipeline.stages import _threads as numbers_of_threads
    from pipeline.stages import measure

    there, numbers = devices.find(device), numbers_of_threads.wanted(threads)
    options = measure.Options(
        min(numbers, default=1), _whole("min-runs", min_runs), _real("min-seconds", min_seconds),
        _real("time-limit", time_limit), again or bool(check or record), _number("samples", samples, int),
    )  # fmt: skip
    options.check()
    recorded = _budget(there, check, record)
    jobs = _jobs(model, framework, data, weights)
    _refuse_unmeasurable(device, target)
    build = _build()
    numbers = numbers_of_threads.on(build, there, _names("targets", target), numbers)
    outcomes = _export(build, jobs, target, recipe)
    failed = [
        lost
        for job in jobs
        for number in numbers
        for lost in measure.bench(build, job, there, _of(job, outcomes), replace(options, threads=number))
    ]
    wanted = {(outcome.target, outcome.recipe) for outcome in outcomes}
    cells = collect.cells(build, [(_name(job), job.framework) for job in jobs])
    print(terminal.table([c for c in cells if (c.target, c.recipe) in wanted and c.device in (device, None)]))
    if failed:
        raise failed[0]
    if check or record:
        counts = [
            instruction_budget.count(found) for number in numbers for found in measure.kept(outcomes, there, number)
        ]
        if not counts:
            raise BadOption(f"{device} runs none of these: there is nothing to count")
        if record:
            instruction_budget.record(_place(record), counts)
            print(f"{record}: {len(counts)} counts recorded")
        else:
            _hold(instruction_budget.compare(counts, recorded, there, wanted))


@door()
def trace(
    _c: Context, image: str, device: str = "local", model: str = "digits_cnn", target: str = "tflite",
    recipe: str = "fp32", framework: str = "torch", data: str | None = None, weights: str | None = None,
) -> None:  # fmt: skip
    """Follow one picture here and on a device, from its pixels to the outputs: where do they first differ?"""
    from pipeline import devices
    from pipeline.stages import push as pushing
    from pipeline.stages import trace as tracing

    there, picture = devices.find(device), _place(image)
    tracing.read(picture)  # refused before anything is made for it
    jobs = _jobs(model, framework, data, weights)
    _refuse_unmeasurable(device, target)
    build = _build()
    outcomes = _export(build, jobs, target, recipe)
    found = [
        tracing.table(tracing.trace(build, job, there, artifact, path, picture), artifact.spec.labels)
        for job in jobs
        for artifact, path in pushing.runnable(_of(job, outcomes), there)
    ]
    if not found:
        raise BadOption(f"{device} runs none of {target} {recipe}")
    print("\n\n".join(found))


@door()
def results(_c: Context, json: bool = False, framework: str = "all") -> None:
    """Print every cell that was exported or measured."""
    from pipeline import core
    from pipeline.report import terminal
    from pipeline.results import collect as reading

    build = _build()
    cells = reading.cells(build, _made(build, framework))
    if json:
        from json import dumps

        print(dumps(core.to_json(cells), indent=1))
    else:
        print(terminal.table(cells))


@door()
def report(_c: Context, framework: str = "all") -> None:
    """Write build/report.html, report.md and results.json."""
    from pipeline import report as reporting

    build = _build()
    print(reporting.report(build, _made(build, framework)))


@door()
def frameworks(
    _c: Context, model: str = "digits_cnn", parts: str = "all", data: str | None = None, accelerator: str = "auto",
    target: str = "all", recipe: str = "all", rounds: str = "5", epochs: str | None = None,
    accuracy: str | None = None, again: bool = False,
) -> None:  # fmt: skip
    """Compare PyTorch with TensorFlow on a model, measured in turn; write a report with a verdict for every row."""
    from dataclasses import replace

    from pipeline.framework_comparison import parts as comparison_parts
    from pipeline.framework_comparison import run

    share = _number("accuracy", accuracy, float)
    options = run.Options(
        tuple(_names("targets", target)), tuple(_names("recipes", recipe)), _whole("rounds", rounds),
        _number("epochs", epochs, int), None if share is None else share / 100, again,
    )  # fmt: skip
    names = comparison_parts.parts() if parts == "all" else _names(comparison_parts.REGISTRY, parts)
    jobs = {job.framework: replace(job, accelerator=accelerator) for job in _jobs(model, "torch,keras", data, None)}
    print(run.compare(_build(), jobs, names, options))


@door()
def demo(_c: Context) -> None:
    """Train on real digits, export to every target under every recipe, measure here, write a report."""
    from pipeline import devices
    from pipeline import report as reporting
    from pipeline.report import terminal
    from pipeline.results import collect
    from pipeline.stages import measure

    build = _build()
    (job,) = _jobs("digits_cnn", "torch", None, None)
    outcomes = _export(build, [job], "all", "all")
    failed = measure.bench(build, job, devices.find("local"), outcomes, measure.Options())
    print(terminal.table(collect.cells(build, [("digits_cnn", "torch")])))
    print(f"the report: {reporting.report(build)}")
    if failed:
        raise failed[0]


@door()
def clean(_c: Context, model: str | None = None) -> None:
    """Remove all that was made, and end emulated boards; or one model's part of it."""
    from pipeline import emulate
    from pipeline.system import store

    build = _build()
    found = _homes(build, model) if model else build.contents()
    if not model and found and not build.tagged and build.root != ROOT / "build":
        raise BadOption(f"{build.root} did not begin as a build folder (no {store.TAG} of ours): remove it yourself")
    if not found:
        return
    boards = store.Store(build.root / "boards")  # boots hold it before they hold the build folder
    alone = store.lock(boards, "clean") if not model and boards.root.is_dir() else contextlib.nullcontext()
    with alone, store.lock(build, "clean"):
        for board in () if model else emulate.BOARDS:
            if emulate.stop(build, board):
                print(f"{board}: stopped")
        for path in found if model else build.contents():
            store.remove(path)
            print(f"removed {path}")


def _homes(build: Store, word: str) -> list[Path]:
    """Where a model's part is, of every framework and of their comparison.

    Raises:
        BadOption: nothing is there of it.
    """
    from pipeline import registry, sources
    from pipeline.errors import BadModel, UnknownName

    kinds = {f".{name}" for name in (*registry.names("frameworks"), "frameworks")}
    there = [path for path in sorted(build.root.glob("*")) if path.suffix in kinds and path.is_dir()]
    name = word
    with contextlib.suppress(UnknownName, BadModel):  # its folder may be gone, and what was made of it is there
        name = sources.find(_model(word)).spec.name
    homes = [path for path in there if path.stem == name]
    if not homes:
        raise BadOption(f"nothing of {name!r} in {build.root} (there is: {_listed(path.stem for path in there)})")
    return homes


# -- what there is -----------------------------------------------------------------------------------------------------


@door()
def models(_c: Context) -> None:
    """List the models."""
    from pipeline import sources

    for name in sources.names():
        model = sources.find(name)
        spec = model.spec
        size = "×".join(str(n) for n in spec.inputs[0].shape)
        options = "".join(f", {key}={value:g}" for key, value in spec.options.items())
        doc = (sources.describe(model) or "").splitlines()[0]
        print(f"{name:20} {size:10} {spec.dataset:12} {', '.join(model.frameworks)}{options}\n{'':20} {doc}")


@door()
def recipes(_c: Context) -> None:
    """List the quantization recipes."""
    from pipeline import registry

    loaded, broken = registry.load_all("recipes")
    for recipe in (module.RECIPE for module in loaded.values()):
        print(f"{recipe.name:18} weights {recipe.weights:8} activations {recipe.activations:13} {recipe.summary}")
    for name, reason in broken.items():
        print(f"{name:18} {reason}")


@door()
def targets(_c: Context) -> None:
    """List the export targets, and the recipes that each cannot do."""
    from pipeline import registry

    loaded, broken = registry.load_all("targets")
    recipes, frameworks = (registry.load_all(folder)[0] for folder in ("recipes", "frameworks"))
    for name, module in loaded.items():
        print(f"{name:12} {module.SUFFIX:11} {module.SUMMARY}")
        for recipe in (module.RECIPE for module in recipes.values()):
            reasons = {framework: module.supports(recipe, framework) for framework in frameworks}
            alike = len(set(reasons.values())) == 1
            for framework, reason in list(reasons.items())[: 1 if alike else None]:
                if reason:
                    print(f"{'':12} not {recipe.name}{'' if alike else f' from {framework}'}: {reason}")
    for name, reason in broken.items():
        print(f"{name:12} {reason}")


@door(name="list", default=True)
def devices_list(_c: Context) -> None:
    """List the devices of devices.toml, and whether each answers; and the phones that adb sees."""
    from pipeline import devices, registry

    build = _build()
    for device in devices.devices().values():
        module = registry.load("devices", device.kind)
        reason = module.unavailable(build, device)
        emulated = " (emulated)" if device.emulated else ""
        print(f"{device.name:22} {device.kind:6} {module.describe(device)}{emulated}: {reason or 'answers'}")
    loaded, broken = registry.load_all("devices")
    for kind, module in loaded.items():
        for line in module.discover(build, list(devices.devices().values())):
            print(f"{'seen':22} {kind:6} {line}")
    for kind, reason in broken.items():
        print(f"{'broken kind':22} {kind:6} {reason}")


@door(name="emulate")
def devices_emulate(_c: Context, board: str | None = None, stop: bool = False) -> None:
    """Start an emulated board or phone, which is reached over SSH or adb like a real one; --stop ends it (or all)."""
    from pipeline import emulate

    build = _build()
    if stop:
        for name in [board] if board else emulate.BOARDS:
            print(f"{name}: {'stopped' if emulate.stop(build, name) else 'did not run'}")
        return
    if board is None:
        raise BadOption(f"which board? --board {', '.join(emulate.BOARDS[:-1])} or {emulate.BOARDS[-1]}")
    if board == emulate.PHONE:
        _app(build)
    print(f"{board}: {emulate.boot(build, board)}; the device {board}-emulated is ready")


@door(name="setup")
def devices_setup(_c: Context, device: str, target: str = "all") -> None:
    """Bring edge-bench and the runtimes for these targets to a device; what is there already is not sent again."""
    from pipeline import devices
    from pipeline.stages import push as pushing

    there = devices.find(device)
    _refuse_unmeasurable(device, target)
    failed = []
    for runtime, reason in pushing.setup(_build(), there, _names("targets", target)):
        print(f"{runtime}: {reason or 'ready'}")
        failed += [reason] if reason else []
    if failed:
        raise PipelineError(f"{len(failed)} of the runtimes cannot be had on {device}")


@door(name="clean")
def devices_clean(_c: Context, device: str) -> None:
    """Free what setup and push took on a device."""
    from pipeline import devices, registry

    there = devices.find(device)
    freed = registry.load("devices", there.kind).clean(_build(), there)
    print(f"{device}: {freed:,} bytes freed")


@door(name="build")
def android_build(
    _c: Context, abi: str = "arm64-v8a", engine: str = "litert,executorch", debug: bool = False, release: bool = False,
    keystore: str | None = None, key_alias: str | None = None, aar: bool = False, phone: bool = False,
) -> None:  # fmt: skip
    """Build the Android app without an Android SDK: build/android/lastmile.apk; --debug: a debugger may enter it."""
    from pipeline import android
    from pipeline.android import package

    if debug and release:
        raise BadOption("--debug or --release: one of them at a time")
    if key_alias and not keystore:
        raise BadOption("--key-alias names a key of --keystore: give that too")
    key = package.Key(_path(keystore), key_alias) if keystore else package.DEBUG_KEY
    options = android.Options(_listed_words(abi), _listed_words(engine), debug, key)
    options.check()
    build = _build()
    if aar:
        print(android.aar(build))
        return
    _app(build, options, phone)


@door()
def doctor(_c: Context) -> None:
    """Check the environment and say how to mend each thing."""
    from pipeline.stages import doctor as examining

    checks = examining.doctor(_build())
    for check in checks:
        mark = "ok" if check.mend is None else ("--" if check.optional else "!!")
        print(f"{mark}  {check.name:24} {check.found}" + (f"\n{'':29}→ {check.mend}" if check.mend else ""))
    wrong = [check.name for check in checks if check.mend and not check.optional]
    if wrong:
        raise PipelineError(f"{len(wrong)} things to mend: {', '.join(wrong)}")


@door(name="download")
def data_download(_c: Context, dataset: str = "cifar10", to: str = "data") -> None:
    """Fetch a dataset's official archive and verify its checksum."""
    from pipeline import registry

    module = registry.load("datasets", dataset)
    if not hasattr(module, "download"):
        raise BadOption(f"{dataset} has no official archive to fetch")
    print(module.download(_place(to)))


@door()
def tensorboard(_c: Context) -> None:
    """Open TensorBoard over every training in build/."""
    os.execv(sys.executable, [sys.executable, "-m", "tensorboard.main", "--logdir", str(_build().root)])


# -- developing --------------------------------------------------------------------------------------------------------


@door()
def lint(_c: Context) -> None:
    """Check style and types: ruff and mypy."""
    _run_or_exit("ruff", "check", ".")
    _run_or_exit("ruff", "format", "--check", ".")
    _run_or_exit("mypy")
    _run_or_exit("mypy", "--config-file", "edge-bench/pyproject.toml", "edge-bench/src")


@door()
def test(_c: Context, match: str | None = None) -> None:
    """Run ruff, mypy and every test."""
    from pipeline.errors import NeedsTool
    from pipeline.system import packages
    from pipeline.system.progress import say

    if match is None:
        lint.body(_c)
    try:
        packages.install()
    except NeedsTool as error:  # the tests that need it say so too: skipped here, failed where CI=true
        say(f"{error}")
    # How they share the tests: Sharing in tests/conftest.py.
    together = ["--numprocesses", "2", "--dist", "loadscope", "--no-loadscope-reorder"]
    _run_or_exit("pytest", *(["-k", match] if match else together))


@door()
def docs(_c: Context) -> None:
    """Build the documentation as a site: build/site/index.html. A dead link fails."""
    os.environ["NO_MKDOCS_2_WARNING"] = "1"
    _run_or_exit("mkdocs", "build", "--strict")


# -- parsing -----------------------------------------------------------------------------------------------------------


def _build() -> Store:
    from pipeline.system.store import Store

    return Store(Path(os.environ.get("LASTMILE_BUILD") or ROOT / "build"))


def _jobs(model: str, framework: str, data: str | None, weights: str | None) -> list[Job]:
    """One job a framework.

    Raises:
        BadOption: one weights file for several frameworks.
    """
    from pipeline import sources
    from pipeline.stages.train import Job

    model = _model(model)
    names = sources.find(model).frameworks if framework == "all" else _names("frameworks", framework)
    if weights and len(names) > 1:
        raise BadOption(f"--weights are one framework's: say --framework {' or '.join(names)}")
    for name in names:
        sources.find(model).file(name)  # raises where it is not written in this framework
    return [Job(model=model, framework=name, data=_path(data), weights=_path(weights)) for name in names]


def _made(build: Store, framework: str) -> list[tuple[str, str]] | None:
    """(model, framework) of the checkpoints of these frameworks; None for whatever there is."""
    if framework == "all":
        return None
    wanted = _names("frameworks", framework)
    return [pair for pair in build.models() if pair[1] in wanted]


def _of(job: Job, outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.framework == job.framework]


def _print_checkpoint(build: Store, checkpoint: Checkpoint) -> None:
    folder = build.checkpoint(checkpoint.spec.name, checkpoint.framework)
    print(f"{folder}: {checkpoint.accuracy:.2%} top-1 on {checkpoint.samples} test pictures ({checkpoint.origin})")


def _name(job: Job) -> str:
    from pipeline import sources

    return sources.find(job.model).spec.name


def _export(build: Store, jobs: list[Job], target: str, recipe: str, show: bool = False) -> list[Outcome]:
    """Exports what is missing; prints the outcomes; raises where one failed, or was named and cannot be."""
    from pipeline.stages import export as exporting

    chosen, wanted = _names("targets", target), _names("recipes", recipe)
    if "all" not in (target, recipe):
        for job in jobs:
            exporting.refuse_unsupported(job.framework, chosen, wanted)
    outcomes = exporting.export_all(build, jobs, chosen, wanted)
    if show:
        for outcome in outcomes:
            print(exporting.line(outcome))
    exporting.raise_if_failed(outcomes)
    return outcomes


def _app(build: Store, options: android.Options | None = None, phone: bool = True) -> Path:
    """Makes the Android app, with a model inside, and what an emulated phone runs; says what it weighs.

    Returns:
        Where the APK is.
    """
    from pipeline import android
    from pipeline.stages.train import Job

    outcomes = _export(build, [Job(model="digits_cnn", framework="torch")], ",".join(android.TARGETS), "fp32,int8")
    models = [outcome.path.parent for outcome in outcomes if outcome.path]
    made = android.build(build, models, options or android.Options())
    print(android.line(made, android.path(build)))
    if phone:
        from pipeline.android import phone as phones

        print(f"{phones.make(build, models, made)}: the same for an emulated phone")
    return android.path(build)


def _budget(device: Device, check: str | None, record: str | None) -> Budget:
    """The recorded counts, read before anything is measured; none where they are not asked for.

    Raises:
        BadOption, Unsupported: both options, a file that cannot be used, or a device that counts no instructions.
    """
    from pipeline.results import instruction_budget

    if check and record:
        raise BadOption("--check compares with a file and --record writes it: one of them at a time")
    if check or record:
        instruction_budget.require_clock(device)
    file = _place(check or record or "")
    if check or (record and file.exists()):
        return instruction_budget.read(file)
    if record and not file.parent.is_dir():
        raise BadOption(f"--record {file}: there is no folder {file.parent}")
    return instruction_budget.Budget(())


def _hold(found: list[Comparison]) -> None:
    """Prints counts beside the recorded ones; for each that grew or is not recorded a line, and exit code 1."""
    from pipeline.results import instruction_budget

    print(f"\n{instruction_budget.table(found)}")
    told = [(one.fails, one.told) for one in found if one.told]
    for fails, line in told:
        if not fails:
            print(line)
    if any(fails for fails, _ in told):
        raise Exit("\n".join(str(line) for fails, line in told if fails), code=1)
    print(f"{len(found)} counts within {instruction_budget.GROWTH:.0%} of the recorded ones, or below")


def _refuse_unmeasurable(device: str, target: str) -> None:
    """For a command that names its targets: refuses what the device cannot run before anything is made."""
    from pipeline import devices
    from pipeline.stages import push as pushing

    if target != "all":
        pushing.refuse(devices.find(device), _names("targets", target))


def _names(folder: str, text: str) -> list[str]:
    """The plug-ins that "all" or "a,b" says.

    Raises:
        UnknownName: one of them does not exist.
    """
    from pipeline import registry
    from pipeline.system.progress import say

    if text == "all":
        loaded, broken = registry.load_all(folder)
        for reason in broken.values():
            say(f"left out: {reason}")
        return list(loaded)
    words = list(dict.fromkeys(word.strip() for word in text.split(",")))
    for word in words:
        registry.load(folder, word)
    return words


def _listed_words(text: str) -> tuple[str, ...]:
    """The words of "a,b", each once."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _path(text: str | None) -> Path | None:
    return _place(text) if text else None


def _place(text: str) -> Path:
    return FROM / Path(text).expanduser()


def _model(word: str) -> str:
    """A model folder's path as it is from here; a name as it is."""
    from pipeline import sources

    name, colon, options = word.partition(":")
    there = name not in sources.names() and _place(name).is_dir()
    return f"{_place(name)}{colon}{options}" if there else word


def _number(option: str, text: str | None, kind: type) -> Any:
    """
    Raises:
        BadOption: it is no number of this kind.
    """
    if text is None:
        return None
    try:
        return kind(text)
    except ValueError as error:
        raise BadOption(f"--{option} {text!r} is not a {'whole ' if kind is int else ''}number") from error


def _whole(option: str, text: str) -> int:
    return int(_number(option, text, int))


def _real(option: str, text: str) -> float:
    return float(_number(option, text, float))


def _listed(names: Any) -> str:
    return ", ".join(sorted(set(names))) or "nothing"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _of_the_system(error: OSError) -> str:
    """What the system refused: a full disk, a folder without permission."""
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left on the disk: free some and run again; nothing was lost"
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else _one_line(error)


def _run_or_exit(module: str, *words: str) -> None:
    """Runs a Python module as a program, its output shown as it comes; a failure ends this command too."""
    import subprocess

    code = subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT, check=False).returncode
    if code != 0:
        raise Exit(code=code)


namespace = Collection(
    train,
    convert,
    export,
    push,
    bench,
    trace,
    results,
    report,
    frameworks,
    demo,
    clean,
    models,
    recipes,
    targets,
    doctor,
    tensorboard,
    lint,
    test,
    docs,
)
namespace.add_collection(Collection("devices", devices_list, devices_setup, devices_clean, devices_emulate))
namespace.add_collection(Collection("data", data_download))
namespace.add_collection(Collection("android", android_build))
