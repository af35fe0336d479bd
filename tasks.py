"""Commands: each parses its options, calls one function of pipeline/ and prints the result.

Nothing but invoke and the error tree is imported before a command runs: `inv --list` must load no framework.
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
from invoke.completion.complete import print_completion_script
from invoke.config import Config
from invoke.context import Context
from invoke.exceptions import Exit, ParseError
from invoke.parser import parser
from invoke.program import Program
from invoke.tasks import task

from pipeline.errors import BadOption, ExportsFailed, PipelineError, described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pipeline import android
    from pipeline.core import Cell, Checkpoint
    from pipeline.devices import BoundDevice
    from pipeline.results.instruction_budget import Budget, Comparison
    from pipeline.results.trends import History
    from pipeline.stages.measure import Options as MeasureOptions
    from pipeline.stages.measure import Result
    from pipeline.stages.plan import Plan, TrainingOptions
    from pipeline.stages.ready import Result as ReadyResult
    from pipeline.system.store import Store

ROOT = Path(__file__).parent
FROM = Path(os.environ.get("LASTMILE_FROM", ""))
"""The folder the user called ./inv from. Paths on the command line are relative to it."""

HELP = {
    "model": "a name from `inv models` or the path of a model folder; options after a colon: name:width=0.5",
    "reference": "of a ready file (--model FILE.tflite): another file, whose outputs it is compared with",
    "framework": "a framework that the model is written in, comma-separated names, or all: torch, keras",
    "from_": "the framework of the existing checkpoint",
    "to_": "the framework to convert it to",
    "target": "comma-separated names from `inv targets`, or all",
    "recipe": "comma-separated names from `inv recipes` or recipe files (.toml, .json), or all",
    "device": "comma-separated names from `inv devices`, or all; several are measured side by side",
    "max_drop": "points of accuracy that may be lost: the whole 95 % interval must be below",
    "minimize": "what leaving layers in float costs: latency (multiply-adds) or size (weights)",
    "max_size": "bytes that the largest file may have",
    "qat": "train the quantized graph where layers in float are not enough or cost much (--no-qat: do not)",
    "data": "the dataset: a folder or archive; later commands on this model use it again",
    "weights": "your own weights instead of training: .safetensors, .keras, or .pt, .pth, .ckpt … (weights only)",
    "accelerator": "auto (a GPU if there is one), cpu or cuda",
    "epochs": "passes over the training split",
    "batch_size": "samples per step",
    "lr": "peak learning rate",
    "seed": "seed of initial weights, sample order and augmentation",
    "resume": "continue an interrupted training that had the same settings (--no-resume: start again)",
    "devices": "GPUs, or CPU processes, that train together on this machine",
    "num_nodes": "machines that train together; run the same command on each",
    "node_rank": "which of these machines this is, from 0; machine 0 writes the checkpoint",
    "main_address": "HOST or HOST:PORT of machine 0",
    "threads": "threads of the runtime: 1, or 1,2,4, or all (1 to all cores of the device)",
    "check": "a file of recorded counts (benchmarks/instructions.json): fail where a count grew by more than 2 %",
    "record": "write the counts of this bench to such a file; other counts in it stay",
    "margin": "recommend a file only if its accuracy drop is shown to be below this, in percentage points",
    "samples": "evaluate this many samples, stratified by class, instead of the whole test split",
    "processes": "measure each file in this many processes, alternately (default: 5; 1 on an emulated device)",
    "min_runs": "measure at least this many runs, and",
    "min_seconds": "at least this many seconds, in all processes together",
    "cpus": "run only on these CPUs of the device: 0-3,6",
    "time_limit": "timeout of one measurement, in seconds",
    "again": "measure again what is up to date",
    "parts": "comma-separated: writing, graphs, training, debugging, visualisation, deployment; or all",
    "rounds": "how often each framework is measured, alternately",
    "accuracy": "time to this validation accuracy, in percent; default: the highest that every training reaches",
    "below": "name the first layer whose signal-to-noise ratio is below this, in dB",
    "image": "an image file: JPEG, PNG, BMP, WebP or GIF",
    "json": "print one JSON object per cell",
    "debug": "show the traceback of an error",
    "abi": "comma-separated processors: arm64-v8a, x86_64",
    "engine": "comma-separated runtimes in the app: litert, executorch",
    "release": "a shrunk build that no debugger can attach to (the default)",
    "keystore": "sign with this Java keystore, password in LASTMILE_KEYSTORE_PASSWORD; otherwise with the debug key",
    "key_alias": "the key to use, if the keystore has several",
    "aar": "build only the inference library, for use in another app",
    "phone": "also build what an emulated phone runs",
    "board": "pi4, pi5 or phone",
    "stop": "stop the board; all boards if none is named",
    "dataset": "a dataset with an official archive: cifar10",
    "to": "folder or file name for the archive",
    "output": "the file for the result; default: build/probes/<device>.json",
    "version": "of the bundle: major.minor.patch; it must say at least what changed since the last bundle of the model",
    "key": "inv ship: sign with this private key (EC P-256, PEM); inv verify: check with this public key",
    "package": "comma-separated names of packages to write, or all that can be made",
    "bundle": "the folder of a bundle",
    "licence": "of the model, as an SPDX expression: Apache-2.0",
    "old": "a file, or the folder of a cell in a build folder or a bundle",
    "new": "the same",
    "baseline": "a bundle, or a build folder",
    "gates": "the file with the limits (default: gates.toml in the checkout; without it, the defaults of docs/gate.md)",
    "junit": "write the checks to this file, as JUnit XML",
    "summary": "write the checks to this file, as GitHub Markdown",
    "inputs": "a .npy file with samples, of which the first is used; default: pseudo-random inputs",
    "match": "run the tests that match this pytest expression",
}


def command(
    can_run_dry: bool = False, texts: Mapping[str, str] | None = None, **options: Any
) -> Callable[[Callable[..., Any]], Any]:
    """An invoke task that reports errors in one line with exit code 2, or with a traceback under --debug.

    Args:
        can_run_dry: whether the task obeys --dry, which is in its context's config.run.dry; other tasks refuse it.
        texts: help of options that mean something else than in HELP.
    """
    helps = {**HELP, **(texts or {})}

    def wrap(body: Callable[..., Any]) -> Any:
        @functools.wraps(body)
        def run(*args: Any, debug: bool = False, **kwargs: Any) -> None:
            signal.signal(signal.SIGTERM, _terminate)
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup sets SIG_IGN
                signal.signal(signal.SIGHUP, _terminate)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it is ignored, every failed program seems to succeed
            traceback = debug and not own
            try:
                body(*args, **({**kwargs, "debug": debug} if own else kwargs))
                sys.stdout.flush()
            except PipelineError as error:
                if traceback:
                    raise
                raise Exit(f"error: {_one_line(error)}", code=2) from error
            except OSError as error:
                if isinstance(error, BrokenPipeError) and _reader_is_gone():
                    raise Exit(code=128 + signal.SIGPIPE) from None
                if traceback:
                    raise
                raise Exit(f"error: {_system_error(error)}", code=2) from error
            except Exit:
                raise
            except Exception as error:  # of a library, or of the user's code
                if traceback:
                    raise
                line = f"error: {_one_line(described(error))}"
                raise Exit(f"{line}; --debug shows the traceback" if not own else line, code=2) from error
            except KeyboardInterrupt as error:
                code = 128 + (error.args[0] if error.args else signal.SIGINT)
                raise Exit("interrupted; run the command again to continue", code=code) from None

        signature = inspect.signature(body)
        own = signature.parameters.get("debug")  # a task with its own meaning of --debug
        last = inspect.Parameter("debug", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=False)
        run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *([] if own else [last])])  # type: ignore[attr-defined]
        known = {name: helps[name] + _default(p) for name, p in run.__signature__.parameters.items() if name in helps}  # type: ignore[attr-defined]
        if own:
            known["debug"] = "an app that a debugger and run-as can attach to"
        made = task(help=known, auto_shortflags=False, **options)(run)
        made.can_run_dry = can_run_dry
        return made

    return wrap


def _default(parameter: inspect.Parameter) -> str:
    """The default as --help shows it; switches are off by default."""
    return f" (default: {parameter.default})" if isinstance(parameter.default, str) else ""


def _terminate(number: int, _: object) -> NoReturn:
    """SIGTERM (from `timeout` or CI) and SIGHUP (a closed terminal) end a command as Ctrl-C does: with every process
    that it started."""
    if number == signal.SIGHUP:
        signal.signal(number, signal.SIG_IGN)  # the shell and the kernel both send it
    raise KeyboardInterrupt(number)


def _reader_is_gone() -> bool:
    """Whether the reader of this command's output has ended, as `head` does.

    The rest of the output is then discarded, or Python would fail again when it exits. A broken pipe to another
    program remains an error.
    """
    outputs = select.poll()
    for number in (1, 2):
        outputs.register(number, 0)
    gone = [number for number, event in outputs.poll(0) if event & select.POLLERR]
    for number in gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return bool(gone)


CORE = {
    "complete": None,
    "dry": "print what would be removed, and remove nothing; tasks that cannot do that refuse it",
    "help": None,
    "list": None,
    "list-depth": None,
    "list-format": None,
    "print-completion-script": None,
    "version": None,
}
"""The options of invoke that have an effect here, and their help where invoke's is not true here."""

