"""Graphs: a training step eager and compiled, what the first one costs, and what batches of other sizes cost."""

from __future__ import annotations

from pipeline.framework_comparison.parts import EXACT, Found, Row, Run, Side
from pipeline.framework_comparison.parts._turns import Turns, take

ORDER = 2
TITLE = "Graphs: eager and compiled"
ABOUT = (
    "The same training step on the same random inputs in memory, at the model's own batch size: forward pass, loss, "
    "gradients, AdamW, loss read back. Each round is a new process with an empty compiler cache. The first step "
    "includes tracing and compiling. After it come ten steps with ten new batch sizes (7 to 16), then the same ten "
    "sizes again. tf.function is used as Keras does, with reduce_retracing. torch.compile and XLA both generate code, "
    "so they are compared with each other too."
)

SIZES = tuple(range(7, 17))
LEAST, SECONDS, MOST = 20, 1.0, 200
"""See `_clock.Clock`."""

EAGER = ("eager", {"torch": "eager", "keras": "eager"})
COMPILED = ("compiled: torch.compile against tf.function", {"torch": "compiled", "keras": "compiled"})
GENERATED = ("compiled: torch.compile against tf.function with XLA", {"torch": "compiled", "keras": "xla"})


def prepare(run: Run) -> object:
    """See `Comparison.prepare`."""
    return [run.model.source(name) for name in run.jobs]


def measure(run: Run) -> Found:
    """See `Comparison.measure`."""
    turns = take(run, "training steps", "steps", lambda *_: _request(run))
    rows = [
        *(_row(turns, "A training step", way, "step_ms") for way in (EAGER, COMPILED, GENERATED)),
        *(_row(turns, "The first step", way, "first_ms") for way in (EAGER, COMPILED, GENERATED)),
        *(_row(turns, "Ten steps with new batch sizes", way, "new_ms") for way in (EAGER, COMPILED, GENERATED)),
        *(_row(turns, "Ten more with the same sizes", way, "known_ms") for way in (EAGER, COMPILED, GENERATED)),
        *(_counted(turns, way) for way in (COMPILED, GENERATED)),
    ]
    return Found(tuple(rows), notes=_notes(turns), loaded=turns.loaded)


def _request(run: Run) -> dict[str, object]:
    return {
        "accelerator": run.plan.training.accelerator, "batch_size": run.model.spec.training.batch_size,
        "sizes": SIZES, "least": LEAST, "seconds": SECONDS, "most": MOST,
    }  # fmt: skip


def _row(turns: Turns, table: str, way: tuple[str, dict[str, str]], key: str) -> Row:
    what, ways = way
    return turns.row(f"{table}, ms", what, "ms", "lower", {name: (ways[name], key) for name in ways})


def _counted(turns: Turns, way: tuple[str, dict[str, str]]) -> Row:
    """How often Python was traced in all these steps, which is the same in every round."""
    what, ways = way
    first = {name: turns.side(name, ways[name], "graphs") for name in ways}
    sides = {name: Side(side.samples[:1], reason=side.reason) for name, side in first.items()}
    return Row("Graphs traced for eleven batch sizes", what, "graphs", "lower", EXACT, sides)


def _notes(turns: Turns) -> tuple[str, ...]:
    places = {name: found[0]["device"] for name, found in turns.found.items() if found}
    where = " and ".join(dict.fromkeys(places.values()))
    xla = "The counts are of traces. XLA compiles for every batch size, although Python is traced only twice."
    return (f"Measured on: {where}.", xla) if places else ()
