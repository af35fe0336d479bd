"""Training: speed, time to a given accuracy and memory, with one worker, two workers and GPUs."""

from __future__ import annotations

from dataclasses import replace
from math import floor

from pipeline.framework_comparison.parts import FRAMEWORKS, MEASURED, Curve, Found, Row, Run, Side
from pipeline.framework_comparison.parts._trainings import WAYS, Way, train_in_turn
from pipeline.framework_comparison.parts._turns import Turns, together

ORDER = 3
TITLE = "Training"
ABOUT = (
    "Complete trainings with inv train and the same hyperparameters, each in its own process, with a new seed in each "
    "round. Samples per second: over all epochs, including evaluation, saving the state after each epoch, and any "
    "compilation in the first. Time to an accuracy: from the start of the first epoch until the validation accuracy is "
    "reached. Peak memory: of the largest training process; on GPUs, of the tensors on the first GPU, without the "
    "memory of CUDA itself and the reserve of each framework's allocator."
)


def prepare(run: Run) -> object:
    """See `Comparison.prepare`. The checkpoints name the data."""
    return [run.make(name).dataset_sha256 for name in FRAMEWORKS], run.epochs, run.accuracy


def measure(run: Run) -> Found:
    """See `Comparison.measure`."""
    rows: list[Row] = []
    curves: list[Curve] = []
    notes: list[str] = []
    every: list[Turns] = []
    for way in WAYS:
        if way.accelerator == "cuda" and way.devices > 1 and len(every[-1].reasons) == len(FRAMEWORKS):
            continue  # there is no GPU at all, as the rows before report
        turns = train_in_turn(run, way, run.epochs)
        every.append(turns)
        rows += _rows(run, way, turns, notes)
        curves += [
            Curve(f"Validation accuracy, {way.name}", name, tuple((x, y) for x, y in found["curve"]))
            for name in FRAMEWORKS
            for found in turns.found[name]
        ]
    return Found(tuple(rows), tuple(curves), tuple(notes), together(*every))


def _rows(run: Run, way: Way, turns: Turns, notes: list[str]) -> list[Row]:
    table = f"Training, {way.name}"
    reached = [max(y for _, y in found["curve"]) for name in FRAMEWORKS for found in turns.found[name]]
    level = run.accuracy if run.accuracy is not None else floor(100 * min(reached, default=1.0)) / 100

    wanted = f"time to {level:.0%} validation accuracy" if reached else "time to a given accuracy"

    def row(what: str, unit: str, better: str, key: str, scale: float = 1.0) -> Row:
        sides = {name: _scaled(turns.side(name, key), scale) for name in FRAMEWORKS}
        return Row(table, what, unit, better, MEASURED, sides)

    if reached and run.accuracy is None:
        notes.append(f"{way.name}: {level:.0%} is the highest whole percent of accuracy that every training reached.")
    return [
        row("samples per second", "samples/s", "higher", "samples_per_second"),
        Row(table, wanted, "s", "lower", MEASURED, _time_to(turns, level)),
        row("peak memory", "MB", "lower", "peak_bytes", 1e-6),
        row("final test accuracy", "%", "higher", "accuracy", 100),
    ]


def _time_to(turns: Turns, level: float) -> dict[str, Side]:
    """Seconds until this validation accuracy was reached."""
    sides = {}
    for name in FRAMEWORKS:
        if name in turns.reasons:
            sides[name] = Side(reason=turns.reasons[name])
            continue
        first = [next((x for x, y in found["curve"] if y >= level), None) for found in turns.found[name]]
        missed = first.count(None)
        if missed:
            sides[name] = Side(reason=f"not reached in {missed} of {len(first)} trainings")
        else:
            sides[name] = Side(tuple((round(x, 4),) for x in first if x is not None))
    return sides


def _scaled(side: Side, scale: float) -> Side:
    return replace(side, samples=tuple(tuple(value * scale for value in samples) for samples in side.samples))