LIST_FORMATS = ("flat", "nested", "json")


class Machine(parser.ParseMachine):
    """invoke's parser, which would take the second value of a repeated option for a task: `--model a --model clean`."""

    def switch_to_flag(self, flag: str, inverse: bool = False) -> None:
        name = self.context.inverse_flags[flag] if inverse else flag
        if (self.context.flags.get(name) or self.initial.flags[name]).raw_value is not None:
            self.error(f"{flag} is given twice")
        super().switch_to_flag(flag, inverse)

    def see_value(self, value: Any) -> None:
        name = self.flag.name if self.flag else ""
        if not value.strip():
            self.error(f"--{name} needs a value")
        try:
            super().see_value(value)
        except ValueError:
            self.error(f"--{name} {value!r} is not a whole number")

    def complete_flag(self) -> None:
        flag = self.flag
        if flag and flag.takes_value and flag.raw_value is None and not flag.optional:
            self.error(f"--{flag.name} needs a value")
        super().complete_flag()

    def complete_context(self) -> None:
        missing = (
            [f"--{each.name}".rstrip("_") for each in self.context.missing_positional_args] if self.context else []
        )
        if missing:
            options = " and ".join(missing)
            self.error(f"{self.context.name} needs {options}")
        super().complete_context()


# Its metaclass gives a class only the states and transitions of its own body.
Machine._class_states = parser.ParseMachine._class_states
Machine._class_transitions = parser.ParseMachine._class_transitions
parser.ParseMachine = Machine  # type: ignore[misc]


class Lastmile(Program):
    """invoke's program with the commands of this file, in which input that cannot be parsed is bad input: exit code 2.
    (invoke exits with 1, which a script would read as a failed job.)

    Of invoke's options only those in CORE exist: the others are about shell commands and files of invoke, which no
    command here uses.
    """

    def create_config(self) -> None:
        self.config = Config(lazy=True)  # no ~/.invoke.yaml

    def core_args(self) -> list[Any]:
        known = {argument.name: argument for argument in super().core_args()}
        for name, text in CORE.items():
            known[name].help = text or known[name].help
        return [known[name] for name in CORE]

    def task_args(self) -> list[Any]:
        return []

    def parse_core(self, argv: list[str] | None) -> None:
        sys.dont_write_bytecode = True  # models live in folders of users
        self.normalize_argv(argv)
        with _bad_input():
            self.parse_core_args()
        if self.args.version.value:
            self.print_version()
            raise Exit
        if shell := self.args["print-completion-script"].value:
            with _bad_input():
                print_completion_script(shell=shell, names=self.binary_names)
            raise Exit

    def load_collection(self) -> None:
        self.collection = namespace

    def parse_tasks(self) -> None:
        with _bad_input():
            super().parse_tasks()

    def parse_cleanup(self) -> None:
        if self.args["list-format"].value not in LIST_FORMATS:
            raise Exit(f"error: --list-format must be one of {', '.join(LIST_FORMATS)}", code=2)
        with _bad_input():
            super().parse_cleanup()

    def update_config(self, merge: bool = True) -> None:
        """Refuses --dry for a task that cannot obey it, before any task runs."""
        dry = self.args.dry.value or os.environ.get("INVOKE_RUN_DRY", "0") not in ("", "0")
        refuse = [str(each.name) for each in self.tasks if dry and not self.collection[each.name].can_run_dry]
        if refuse:
            able = ", ".join(name for name in self.collection.task_names if self.collection[name].can_run_dry)
            raise Exit(f"error: {', '.join(refuse)} cannot run dry: only {able} can", code=2)
        self.config.load_overrides({"run": {"dry": dry}}, merge=merge)

    def print_version(self) -> None:
        import tomllib

        print(f"{self.name} {tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']}")


@contextlib.contextmanager
def _bad_input() -> Iterator[None]:
    try:
        yield
    except ParseError as error:
        more = f"inv --help {error.context.name}" if error.context and error.context.name else "inv --list"
        raise Exit(f"error: {_one_line(error).rstrip('!')} (see {more})", code=2) from error
    except Exit as error:  # an unknown collection of --list
        raise Exit(f"error: {error.message}", code=2) if error.message else error from None


