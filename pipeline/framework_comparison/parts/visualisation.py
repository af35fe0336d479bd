"""Visualisation: what each puts into TensorBoard with what this project does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pipeline.framework_comparison.parts import EXACT, FRAMEWORKS, Found, Row, Run, Side
from pipeline.framework_comparison.parts._trainings import WAYS, home, train_in_turn
from pipeline.system import store, tensorboard

ORDER = 5
TITLE = "Visualisation"
ABOUT = (
    "One epoch in each, and then what is in its TensorBoard run, read back with TensorBoard's own reader. This project "
    "writes all of it but the graph from numpy, so the two lie over each other; the graph is what each framework's own "
    "tracer gives: TorchScript's, and tf.function's."
)

KINDS = {
    "scalars": "curves", "histograms": "histograms of weights", "images": "pictures of mistakes",
    "hparams": "records of hyper-parameters", "graphs": "graphs",
}  # fmt: skip
"""TensorBoard's plug-ins, and what they show."""


def prepare(run: Run) -> object:
    """See `Comparison.prepare`."""
    return [run.make(name).dataset_sha256 for name in FRAMEWORKS]


def measure(run: Run) -> Found:
    """See `Comparison.measure`."""
    turns = train_in_turn(run, WAYS[0], epochs=1, rounds=1)
    seen = {name: _read(run, name) for name in FRAMEWORKS if name not in turns.reasons}

    def row(what: str, unit: str, better: str, count: Callable[[_Seen], int]) -> Row:
        sides = {
            name: Side(((float(count(seen[name])),),)) if name in seen else Side(reason=turns.reasons[name])
            for name in FRAMEWORKS
        }
        return Row("In TensorBoard", what, unit, better, EXACT, sides)

    rows = [
        *(row(what, "tags", "neither", partial(_Seen.count, kind=kind)) for kind, what in KINDS.items()),
        row("points in the projector", "points", "neither", lambda one: one.projected),
        row("nodes of the graph", "nodes", "neither", lambda one: len(one.nodes)),
        row("layers with weights", "layers", "neither", lambda one: len(one.layers)),
        row("of them found by name in the graph", "layers", "higher", lambda one: sum(map(one.shows, one.layers))),
        row("size of the run", "kB", "lower", lambda one: round(one.size_bytes / 1000)),
    ]
    return Found(tuple(rows), notes=_differences(seen), loaded=turns.loaded)


@dataclass(frozen=True)
class _Seen:
    """What TensorBoard reads of a run.

    Attributes:
        kinds: the plug-in of each tag.
        layers: names of those with histograms.
    """

    tags: tuple[str, ...]
    kinds: tuple[str, ...]
    nodes: tuple[str, ...]
    layers: tuple[str, ...]
    projected: int
    size_bytes: int

    def count(self, kind: str) -> int:
        """How many tags a plug-in shows."""
        return self.kinds.count(kind)

    def shows(self, layer: str) -> bool:
        """Whether the graph has a node that says this layer: "a_b/…" or "Sequential[a]/Conv2d[b]/…"."""
        return any(layer in node or layer in "_".join(re.findall(r"\[(\w+)\]", node)) for node in self.nodes)


def _read(run: Run, framework: str) -> _Seen:
    (folder,) = home(run, framework).root.glob("*/tensorboard/*/")
    found = tensorboard.tags(folder)
    names = [name.removeprefix("weights/").rpartition(".")[0] for name in found if name.startswith("weights/")]
    features = folder / "features.tsv"
    return _Seen(
        tags=tuple(sorted(found)),
        kinds=tuple(tag.plugin for tag in found.values()),
        nodes=tuple(tensorboard.graph_nodes(folder)),
        layers=tuple(dict.fromkeys(names)),
        projected=len(features.read_text().splitlines()) if features.is_file() else 0,
        size_bytes=store.size(folder),
    )


def _differences(seen: dict[str, _Seen]) -> tuple[str, ...]:
    """Tags that one has and the other has not, but for the pictures, which are of the mistakes of each."""
    if len(seen) < len(FRAMEWORKS):
        return ()
    own = {name: {tag for tag in one.tags if not tag.startswith("mistaken/")} for name, one in seen.items()}
    alone = {name: sorted(own[name] - own[other]) for name, other in (("torch", "keras"), ("keras", "torch"))}
    return tuple(
        f"Only in {FRAMEWORKS[name]}'s: {', '.join(tags)}."
        if tags
        else f"Every tag of {FRAMEWORKS[name]}'s is in both."
        for name, tags in alone.items()
    )
