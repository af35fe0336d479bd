"""Visualisation: what this project writes to TensorBoard for each framework."""

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
    "The TensorBoard run of one epoch in each framework, read with TensorBoard's own reader. This project writes "
    "everything but the graph from numpy, so both runs share their tags. The graph comes from each framework's own "
    "tracer: TorchScript and tf.function."
)

KINDS = {
    "scalars": "curves", "histograms": "histograms of weights", "images": "misclassified images",
    "hparams": "hyperparameter records", "graphs": "graphs",
}  # fmt: skip
"""TensorBoard's plug-ins and what they show."""


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
        row("layers found by name in the graph", "layers", "higher", lambda one: sum(map(one.shows, one.layers))),
        row("size of the run", "kB", "lower", lambda one: round(one.size_bytes / 1000)),
    ]
    return Found(tuple(rows), notes=_differences(seen), loaded=turns.loaded)


@dataclass(frozen=True)
class _Seen:
    """What TensorBoard reads from a run.

    Attributes:
        kinds: the plug-in of each tag.
        layers: names of the layers with histograms.
    """

    tags: tuple[str, ...]
    kinds: tuple[str, ...]
    nodes: tuple[str, ...]
    layers: tuple[str, ...]
    projected: int
    size_bytes: int

    def count(self, kind: str) -> int:
        """The number of tags of a plug-in."""
        return self.kinds.count(kind)

    def shows(self, layer: str) -> bool:
        """Whether the graph has a node that names this layer: "a_b/…" or "Sequential[a]/Conv2d[b]/…"."""
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
    """Tags that only one framework has, without the misclassified images, which differ by nature."""
    if len(seen) < len(FRAMEWORKS):
        return ()
    own = {name: {tag for tag in one.tags if not tag.startswith("mistakes/")} for name, one in seen.items()}
    alone = {name: sorted(own[name] - own[other]) for name, other in (("torch", "keras"), ("keras", "torch"))}
    return tuple(
        f"Only in {FRAMEWORKS[name]}: {', '.join(tags)}." if tags else f"Every tag of {FRAMEWORKS[name]} is in both."
        for name, tags in alone.items()
    )