# -- the flow ----------------------------------------------------------------------------------------------------------


@command()
def train(
    _c: Context, model: str = "digits_cnn", framework: str = "torch", data: str | None = None,
    weights: str | None = None, accelerator: str = "auto", epochs: str | None = None, batch_size: str | None = None,
    lr: str | None = None, seed: str | None = None, resume: bool = True, devices: str = "1", num_nodes: str = "1",
    node_rank: str = "0", main_address: str | None = None, recipe: str | None = None,
) -> None:  # fmt: skip
    """Train a model or import --weights, unless it is up to date; with --recipe int8_qat or w4a8_qat, quantized."""
    from pipeline.stages import train as training
    from pipeline.stages.plan import TrainingOptions

    options = TrainingOptions(
        epochs=_number("epochs", epochs, int), batch_size=_number("batch-size", batch_size, int),
        lr=_number("lr", lr, float), seed=_number("seed", seed, int), accelerator=accelerator, resume=resume,
        devices=_whole("devices", devices), num_nodes=_whole("num-nodes", num_nodes),
        node_rank=_whole("node-rank", node_rank), main_address=main_address,
    )  # fmt: skip
    build = _build()
    if recipe is not None:
        from pipeline.stages import qat

        plan = _plan(model, framework, recipe=recipe, data=data, weights=weights, training=options)
        for trained in qat.trainings(build, plan):
            print(qat.line(build, trained))
        return
    plan = _plan(model, framework, data=data, weights=weights, training=options)
    for checkpoint in training.checkpoints(build, plan):
        _print_checkpoint(build, checkpoint)


@command()
def convert(_c: Context, from_: str, to_: str, model: str = "digits_cnn", data: str | None = None) -> None:
    """Convert a checkpoint's weights to the same network in another framework."""
    from pipeline import registry
    from pipeline.stages import convert as converting

    plan, to = _plan(model, from_, data=data), registry.bind("frameworks", to_)
    build = _build()
    _print_checkpoint(build, converting.convert(build, plan, to))


@command()
def export(
    _c: Context, model: str = "digits_cnn", target: str = "all", recipe: str = "fp32", framework: str = "torch",
    data: str | None = None, weights: str | None = None,
) -> None:  # fmt: skip
    """Export to every target under every recipe asked for, and check each file against the model."""
    from pipeline.report import terminal
    from pipeline.stages import export as exporting

    plan = _plan(model, framework, target, recipe, data=data, weights=weights)
    outcomes = exporting.export(_build(), plan)
    terminal.show(*(terminal.item(outcome.status, exporting.line(outcome)) for outcome in outcomes))
    exporting.raise_if_failed(outcomes)


@command()
def push(
    _c: Context, model: str = "digits_cnn", target: str = "all", recipe: str = "fp32", framework: str = "torch",
    device: str = "local", data: str | None = None, weights: str | None = None,
) -> None:  # fmt: skip
    """Copy artifacts and evaluation data to a device; files that the device already has are not sent again."""
    from pipeline.sources import file
    from pipeline.stages import push as pushing

    if file.is_file(model):
        from pipeline.stages.plan import devices_of

        ready, build = file.find(_place(model)), _build()
        for one in devices_of(_split(device)):
            _, sent = one.push(build, [ready.path])
            print(f"{one.name}: 1 file up to date, {sent:,} bytes sent")
        return
    plan = _plan(model, framework, target, recipe, device, data=data, weights=weights)
    for pushed in pushing.push(_build(), plan):
        print(f"{pushed.device}: {pushed.files} files up to date, {pushed.sent_bytes:,} bytes sent")


@command()
def bench(
    _c: Context, model: str = "digits_cnn", target: str = "all", recipe: str = "fp32", framework: str = "torch",
    device: str = "local", data: str | None = None, weights: str | None = None, threads: str = "1",
    processes: str | None = None, min_runs: str = "64", min_seconds: str = "0.5", time_limit: str = "3600",
    again: bool = False, samples: str | None = None, cpus: str | None = None, check: str | None = None,
    record: str | None = None, margin: str = "1", reference: str | None = None,
    inputs: str | None = None,
) -> None:  # fmt: skip
    """Measure size, load time, latency, memory and accuracy on a device; --check fails where instructions grew."""
    from pipeline.report import terminal
    from pipeline.results import instruction_budget
    from pipeline.sources import file
    from pipeline.stages import _threads, measure

    options = measure.Options(
        threads=_threads.wanted(threads), min_runs=_whole("min-runs", min_runs),
        min_seconds=_real("min-seconds", min_seconds), time_limit=_real("time-limit", time_limit),
        again=again or bool(check or record), samples=_number("samples", samples, int),
        processes=_number("processes", processes, int), cpus=_threads.pinned(cpus) if cpus is not None else (),
    )  # fmt: skip
    options.check()
    points = _margin(margin)
    if file.is_file(model):
        _bench_file(model, device, (reference, inputs), options, {
            "target": target != "all", "recipe": recipe != "fp32", "framework": framework != "torch",
            "data": data, "weights": weights, "samples": samples, "check": check, "record": record,
        })  # fmt: skip
        return
    if reference is not None or inputs is not None:
        raise BadOption("--reference and --inputs are for a ready file: --model FILE.tflite, for example")
    plan = _plan(model, framework, target, recipe, device, data=data, weights=weights)
    recorded = _budget(plan.devices, check, record)
    build = _build()
    found, failure = _benched(build, plan, options)
    asked = {(target.name, recipe.name) for target in plan.targets for recipe in plan.recipes}
    named = [device.name for device in plan.devices]
    shown = _cells(build, plan, {recipe.name for recipe in plan.recipes}, points)
    if shown or not failure:
        terminal.show(*terminal.cells(shown))
    if failure:
        raise failure
    _raise_failures(found)
    if check or record:
        kept = [(result.device, result.measurement) for result in found if result.measurement]
        counted = [(d, [instruction_budget.count(one) for name, one in kept if name == d.name]) for d in plan.devices]
        counts = [count for _, own in counted for count in own]
        if not counts:
            raise BadOption(f"{', '.join(named)}: no file of these runs there, so there is nothing to count")
        if record:
            instruction_budget.record(_place(record), counts)
            print(f"{record}: {len(counts)} counts recorded")
        else:
            compared = [instruction_budget.compare(own, recorded, device, asked) for device, own in counted]
            _check_growth([one for device in compared for one in device])


