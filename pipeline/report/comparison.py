"""Two artifacts compared on a device: a table and the verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import formatting
from pipeline.formatting import NONE
from pipeline.report import terminal
from pipeline.results import ratios
from pipeline.results.comparison import COUNTED, Comparison

if TYPE_CHECKING:
    from rich.console import RenderableType


def parts(found: Comparison) -> list[RenderableType]:
    """The figures of both files with their ratio, then a line for each verdict."""
    from rich.text import Text

    head = f"{found.device}{' (emulated)' if found.emulated else ''}: {found.hardware}"
    rows = [_cost(found), _size(found), *_accuracy(found)]
    figures = terminal.table(("", "old", "new", "new / old", "verdict"), rows, left=1)
    sides = [_side("old", found.old, found.old_runtime), _side("new", found.new, found.new_runtime)]
    return [Text(head, "bold"), *sides, figures, *notes(found)]


def notes(found: Comparison) -> list[str]:
    """What the verdicts mean."""
    lines = []
    if found.alpha is not None and found.resolution is not None:
        extended = ", extended once" if found.alpha == ratios.ALPHAS[-1] else ""
        lines.append(
            f"{found.rounds} rounds{extended}; interval at {100 * (1 - found.alpha):g} %; same: within "
            f"{100 * found.margin:g} %; the resolution is {100 * found.resolution:.2g} %"
        )
    if found.rounds_needed:
        lines.append(f"about {found.rounds_needed:,} rounds would tell: --rounds {found.rounds_needed}")
    if found.accuracy is not None:
        change = found.accuracy
        lines.append(
            f"{change.samples:,} samples: {change.lost} lost, {change.gained} gained (exact McNemar p = {change.p:.2g})"
        )
    else:
        lines.append(f"accuracy not compared: {found.accuracy_unknown}")
    return lines


def _side(side: str, name: str, runtime: str) -> str:
    return formatting.one_line(f"{side}: {name} ({runtime})")


def _cost(found: Comparison) -> tuple[str, ...]:
    if found.figure == COUNTED:
        figures = [f"{cost:,.0f}" for cost in (found.old_cost, found.new_cost)]
        return "instructions", *figures, f"{found.ratio:.4f}", found.verdict
    small = min(found.old_cost, found.new_cost) < formatting.MICROSECONDS_BELOW_MS
    unit = formatting.Unit("µs", 1000.0) if small else formatting.Unit("ms", 1.0)
    figures = [unit.text(cost) for cost in (found.old_cost, found.new_cost)]
    return f"median {unit.name}", *figures, ratio(found.ratio, found.interval), found.verdict


def ratio(value: float, interval: tuple[float, float] | None) -> str:
    """1.031 [1.024, 1.038]."""
    return f"{value:.3f}" + ("" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]")


def _size(found: Comparison) -> tuple[str, ...]:
    sizes = [formatting.kilobytes(size) for size in (found.old_bytes, found.new_bytes)]
    return "size kB", *sizes, f"{found.new_bytes / max(found.old_bytes, 1):.3f}", NONE


def _accuracy(found: Comparison) -> list[tuple[str, ...]]:
    change = found.accuracy
    if change is None:
        return []
    drop = f"drop {formatting.points(change.drop_points)} {formatting.interval(change.drop_interval).rstrip('*')}"
    return [("top-1 %", formatting.percent(change.old), formatting.percent(change.new), drop, change.verdict)]
