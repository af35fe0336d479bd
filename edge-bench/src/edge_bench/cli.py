"""The command line: parses the arguments, calls one function and prints one JSON object.

Standard output contains only that object; everything else goes to standard error. The exit code is 0, or 2 with an
error message of one line, or 130 after Ctrl-C. Slow imports come after the arguments have been checked.
"""

from __future__ import annotations

import argparse
import atexit
import faulthandler
import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .errors import BadSamples, EdgeBenchError

if TYPE_CHECKING:
    from . import model
    from .samples import Samples

INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"edge-bench: {message}; see {self.prog} --help\n")
        raise SystemExit(2)


def entry() -> NoReturn:
    """Entry point of the installed command.

    The process ends without tearing down the interpreter, which takes half a second with torch: everything is written
    and every temporary file is removed by then.
    """
    from . import runtimes

    runtimes.own_process = True
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        code = INTERRUPTED
    atexit._run_exitfuncs()
    sys.stderr.flush()
    os._exit(code)


def main(arguments: Sequence[str]) -> int:
    """Runs one command. Returns the exit code."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    # numpy's linear algebra is never used, and its idle threads would run beside the measured ones.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from . import streams

    stdout = streams.claim_stdout()
    faulthandler.enable(os.dup(streams.STDERR))  # shows a crash of a runtime even while its output is captured
    try:
        result = options.command(options)
        with stdout:
            stdout.write(json.dumps(result, indent=2) + "\n")
    except EdgeBenchError as error:
        sys.stderr.write(f"edge-bench: {' '.join(str(error).split())}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"edge-bench: {error.filename or 'standard output'}: {error.strerror or error}\n")
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser("edge-bench", description="Measure a model file on the machine it runs on.")
    top.add_argument("--version", action="version", version=f"edge-bench {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    run = commands.add_parser("run", help="measure latency and memory")
    _add_model(run)
    run.add_argument(
        "--min-runs", type=_positive, default=64, metavar="N", help="minimum number of raw samples (default 64)"
    )
    run.add_argument("--min-seconds", type=_seconds, default=1.0, metavar="S", help="minimum time (default 1.0)")
    run.add_argument("--warmup-seconds", type=_seconds, default=0.25, metavar="S", help="warm-up time (default 0.25)")
    run.add_argument("--cpus", type=_cpus, default=(), metavar="LIST", help="run only on these CPUs, such as 0-3,6")
    run.add_argument("--inputs", type=Path, metavar="NPY", help="run on its first sample instead of pseudo-random data")
    run.add_argument("--out", type=Path, metavar="JSON", help="also write the measurement to this file")
    run.set_defaults(command=_run)

    predict = commands.add_parser("predict", help="write all outputs for all samples")
    _add_model(predict)
    predict.add_argument("--inputs", type=Path, metavar="NPY", required=True, help="samples, (N, H, W, C) or (N, …)")
    predict.add_argument("--out", type=Path, metavar="NPZ", required=True, help="file for the outputs")
    predict.add_argument("--start", type=_natural, default=0, metavar="I", help="first sample (default 0)")
    predict.add_argument("--count", type=_positive, metavar="N", help="number of samples (default: all from --start)")
    predict.add_argument("--progress", action="store_true", help="print progress on standard error")
    predict.add_argument("--keep-input", action="store_true", help="also write the inputs as the runtime gets them")
    predict.set_defaults(command=_predict)

    inspect = commands.add_parser("inspect", help="list the inputs and outputs of a model file")
    inspect.add_argument("artifact", type=Path, help="a model file; its suffix determines the runtime")
    inspect.add_argument("--runtime", metavar="NAME", help="another runtime than the default of the suffix")
    inspect.set_defaults(command=_inspect)

    verify = commands.add_parser("verify", help="check every file of a bundle of Lastmile's, and its signature")
    verify.add_argument("bundle", type=Path, help="the bundle's folder")
    verify.add_argument("--key", type=Path, metavar="PEM", help="the public key of the signer; needs cryptography")
    verify.set_defaults(command=_verify)

    commands.add_parser("facts", help="describe this machine").set_defaults(command=_facts)
    commands.add_parser("runtimes", help="list the runtimes").set_defaults(command=_runtimes)
    return top


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("artifact", type=Path, help="a model file; its suffix determines the runtime")
    command.add_argument("--runtime", metavar="NAME", help="another runtime than the default of the suffix")
    command.add_argument("--threads", type=_positive, default=1, metavar="N", help="threads of the runtime (default 1)")
    command.add_argument("--layout", choices=["NHWC", "NCHW"], help="NCHW: convert (H, W, C) samples to channels first")
    command.add_argument("--verbose", action="store_true", help="show what the runtime prints while it loads")


def _run(options: argparse.Namespace) -> dict[str, Any]:
    from . import files, measure

    if options.out is not None:
        files.check_writable(options.out)
    effort = measure.Effort(options.min_runs, options.min_seconds, options.warmup_seconds)
    samples = _samples(options)
    result = measure.run(_job(options), samples, effort)
    if options.out is not None:
        with files.writing(options.out) as file:
            file.write((json.dumps(result, indent=2) + "\n").encode())
    return result


def _predict(options: argparse.Namespace) -> dict[str, Any]:
    from . import predict

    span = predict.Span(options.start, options.count, options.progress, options.keep_input)
    samples = _samples(options)
    assert samples is not None  # argparse requires --inputs
    return predict.predict(_job(options), samples, span, options.out)


def _inspect(options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    from . import model

    loaded = model.load(model.Job(options.artifact, options.runtime))
    return {
        "schema": 1,
        **loaded.artifact,
        "runtime": loaded.runtime,
        "inputs": [asdict(info) for info in loaded.session.inputs],
        "outputs": [asdict(info) for info in loaded.session.outputs],
        "tools": loaded.tools,
    }


def _verify(options: argparse.Namespace) -> dict[str, Any]:
    from . import bundle

    result = bundle.verify(options.bundle, options.key)
    return result


def _job(options: argparse.Namespace) -> model.Job:
    from . import model

    pinned = getattr(options, "cpus", ())
    return model.Job(options.artifact, options.runtime, options.threads, options.verbose, pinned)


def _samples(options: argparse.Namespace) -> Samples | None:
    from .samples import Samples

    if options.layout is not None and options.inputs is None:
        raise BadSamples("--layout requires --inputs")
    return None if options.inputs is None else Samples(options.inputs, options.layout)


def _facts(_: argparse.Namespace) -> dict[str, Any]:
    from . import facts

    return {"schema": 2, "device": facts.device(), **facts.state(), "tools": facts.tools()}


def _runtimes(_: argparse.Namespace) -> dict[str, Any]:
    from . import runtimes

    listed: list[dict[str, Any]] = []
    loaded, broken = runtimes.load_all()
    for name in runtimes.names():
        if name in broken:
            unusable = {"suffix": None, "default": False, "available": False, "version": None}
            listed.append({"name": name, **unusable, "reason": broken[name], "install": None})
            continue
        runtime = loaded[name]
        reason = runtimes.missing(runtime)
        listed.append(
            {
                "name": name,
                "suffix": runtime.SUFFIX,
                "default": runtime.DEFAULT,
                "available": reason is None,
                "version": runtimes.version(runtime) if reason is None else None,
                "reason": reason,
                "install": runtimes.install_line(runtime),
            }
        )
    return {"schema": 1, "runtimes": listed}


def _positive(text: str) -> int:
    return _at_least(1, text)


def _natural(text: str) -> int:
    return _at_least(0, text)


def _at_least(minimum: int, text: str) -> int:
    if not text.isdecimal() or int(text) < minimum:
        raise argparse.ArgumentTypeError(f"must be an integer of at least {minimum}, not {text!r}")
    return int(text)


def _cpus(text: str) -> list[int]:
    from . import cpus

    try:
        return cpus.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a list of CPUs such as 0-3,6, not {text!r}") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise argparse.ArgumentTypeError(f"must be a number of seconds of at least 0, not {text!r}")
    return seconds


def _terminate(signal_number: int, _: object | None) -> NoReturn:
    # As an exception, so that temporary files are removed on the way out.
    raise SystemExit(128 + signal_number)