def _bench_file(
    model: str, device: str, comparison: tuple[str | None, str | None], options: MeasureOptions,
    others: Mapping[str, object],
) -> None:  # fmt: skip
    """Measures a ready file on devices, and prints its rows.

    Args:
        comparison: the options --reference and --inputs.
        others: options that only a model has; an error if one is given.
    """
    from pipeline.report import terminal
    from pipeline.results import ready as results
    from pipeline.sources import file
    from pipeline.stages import ready
    from pipeline.stages.plan import devices_of

    if given := [f"--{name}" for name, value in others.items() if value]:
        raise BadOption(f"{model} is a ready file, measured as it is: omit {', '.join(given)}")
    subject = file.find(_place(model))
    reference, inputs = comparison
    compared = file.find(_place(reference)) if reference else None
    build = _build()
    found = ready.bench(build, subject, devices_of(_split(device)), options, compared, _path(inputs))
    cells = [results.of(build, one.measurement) for one in found if one.measurement]
    if cells:
        terminal.show(*terminal.cells(cells))
    _raise_failures(found)


ABOUT_COMPARE = {
    "device": "a name from `inv devices`",
    "rounds": "rounds of one process of each file, extended once by as many where they cannot tell",
    "margin": "the files are the same if the ratio is shown to be within this, in percent (default: 2)",
    "threads": "threads of the runtime",
    "json": "print one JSON object",
}


@command(texts=ABOUT_COMPARE)
def compare(
    _c: Context, old: str, new: str, device: str = "local", rounds: str = "10", margin: str | None = None,
    threads: str = "1", inputs: str | None = None, json: bool = False,
) -> None:  # fmt: skip
    """Compare two artifacts on a device, measured alternately: better, worse, the same within a margin, cannot tell."""
    from pipeline import core, devices
    from pipeline.report import comparison, terminal
    from pipeline.stages import compare as comparing

    percent = _number("margin", margin, float)
    options = comparing.Options(
        _whole("rounds", rounds), None if percent is None else percent / 100, _whole("threads", threads), _path(inputs)
    )
    options.check()
    sides = [comparing.subject(_place(word)) for word in (old, new)]
    found = comparing.compare(_build(), sides[0], sides[1], devices.find(device), options)
    if json:
        from json import dumps

        print(dumps(core.to_json(found), indent=1))
        return
    terminal.show(*comparison.parts(found))


@command(texts={"old": "a bundle", "new": "a bundle", "json": "print one JSON object"})
def diff(_c: Context, old: str, new: str, json: bool = False) -> None:
    """Print what changed between two bundles for an app developer, as Markdown for a pull request."""
    from pipeline import core
    from pipeline.report import release_diff as report
    from pipeline.results import release_diff as comparing
    from pipeline.results import releases

    found = comparing.difference(*(releases.read(_place(word)) for word in (old, new)))
    if json:
        from json import dumps

        print(dumps(core.to_json(found), indent=1))
        return
    print(report.markdown(found), end="")


ABOUT_GATE = {
    "model": "of a baseline that is a build folder with several",
    "framework": "of a baseline that is a build folder with several",
}


@command(texts=ABOUT_GATE)
def gate(
    _c: Context, baseline: str, device: str = "local", junit: str | None = None, summary: str | None = None,
    gates: str | None = None, model: str | None = None, framework: str | None = None,
) -> None:  # fmt: skip
    """Compare the files in build/ with a baseline: exit 0 if all are within the limits, 1 if not, 3 if unknown."""
    from pipeline import devices
    from pipeline.report import gate as report
    from pipeline.report import terminal
    from pipeline.results import gates as limits
    from pipeline.results import releases
    from pipeline.stages import gate as gating
    from pipeline.system import store

    places = {name: _output(name, word) for name, word in (("junit", junit), ("summary", summary)) if word}
    source = _path(gates) or ROOT / limits.FILE
    allowed = limits.read(source) if gates or source.exists() else limits.Gates()
    bound = [devices.find(name) for name in _words(device)]
    found = gating.gate(_build(), releases.read(_place(baseline), model, framework), bound, allowed, source)
    texts = {"junit": report.junit, "summary": report.markdown}
    for name, path in places.items():
        store.write_text(path, texts[name](found))
    terminal.show(*report.parts(found))
    if found.verdict != limits.PASS:
        raise Exit(code=limits.EXIT[found.verdict])


@command()
def trace(
    _c: Context, image: str, device: str = "local", model: str = "digits_cnn", target: str = "tflite",
    recipe: str = "fp32", framework: str = "torch", data: str | None = None, weights: str | None = None,
) -> None:  # fmt: skip
    """Compare one image stage by stage on host and device: where do they first differ?"""
    from pipeline.report import terminal
    from pipeline.stages import trace as tracing

    tracing.read(_place(image))  # raises before anything is exported
    plan = _plan(model, framework, target, recipe, device, data=data, weights=weights)
    found = tracing.trace(_build(), plan, _place(image))
    terminal.show(*terminal.traces(found))


@command()
def sensitivity(
    _c: Context, model: str = "digits_cnn", recipe: str = "int8", framework: str = "torch", data: str | None = None,
    weights: str | None = None, device: str | None = None, target: str = "tflite", json: bool = False,
) -> None:  # fmt: skip
    """Measure how much noise each group of layers adds in int8, and what it costs to leave it in float."""
    from pipeline import core
    from pipeline.report import sensitivity as report
    from pipeline.report import terminal
    from pipeline.stages import sensitivity as measuring

    plan = _plan(model, framework, target, recipe, device, data=data, weights=weights)
    found = measuring.sensitivity(_build(), plan)
    if json:
        from json import dumps

        print(dumps(core.to_json(found), indent=1))
        return
    for one in found:
        terminal.show(*report.parts(one.model, one.recipe, one.sensitivity, one.time), str(one.page))


@command()
def tune(
    _c: Context, max_drop: str = "0.5", model: str = "digits_cnn", target: str = "all", recipe: str = "int8",
    framework: str = "torch", data: str | None = None, weights: str | None = None, device: str | None = None,
    minimize: str = "latency", max_size: str | None = None, qat: bool = True,
) -> None:  # fmt: skip
    """Find the int8 recipe with the fewest layers in float that loses at most --max-drop; exit 1 if none does."""
    from pipeline.report import terminal
    from pipeline.report import tune as report
    from pipeline.results import tuning
    from pipeline.stages import tune as searching
    from pipeline.stages.tune import Budget

    budget = Budget(_real("max-drop", max_drop), minimize, _number("max-size", max_size, int), qat)
    build, plan = _build(), _plan(model, framework, target, recipe, device, data=data, weights=weights)
    found = searching.tune(build, plan, budget)
    for one in found:
        terminal.show(*report.parts(one))
    if plan.devices:
        names = {"fp32", *(recipe.name for recipe in plan.recipes), *(one.recipe.name for one in found)}
        terminal.show(*terminal.cells(_cells(build, plan, names)))
    if any(one.outcome != tuning.MET for one in found):
        raise Exit(code=1)


