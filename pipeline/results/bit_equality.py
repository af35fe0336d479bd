"""Bit-for-bit comparisons: one static recipe across targets, and one file across numbers of threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby

from pipeline import formatting, stats
from pipeline.core import Cell
from pipeline.results.rows import Row, has_classes, outputs


@dataclass(frozen=True)
class Equality:
    """The outputs of two targets under one static recipe, on the same device and the same samples.

    Attributes:
        one_graph: whether both files were lowered from the same quantized graph. If not, each converter quantized on
            its own.
        equal: number of samples, of `samples`, whose outputs are bit-equal.
        agreement: share of samples with the same top-1; None without classes.
        max_error: largest absolute difference of any output.
    """

    model: str
    framework: str
    recipe: str
    device: str
    first: str
    second: str
    one_graph: bool
    equal: int
    samples: int
    agreement: float | None
    max_error: float


def equalities(found: Iterable[Row]) -> list[Equality]:
    """One comparison for every two targets measured under the same static recipe on the same device."""

    def group(row: Row) -> tuple[str, str, str, str, int]:
        cell = row.cell
        return cell.model, cell.framework, cell.recipe, formatting.device(cell), cell.samples or 0

    measured = (row for row in found if row.measurement and row.cell.status == "ok" and row.cell.graph_parity)
    groups = groupby(sorted(measured, key=group), key=group)
    return [equality for _, rows in groups for equality in _compare(list(rows))]


@dataclass(frozen=True)
class OverThreads:
    """One file on several threads compared with one thread, on the same device and the same samples.

    Attributes:
        equal: number of samples, of `samples`, whose outputs are bit-equal.
    """

    one: Cell
    many: Cell
    equal: int
    samples: int


def over_threads(found: Iterable[Row]) -> list[OverThreads]:
    """Pairs each multi-threaded row with the single-threaded row of the same file, device and samples."""
    rows = [row for row in found if row.measurement and row.cell.status == "ok"]
    ones = {_file(row.cell): row for row in rows if row.cell.threads == 1}
    pairs = [(ones[_file(row.cell)], row) for row in rows if row.cell.threads != 1 and _file(row.cell) in ones]
    return [
        OverThreads(one.cell, many.cell, stats.equal_count(outputs(one), outputs(many)), many.cell.samples or 0)
        for one, many in pairs
    ]


def _file(cell: Cell) -> tuple[str | int | None, ...]:
    return cell.model, cell.framework, cell.recipe, cell.target, cell.device, cell.hardware, cell.samples


def _compare(rows: Sequence[Row]) -> Iterator[Equality]:
    """All pairs of targets of one model, recipe and device."""
    with_outputs = [(row, outputs(row)) for row in rows]
    for (a, left), (b, right) in combinations(with_outputs, 2):
        distance = stats.parity(a.cell.target, left, right, [None] * len(left), has_classes(a))
        yield Equality(
            model=a.cell.model,
            framework=a.cell.framework,
            recipe=a.cell.recipe,
            device=formatting.device(a.cell),
            first=a.cell.target,
            second=b.cell.target,
            one_graph=all(row.artifact is not None and row.artifact.quantized_by == "graph" for row in (a, b)),
            equal=stats.equal_count(left, right),
            samples=distance.samples,
            agreement=distance.top1_agreement,
            max_error=distance.max_error,
        )
