"""The release gate: what it allows (gates.toml), and the verdict on every figure of every file.

A file passes where the interval of its figure ends within the limit, and fails where the figure is shown to be beyond
it. Failing is tested with Holm's correction over everything that the gate tests, so that a gate of many files raises no
more false alarms than one of a single file. Passing needs none: the gate passes only if every check does.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

from pipeline import formatting, stats
from pipeline.errors import BadOption
from pipeline.results import ratios
from pipeline.results.ratios import Ratio

FILE = "gates.toml"

PASS, FAIL, CANNOT_TELL = "pass", "fail", stats.CANNOT_TELL
EXIT = {PASS: 0, FAIL: 1, CANNOT_TELL: 3}
"""Exit codes of the command."""

ACCURACY, LATENCY, SIZE = "accuracy", "latency", "size"
MEMORY, INSTRUCTIONS, LOAD = "peak memory", "instructions", "load time"

LIMITS = {
    ACCURACY: "drop_points",
    LATENCY: "latency_ratio",
    SIZE: "size_ratio",
    MEMORY: "peak_rss_ratio",
    INSTRUCTIONS: "instructions_ratio",
    LOAD: "load_ratio",
}
"""The key of each figure's limit."""


@dataclass(frozen=True)
class Limits:
    """What one file may lose against the baseline; None where a figure is not checked (`false` in gates.toml).

    Attributes:
        drop_points: top-1, in percentage points.
        latency_ratio, size_ratio, peak_rss_ratio, instructions_ratio, load_ratio: new / old. A process loads a file
            once, so load times have much more noise than medians: they are checked only where gates.toml says so.
        rounds: of one process of each file; see `ratios`.
        given: the keys that gates.toml has. A given limit below the resolution is an error.
    """

    drop_points: float | None = 1.0
    latency_ratio: float | None = 1.05
    size_ratio: float | None = 1.05
    peak_rss_ratio: float | None = 1.1
    instructions_ratio: float | None = 1.02
    load_ratio: float | None = None
    rounds: int = ratios.ROUNDS
    given: frozenset[str] = frozenset()

    def of(self, figure: str) -> float | None:
        """The limit of a figure."""
        limit: float | None = getattr(self, LIMITS[figure])
        return limit


KEYS = tuple(one.name for one in fields(Limits) if one.name != "given")


@dataclass(frozen=True)
class Gates:
    """The limits of every file: the usual ones, and those of single files by (recipe, target)."""

    usual: Limits = Limits()
    cells: Mapping[tuple[str, str], Limits] = field(default_factory=dict)

    def of(self, recipe: str, target: str) -> Limits:
        """The limits of a file."""
        return self.cells.get((recipe, target), self.usual)

    def require_known(self, path: Path, known: Iterable[tuple[str, str]]) -> None:
        """
        Raises:
            BadOption: a table is about a file that the baseline does not have.
        """
        names = sorted("/".join(place) for place in known)
        for place in self.cells:
            if (name := "/".join(place)) not in names:
                raise BadOption(f'{path}: [cells."{name}"] is no file of the baseline (it has {", ".join(names)})')


def read(path: Path) -> Gates:
    """The limits in a gates.toml.

    Raises:
        BadOption: the file does not have this form.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise BadOption(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from error
    tables = content.pop("cells", {})
    usual = _limits(path, "", content, Limits())
    if not isinstance(tables, dict):
        raise BadOption(f'{path}: cells must be tables, such as [cells."int8/tflite"]')
    cells = {}
    for name, table in tables.items():
        recipe, slash, target = name.partition("/")
        if not (slash and recipe and target and isinstance(table, dict)):
            raise BadOption(f'{path}: cells.{name} must be a table of recipe and target, such as [cells."int8/tflite"]')
        cells[recipe, target] = _limits(path, f'[cells."{name}"] ', table, usual)
    return Gates(usual, cells)


def _limits(path: Path, where: str, table: Mapping[str, Any], usual: Limits) -> Limits:
    unknown = sorted(set(table) - set(KEYS))
    if unknown:
        raise BadOption(f"{path}: {where}unknown key {unknown[0]!r} (known: {', '.join(KEYS)})")
    values: dict[str, Any] = {key: _value(path, where, key, value) for key, value in table.items()}
    return replace(usual, **values, given=usual.given | set(values))


def _value(path: Path, where: str, key: str, value: Any) -> float | int | None:
    if key == "rounds":
        if type(value) is not int or not 2 <= value <= ratios.MOST_ROUNDS:
            raise BadOption(f"{path}: {where}rounds must be a whole number of at least 2, not {value!r}")
        return value
    if value is False:
        return None
    points = key == "drop_points"
    least, most = (0, 100) if points else (0, math.inf)
    if type(value) not in (int, float) or not (least <= value < most and (points or value > 0)):
        what = "points from 0 to 100" if points else "a ratio above 0"
        raise BadOption(f"{path}: {where}{key} must be {what}, or false for no check, not {value!r}")
    return float(value)


# -- verdicts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One figure of one file, compared with the baseline's.

    Attributes:
        device: None for a figure of the file itself.
        figure: a key of LIMITS, or "file" for one that is missing.
        old, new: the figures; accuracy as a fraction, times in milliseconds, sizes in bytes.
        change: new / old; of accuracy the drop in points.
        interval: of the change; None if it is exact.
        limit: of the change.
        needed: about how many rounds, or samples, would tell; None where the verdict does.
        reason: what else to know.
    """

    model: str
    framework: str
    recipe: str
    target: str
    device: str | None
    figure: str
    limit: float
    verdict: str
    old: float | None = None
    new: float | None = None
    change: float | None = None
    interval: tuple[float, float] | None = None
    needed: int | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """The file and its figure: int8 on tflite: latency."""
        return f"{self.recipe} on {self.target}: {self.figure}"