@command()
def drift(
    _c: Context, target: str, recipe: str = "int8", device: str = "local", model: str = "digits_cnn",
    framework: str = "torch", below: str = "20", json: bool = False, data: str | None = None,
    weights: str | None = None,
) -> None:  # fmt: skip
    """Compare every layer in the float graph, the quantized graph, the file and on a device: where do they differ?"""
    from pipeline import core
    from pipeline.report import terminal
    from pipeline.stages import drift as drifting

    build, threshold = _build(), _real("below", below)
    plan = _plan(model, framework, target, recipe, device, data=data, weights=weights)
    found = drifting.drift(build, plan, threshold)
    pages = [drifting.write(build, one) for one in found]
    if json:
        from json import dumps

        print(dumps(core.to_json(found), indent=1))
    else:
        terminal.show(*terminal.drifts(found), *(f"chart: {page}" for page in pages))


@command()
def results(_c: Context, json: bool = False, framework: str = "all", margin: str = "1") -> None:
    """Print every cell that was exported or measured."""
    from pipeline import core
    from pipeline.report import terminal
    from pipeline.results import collect as reading
    from pipeline.results import ready

    build = _build()
    cells = reading.cells(build, _checkpoints(build, framework), _margin(margin))
    if framework == "all":
        cells += ready.cells(build)
    if json:
        from json import dumps

        print(dumps(core.to_json(cells), indent=1))
    else:
        terminal.show(*terminal.cells(cells))


@command(texts={"history": "also show the trends of this folder of `inv history --add`"})
def report(_c: Context, framework: str = "all", margin: str = "1", history: str | None = None) -> None:
    """Write build/report.html, report.md and results.json."""
    from pipeline.report.document import write_report
    from pipeline.results import trends

    build = _build()
    past = trends.history(_place(history)) if history else None
    print(write_report(build, _checkpoints(build, framework), _margin(margin), past))
    if past:
        _refuse_left_out(past)


ABOUT_HISTORY = {
    "add": "add the measurements of build/ to the folder; what it has is not added again",
    "folder": "of the history: one JSON file per measurement",
    "note": "a text for the added measurements",
    **dict.fromkeys(("model", "framework", "recipe", "target", "device"), "comma-separated names to show"),
    "json": "print one JSON object",
}


@command(texts=ABOUT_HISTORY)
def history(
    _c: Context, add: bool = False, folder: str = "history", note: str | None = None, model: str | None = None,
    framework: str | None = None, recipe: str | None = None, target: str | None = None, device: str | None = None,
    json: bool = False,
) -> None:  # fmt: skip
    """Show how measured figures changed over time; --add keeps the measurements of build/ for that."""
    from pipeline.report import history as report
    from pipeline.report import terminal
    from pipeline.results import collect, trends
    from pipeline.results import history as entries
    from pipeline.system.progress import say

    place = _place(folder)
    names = {"model": model, "framework": framework, "recipe": recipe, "target": target, "device": device}
    chosen = {name: _words(value) for name, value in names.items() if value is not None}
    if add:
        if json or chosen:
            raise BadOption("--add adds every measurement of build/: use it without --json and names")
        rows = collect.rows(_build())
        new = entries.add(place, rows, entries.commit(FROM), note or "")
        for line in entries.not_added(rows):
            say(line)
        print("\n".join(map(str, new)) or f"{place}: up to date")
        return
    if note is not None:
        raise BadOption("--note is a text for --add")
    found = trends.history(place, chosen)
    if json:
        from json import dumps

        from pipeline import core

        print(dumps(core.to_json(found), indent=1))
    else:
        terminal.show(*report.parts(found))
    _refuse_left_out(found)


@command()
def ship(
    _c: Context, version: str, model: str = "digits_cnn", key: str | None = None, package: str = "all",
    target: str = "all", recipe: str = "all", framework: str = "torch", device: str | None = None,
    licence: str | None = None,
) -> None:  # fmt: skip
    """Make a bundle for a mobile team from the files that passed: build/ship/<model>-<version>/."""
    from pipeline.report import terminal
    from pipeline.stages import ship as shipping
    from pipeline.stages.plan import plugins

    options = shipping.Options(
        version,
        plugins("packages", _split(package)),
        key=_path(key),
        licence=shipping.NO_LICENCE if licence is None else licence,
        every_package=package == "all",
        every_recipe=recipe == "all",
        every_target=target == "all",
    )
    options.check()
    plan = _plan(model, framework, target, recipe, device)
    shipped = shipping.ship(_build(), plan, options)
    terminal.show(*(terminal.item(*line) for line in shipping.lines(shipped)))
    print(shipping.sizes(shipped))
    print(f"{shipped.path}: {'made' if shipped.made else 'up to date'}")


@command()
def verify(_c: Context, bundle: str, key: str | None = None) -> None:
    """Check every file of a bundle, and with --key its signature; exit 2 names the files that were changed."""
    from pipeline.errors import Broken
    from pipeline.report import terminal
    from pipeline.results import bundle as bundles
    from pipeline.results import signature

    folder = _place(bundle)
    public = signature.public_key(_place(key)) if key else None
    problems = [*bundles.problems(folder), *(signature.check(folder, public) if public else [])]
    if problems:
        terminal.show(*(terminal.item("failed", str(problem)) for problem in problems))
        raise Broken(f"{folder}: {problems[0]}{f', and {len(problems) - 1} more' if len(problems) > 1 else ''}")
    found = bundles.manifest(folder)
    print(f"{found.model} {found.version}: {len(found.files) + 1} files are intact")
    if public:
        print(f"{bundles.SIGNATURE}: valid, of this key")
    else:
        unsigned = (
            "not signed" if not signature.is_signed(folder) else "not checked: give the signer's public key with --key"
        )
        print(f"{bundles.SIGNATURE}: {unsigned}")


@command()
def frameworks(
    _c: Context, model: str = "digits_cnn", parts: str = "all", data: str | None = None, accelerator: str = "auto",
    target: str = "all", recipe: str = "all", rounds: str = "5", epochs: str | None = None,
    accuracy: str | None = None, again: bool = False,
) -> None:  # fmt: skip
    """Compare PyTorch with TensorFlow on a model, measured alternately; write a report with a verdict for every row."""
    from dataclasses import replace

    from pipeline.framework_comparison import parts as comparison
    from pipeline.framework_comparison import run
    from pipeline.recipes import of_model
    from pipeline.stages.plan import TrainingOptions, plugins, recipes_of

    share = _number("accuracy", accuracy, float)
    options = run.Options(
        _whole("rounds", rounds), _number("epochs", epochs, int), None if share is None else share / 100, again
    )
    names = comparison.parts() if parts == "all" else [p.name for p in plugins(comparison.REGISTRY, _split(parts))]
    plan = _plan(model, "torch,keras", data=data, training=TrainingOptions(accelerator=accelerator))
    plan = replace(
        plan,
        targets=plugins("targets", _split(target)),
        recipes=tuple(of_model(one, plan.model.spec) for one in recipes_of(_recipes(recipe))),
    )
    print(run.compare(_build(), plan, names, options))


@command()
def demo(_c: Context) -> None:
    """Train on real digits, export to every target under five recipes, measure on this machine, write a report."""
    from pipeline import recipes, registry
    from pipeline.report import terminal
    from pipeline.report.document import write_report
    from pipeline.results import collect
    from pipeline.stages import measure

    usual = [name for name, module in registry.load_all("recipes")[0].items() if not recipes.special(module.RECIPE)]
    build, plan = _build(), _plan("digits_cnn", target="all", recipe=",".join(usual), device="local")
    found = measure.bench(build, plan)
    terminal.show(*terminal.cells(collect.cells(build, [("digits_cnn", "torch")])))
    print(f"the report: {write_report(build)}")
    _raise_failures(found)


@command(can_run_dry=True)
def clean(c: Context, model: str | None = None) -> None:
    """Remove everything in build/ and stop emulated boards; or remove one model's part. --dry only prints it."""
    from pipeline import emulate
    from pipeline.system import store

    build = _build()
    found = _homes(build, model) if model else build.contents()
    if not model and found and not build.tagged and build.root != ROOT / "build":
        raise BadOption(f"{build.root} was not created as a build folder (it has no {store.TAG}): remove it yourself")
    if not found:
        return
    if c.config.run.dry:
        for board in () if model else emulate.running(build):
            print(f"{board}: would be stopped")
        for path in found:
            print(f"would remove {path}")
        return
    with contextlib.ExitStack() as alone:
        for folder in reversed(build.locked()):  # a boot and a bench lock these before the build folder
            alone.enter_context(store.lock(folder, "clean"))
        for board in () if model else emulate.BOARDS:
            if emulate.stop(build, board):
                print(f"{board}: stopped")
        for path in found if model else build.contents():
            store.remove(path)
            print(f"removed {path}")


def _homes(build: Store, word: str) -> list[Path]:
    """The folders of a model: one per framework, and the comparison's.

    Raises:
        BadOption: there are none.
    """
    from pipeline import registry, sources
    from pipeline.errors import BadModel, UnknownName

    kinds = {f".{name}" for name in (*registry.names("frameworks"), "frameworks")}
    existing = [path for path in sorted(build.root.glob("*")) if path.suffix in kinds and path.is_dir()]
    name = word
    with contextlib.suppress(UnknownName, BadModel):  # its model folder may have been removed
        name = sources.find(_model(word)).spec.name
    homes = [path for path in existing if path.stem == name]
    if not homes:
        raise BadOption(f"{build.root} has nothing of {name!r} (it has: {_listed(path.stem for path in existing)})")
    return homes


# -- listings ----------------------------------------------------------------------------------------------------------


@command()
def models(_c: Context) -> None:
    """List the models."""
    from pipeline import sources
    from pipeline.report import terminal

    terminal.show(terminal.models({name: sources.find(name) for name in sources.names()}))


@command()
def recipes(_c: Context) -> None:
    """List the quantization recipes."""
    from pipeline import registry
    from pipeline.report import terminal

    loaded, broken = registry.load_all("recipes")
    found = [module.RECIPE for module in loaded.values()]
    terminal.show(terminal.recipes(found), *terminal.broken("recipe", broken))


@command()
def targets(_c: Context) -> None:
    """List the export targets, and the recipes that each does not support."""
    from pipeline import registry
    from pipeline.report import terminal

    loaded, broken = registry.load_all("targets")
    recipes, frameworks = (registry.load_all(folder)[0] for folder in ("recipes", "frameworks"))
    shown = terminal.targets(loaded, [module.RECIPE for module in recipes.values()], list(frameworks))
    terminal.show(*shown, *terminal.broken("target", broken))


@command(name="list", default=True)
def devices_list(_c: Context) -> None:
    """List the devices of devices.toml with their status, and the phones that adb sees."""
    from pipeline import devices, registry
    from pipeline.report import terminal

    build, known = _build(), devices.devices().values()
    states = [(device.device, device.describe(), device.unavailable(build)) for device in known]
    loaded, broken = registry.load_all("devices")
    nouns = [device.device for device in known]
    seen = [(name, line) for name, kind in loaded.items() for line in kind.discover(build, nouns)]
    terminal.show(terminal.devices(states, seen), *terminal.broken("kind", broken))


@command(name="emulate")
def devices_emulate(_c: Context, board: str | None = None, stop: bool = False) -> None:
    """Start an emulated board or phone, reached over SSH or adb like a real one; --stop stops it (or all)."""
    from pipeline import emulate

    build = _build()
    if stop:
        for name in [board] if board else emulate.BOARDS:
            print(f"{name}: {'stopped' if emulate.stop(build, name) else 'was not running'}")
        return
    if board is None:
        raise BadOption(f"which board? --board {', '.join(emulate.BOARDS[:-1])} or {emulate.BOARDS[-1]}")
    if board == emulate.PHONE:
        _app(build)
    print(f"{board}: {emulate.boot(build, board)}; the device {board}-emulated is ready")


@command(name="setup")
def devices_setup(_c: Context, device: str, target: str = "all") -> None:
    """Install edge-bench and the runtimes for these targets on a device; what the device has is not sent again."""
    from pipeline import devices
    from pipeline.stages import push as pushing
    from pipeline.stages.plan import plugins, refuse_unmeasurable

    bound, targets = devices.find(device), plugins("targets", _split(target))
    if target != "all":
        refuse_unmeasurable([bound], targets)
    failed = []
    for runtime, reason in pushing.setup(_build(), bound, targets):
        print(f"{runtime}: {reason or 'ready'}")
        failed += [reason] if reason else []
    if failed:
        raise PipelineError(f"{len(failed)} runtimes cannot be installed on {device}")


@command(name="clean")
def devices_clean(_c: Context, device: str) -> None:
    """Remove what setup and push copied to a device."""
    from pipeline import devices

    print(f"{device}: {devices.find(device).clean(_build()):,} bytes freed")