@dataclass(frozen=True)
class Outcome:
    """A gate.

    Attributes:
        baseline: what the files were compared with.
        checks: by file.
        notes: what was not compared.
    """

    baseline: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """FAIL if any check fails, else CANNOT_TELL if any cannot tell, else PASS."""
        found = {check.verdict for check in self.checks}
        return next((verdict for verdict in (FAIL, CANNOT_TELL) if verdict in found), PASS)


def exact(check: Check, change: float) -> Check:
    """The check of a change without noise."""
    return replace(check, change=change, verdict=PASS if change <= check.limit else FAIL)


@dataclass(frozen=True)
class Test:
    """A check whose figure has noise.

    Attributes:
        p: two-sided p-value of a change that is exactly the limit; 1 if the change is within it.
        passes: whether the interval ends within the limit.
        ratio: what was measured in rounds; None for accuracy.
    """

    check: Check
    p: float
    passes: bool
    ratio: Ratio | None = None


def of_ratio(check: Check, ratio: Ratio) -> Test:
    """The test of a ratio that was measured in rounds."""
    needed = ratios.rounds_needed(ratio, abs(ratio.mean - math.log(check.limit)))
    found = replace(check, change=ratio.value, interval=ratio.interval, needed=needed)
    return Test(found, ratio.p_above(check.limit), ratio.interval[1] < check.limit, ratio)


def of_accuracy(check: Check, truth: Any, old_top1: Any, new_top1: Any) -> Test:
    """The test of a drop in accuracy on the same samples. McNemar's exact p-value is in the reason."""
    before, after = old_top1 == truth, new_top1 == truth
    lost, gained = stats.discordant(before, after)
    drop, (low, high) = stats.paired_drop(before, after)
    error = (high - low) / 2 / NormalDist().inv_cdf(0.975)
    distance = (low + high) / 2 - check.limit
    p = 2 * NormalDist().cdf(-distance / error) if distance > 0 else 1.0
    found = replace(
        check,
        old=float(before.mean()),
        new=float(after.mean()),
        change=drop,
        interval=(low, high),
        needed=stats.samples_needed(lost, gained, len(truth), check.limit),
        reason=f"{lost} lost, {gained} gained of {len(truth):,}; exact McNemar p = {stats.mcnemar(lost, gained):.2g}",
    )
    return Test(found, p, high < check.limit)


def judged(tests: Sequence[Test], alpha: float) -> list[Check]:
    """The checks with their verdicts at this level, which all tests share."""
    found = []
    for test, p in zip(tests, stats.holm([test.p for test in tests]), strict=True):
        verdict = PASS if test.passes else FAIL if p <= alpha else CANNOT_TELL
        found.append(replace(test.check, verdict=verdict, needed=test.check.needed if verdict == CANNOT_TELL else None))
    return found


def require_samples(option: str, limit: float, samples: int, name: str) -> None:
    """
    Raises:
        BadOption: no result on so few samples could show that the drop is below the limit.
    """
    _, (_, high) = stats.paired_shift([(0, samples)])
    if high < limit:
        return
    needed = stats.samples_needed(0, 0, samples, limit) if limit > 0 else None
    would = f"about {formatting.about(needed)} samples would do" if needed else "no number of samples would do"
    raise BadOption(f"{option} {limit:g}: {samples:,} samples of {name} resolve {high:.2g} points; {would}")


def require_rounds(option: str, limit: float, ratio: Ratio, name: str) -> None:
    """
    Raises:
        BadOption: these rounds, extended, cannot show a ratio of 1 to be below the limit.
    """
    if limit <= 1 or limit > 1 + ratio.resolution:
        return
    needed = ratios.rounds_needed(ratio, math.log(limit))
    would = f"about {needed:,} rounds would do: rounds = {needed}" if needed else "no number of rounds would do"
    raise BadOption(
        f"{option} {limit:g}: {ratio.rounds} rounds of {name} resolve {100 * ratio.resolution:.2g} %; {would}"
    )