@command(name="probe")
def devices_probe(_c: Context, device: str, output: str | None = None) -> None:
    """Check on a device what Lastmile assumes about it, in about a minute; writes one JSON file for an issue."""
    from pipeline import devices
    from pipeline.report import terminal
    from pipeline.system import store

    build = _build()
    path = _path(output) or build.root / "probes" / f"{device}.json"
    probe = devices.find(device).probe(build)
    store.write(path, probe)
    terminal.show(*terminal.probe(probe))
    print(f"\n{path}: no serial number and no address is in it; attach it to an issue")


@command(name="floor")
def devices_floor(_c: Context, device: str, target: str = "all", processes: str = "5") -> None:
    """Measure what one call of each runtime costs on a device; tables then mark latencies that are near it."""
    from pipeline import devices
    from pipeline.stages import floor
    from pipeline.stages.plan import plugins, refuse_unmeasurable

    bound, targets, count = devices.find(device), plugins("targets", _split(target)), _whole("processes", processes)
    if count < 1:
        raise BadOption("--processes must be at least 1")
    if target != "all":
        refuse_unmeasurable([bound], targets)
    for found, path in floor.measure(_build(), bound, targets, count):
        unit = "instructions" if bound.options.get("clock") == "instructions" else "ns"
        print(f"{found.runtime} {found.version}: {found.ns:,.0f} {unit} a call ({path})")


@command(name="build")
def android_build(
    _c: Context, abi: str = "arm64-v8a", engine: str = "litert,executorch", debug: bool = False, release: bool = False,
    keystore: str | None = None, key_alias: str | None = None, aar: bool = False, phone: bool = False,
) -> None:  # fmt: skip
    """Build the Android app without an Android SDK: build/android/lastmile.apk; --debug: debuggable."""
    from pipeline import android
    from pipeline.android import package

    if debug and release:
        raise BadOption("--debug and --release exclude each other: use one of them")
    if key_alias and not keystore:
        raise BadOption("--key-alias names a key of --keystore: add --keystore")
    if keystore and not _place(keystore).is_file():
        raise BadOption(f"--keystore {_place(keystore)}: no such file")
    key = package.Key(_path(keystore), key_alias) if keystore else package.DEBUG_KEY
    options = android.Options(tuple(_words(abi)), tuple(_words(engine)), debug, key)
    options.check()
    build = _build()
    if aar:
        print(android.aar(build))
        return
    _app(build, options, phone)


@command()
def doctor(_c: Context) -> None:
    """Check the installation and print a fix for each problem."""
    from pipeline.report import terminal
    from pipeline.stages import doctor as examining

    checks = examining.doctor(_build())
    terminal.show(*terminal.checks(checks))
    failed = [check.name for check in checks if check.fix and not check.optional]
    if failed:
        raise PipelineError(f"{len(failed)} required check{'s' * (len(failed) > 1)} failed: {', '.join(failed)}")


@command(name="download")
def data_download(_c: Context, dataset: str = "cifar10", to: str = "data") -> None:
    """Fetch a dataset's official archive and verify its checksum."""
    from pipeline import registry

    module = registry.load("datasets", dataset)
    if not hasattr(module, "download"):
        raise BadOption(f"{dataset} has no official archive to fetch")
    print(module.download(_place(to)))


@command()
def tensorboard(_c: Context) -> None:
    """Open TensorBoard over every training in build/."""
    os.execv(sys.executable, [sys.executable, "-m", "tensorboard.main", "--logdir", str(_build().root)])


# -- developing --------------------------------------------------------------------------------------------------------


@command()
def lint(_c: Context) -> None:
    """Check style and types: ruff and mypy."""
    from pipeline import registry

    registry.require({"ruff": "dev", "mypy": "dev"})
    _run_or_exit("ruff", "check", ".")
    _run_or_exit("ruff", "format", "--check", ".")
    _run_or_exit("mypy")
    _run_or_exit("mypy", "--config-file", "edge-bench/pyproject.toml", "edge-bench/src")


@command()
def test(_c: Context, match: str | None = None) -> None:
    """Run ruff, mypy and every test."""
    from pipeline import registry
    from pipeline.errors import NeedsTool
    from pipeline.system import packages
    from pipeline.system.progress import say

    registry.require({"pytest": "dev", "xdist": "dev", **packages.TESTED})
    if match is None:
        lint.body(_c)
    try:
        packages.install()
    except NeedsTool as error:  # the tests that need them are skipped, or fail if CI=true
        say(f"{error}")
    # How they share the tests: Sharing in tests/conftest.py.
    together = ["--numprocesses", "2", "--dist", "loadscope", "--no-loadscope-reorder"]
    _run_or_exit("pytest", *(["-k", match] if match else together))


@command()
def docs(_c: Context) -> None:
    """Build the documentation as a site: build/site/index.html. A dead link fails."""
    os.environ["NO_MKDOCS_2_WARNING"] = "1"
    _run_or_exit("mkdocs", "build", "--strict")


# -- parsing -----------------------------------------------------------------------------------------------------------


def _build() -> Store:
    from pipeline.system.store import Store

    root = Path(os.environ.get("LASTMILE_BUILD") or ROOT / "build")
    if root.exists() and not root.is_dir():
        raise BadOption(f"the build folder {root} is not a folder: remove it, or set LASTMILE_BUILD to another path")
    return Store(root)


def _plan(
    model: str, framework: str = "torch", target: str = "all", recipe: str = "all", device: str | None = None,
    *, data: str | None = None, weights: str | None = None, training: TrainingOptions | None = None,
) -> Plan:  # fmt: skip
    """The plan that a command's options ask for; see `Plan.resolve`."""
    from pipeline.stages.plan import Plan, TrainingOptions

    return Plan.resolve(
        _model(model),
        frameworks=_split(framework),
        recipes=_recipes(recipe),
        targets=_split(target),
        devices=_split(device) if device else (),
        data=_path(data),
        weights=_path(weights),
        training=training or TrainingOptions(),
    )


def _checkpoints(build: Store, framework: str) -> list[tuple[str, str]] | None:
    """(model, framework) of the checkpoints of these frameworks; None for all that exist."""
    from pipeline.stages.plan import plugins

    if framework == "all":
        return None
    names = [plugin.name for plugin in plugins("frameworks", _split(framework))]
    return [pair for pair in build.models() if pair[1] in names]


def _print_checkpoint(build: Store, checkpoint: Checkpoint) -> None:
    from pipeline import tasks

    folder = build.checkpoint(checkpoint.spec.name, checkpoint.framework)
    metric = tasks.of(checkpoint.spec).TITLE
    print(f"{folder}: {checkpoint.accuracy:.2%} {metric} on {checkpoint.samples} test samples ({checkpoint.origin})")


def _app(build: Store, options: android.Options | None = None, phone: bool = True) -> Path:
    """Builds the Android app with a model inside, and what an emulated phone runs; prints their sizes.

    Returns:
        The APK's path.
    """
    from pipeline import android
    from pipeline.stages import export as exporting

    outcomes = exporting.export(build, _plan("digits_cnn", target=",".join(android.TARGETS), recipe="fp32,int8"))
    exporting.raise_if_failed(outcomes)
    models = [outcome.path.parent for outcome in outcomes if outcome.path]
    made = android.build(build, models, options or android.Options())
    print(android.line(made, android.path(build)))
    if phone:
        from pipeline.android import phone as phones

        print(f"{phones.make(build, models, made)}: the same for an emulated phone")
    return android.path(build)


def _benched(build: Store, plan: Plan, options: MeasureOptions) -> tuple[list[Result], ExportsFailed | None]:
    """What was measured; and why an export failed, which is reported after the table of the others."""
    from pipeline.stages import measure

    try:
        return measure.bench(build, plan, options), None
    except ExportsFailed as error:
        return [], error


def _cells(build: Store, plan: Plan, recipes: Iterable[str], margin: float = 1.0) -> list[Cell]:
    """What a plan's targets are under these recipes on its devices, and what they do not run."""
    from pipeline.results import collect

    models = [(plan.model.spec.name, framework.name) for framework in plan.frameworks]
    targets, devices = [target.name for target in plan.targets], [None, *(device.name for device in plan.devices)]
    return [
        cell
        for cell in collect.cells(build, models, margin)
        if cell.target in targets and cell.recipe in recipes and cell.device in devices
    ]


def _raise_failures(found: Sequence[Result | ReadyResult]) -> None:
    """Ends the command with exit code 2 and the first failure of each device, if there are failures."""
    first = {result.device: result.failure for result in reversed(found) if result.failure}
    if len(first) == 1:
        raise first.popitem()[1]
    texts = {name: _one_line(failure) for name, failure in reversed(first.items())}
    lines = [f"error: {text if name in text else f'{name}: {text}'}" for name, text in texts.items()]
    if lines:
        raise Exit("\n".join(lines), code=2)


def _budget(devices: tuple[BoundDevice, ...], check: str | None, record: str | None) -> Budget:
    """The recorded counts, read before anything is measured; empty if there are none to read.

    Raises:
        BadOption, Unsupported: both options, an invalid file, or a device that does not count instructions.
    """
    from pipeline.results import instruction_budget

    if check and record:
        raise BadOption("--check and --record exclude each other: use one of them")
    if check or record:
        for device in devices:
            instruction_budget.require_clock(device)
    file = _place(check or record or "")
    if check or (record and file.exists()):
        return instruction_budget.read(file)
    if record and not file.parent.is_dir():
        raise BadOption(f"--record {file}: there is no folder {file.parent}")
    return instruction_budget.Budget(())


def _check_growth(found: list[Comparison]) -> None:
    """Prints the counts beside the recorded ones. Exits with code 1 if one grew or lacks its counterpart."""
    from pipeline.report import terminal
    from pipeline.results import instruction_budget

    terminal.show("", terminal.budget(found))
    messages = [(one.fails, one.message) for one in found if one.message]
    for fails, line in messages:
        if not fails:
            print(line)
    if any(fails for fails, _ in messages):
        raise Exit("\n".join(str(line) for fails, line in messages if fails), code=1)
    print(f"{len(found)} counts within {instruction_budget.GROWTH:.0%} of the recorded ones, or below")


def _split(text: str) -> list[str] | str:
    """The names in "a,b" for `Plan.resolve`; "all" is not changed."""
    return text if text == "all" else _words(text)


def _recipes(text: str) -> list[str] | str:
    """As `_split`; the paths of recipe files are relative to the folder that the user called from."""
    names = _split(text)
    if isinstance(names, str):
        return names
    return [str(_path(name)) if name.endswith((".toml", ".json")) else name for name in names]


def _words(text: str) -> list[str]:
    """The words of "a,b" without duplicates."""
    return list(dict.fromkeys(word.strip() for word in text.split(",")))


def _path(text: str | None) -> Path | None:
    return _place(text) if text else None


def _place(text: str) -> Path:
    try:
        return FROM / Path(text).expanduser()
    except RuntimeError as error:
        raise BadOption(f"{text}: there is no such user") from error


def _output(option: str, text: str) -> Path:
    """The path of a file to write.

    Raises:
        BadOption: it cannot be written there.
    """
    path = _place(text)
    if not path.parent.is_dir() or path.is_dir():
        raise BadOption(f"--{option} {path}: {'a folder' if path.is_dir() else f'there is no folder {path.parent}'}")
    return path


def _model(word: str) -> str:
    """--model with a path relative to the user's folder; the name of a built-in model is not changed."""
    from pipeline import sources

    name, colon, options = word.partition(":")
    is_path = name not in sources.names() and _place(name).is_dir()
    return f"{_place(name)}{colon}{options}" if is_path else word


def _number(option: str, text: str | None, kind: type) -> Any:
    """
    Raises:
        BadOption: the text is not such a number.
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


def _refuse_left_out(found: History) -> None:
    """Ends the command with exit code 2 and a line for each file of a history that cannot be used, if there are any."""
    lines = [f"error: {left.file}: {left.reason}" for left in found.left_out]
    if lines:
        raise Exit("\n".join(lines), code=2)


def _margin(text: str) -> float:
    from pipeline.results import verdicts

    margin = _real("margin", text)
    verdicts.check(margin)
    return margin


def _listed(names: Any) -> str:
    return ", ".join(sorted(set(names))) or "nothing"


def _one_line(error: Exception | str) -> str:
    """The message in one line. Other programs' words are in it, so what is not printable is escaped."""
    line = " ".join(str(error).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _system_error(error: OSError) -> str:
    """An error of the operating system in one line."""
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left on the disk: free some and run the command again; nothing was lost"
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else _one_line(error)


def _run_or_exit(module: str, *words: str) -> None:
    """Runs a Python module as a program with this terminal; its failure ends this command."""
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
    compare,
    gate,
    diff,
    trace,
    drift,
    sensitivity,
    tune,
    ship,
    verify,
    results,
    report,
    history,
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
namespace.add_collection(
    Collection("devices", devices_list, devices_setup, devices_clean, devices_emulate, devices_probe, devices_floor)
)
namespace.add_collection(Collection("data", data_download))
namespace.add_collection(Collection("android", android_build))


def _open_streams() -> None:
    """Opens the null device for each standard stream that is closed. A file would get its number, and what is printed
    would go into that file."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(number, mode))  # noqa: PTH123, SIM115 (a descriptor, as long as this process)


if __name__ == "__main__":
    _open_streams()
    Lastmile(name="inv", binary="inv", binary_names=["./inv"]).run()
