"""The outcome of a gate: for the terminal, as Markdown for a job's summary, and as JUnit XML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from pipeline import formatting
from pipeline.formatting import NONE
from pipeline.report import page, terminal
from pipeline.report.comparison import ratio
from pipeline.results.gates import ACCURACY, CANNOT_TELL, FAIL, INSTRUCTIONS, MEMORY, PASS, SIZE, Check, Outcome

if TYPE_CHECKING:
    from rich.console import RenderableType

HEAD = ("file", "device", "figure", "baseline", "now", "change", "limit", "verdict", "note")


def parts(found: Outcome) -> list[RenderableType]:
    """A table of all checks, the notes, and the verdict."""
    return [
        terminal.table(HEAD, [_line(check) for check in found.checks]),
        *found.notes,
        f"{found.verdict}: {count(found.checks)}, compared with {formatting.one_line(found.baseline)}",
    ]


def markdown(found: Outcome) -> str:
    """GitHub Markdown."""
    blocks = [page.Block(table=page.Table(page.texts(*HEAD), tuple(_line(check) for check in found.checks)))]
    blocks += [page.Block(points=found.notes)] if found.notes else []
    text = f"{count(found.checks)}, compared with {found.baseline}."
    return page.excerpt(page.Section("gate", f"Gate: {found.verdict}", text, tuple(blocks)))


def junit(found: Outcome) -> str:
    """JUnit XML: a test case for every check; a check that cannot tell is an error."""
    tally = {verdict: sum(check.verdict == verdict for check in found.checks) for verdict in (FAIL, CANNOT_TELL)}
    counts = {"tests": str(len(found.checks)), "failures": str(tally[FAIL]), "errors": str(tally[CANNOT_TELL])}
    root = ElementTree.Element("testsuites", {"name": "inv gate", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _plain(f"gate against {found.baseline}"), **counts})
    for check in found.checks:
        place = ".".join(filter(None, (check.model, check.framework, check.device)))
        case = ElementTree.SubElement(suite, "testcase", {"classname": _plain(place), "name": _plain(check.name)})
        text = _plain(f"{' '.join(filter(None, _line(check)[3:6]))}; the limit is {_limit(check)}; {check.reason}")
        if check.verdict != PASS:
            kind = "failure" if check.verdict == FAIL else "error"
            ElementTree.SubElement(case, kind, {"type": check.verdict, "message": _plain(said(check))}).text = text
        else:
            ElementTree.SubElement(case, "system-out").text = text
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def count(checks: Sequence[Check]) -> str:
    """How many checks have each verdict."""
    tally = {verdict: sum(check.verdict == verdict for check in checks) for verdict in (PASS, FAIL, CANNOT_TELL)}
    return ", ".join(f"{number} {verdict}" for verdict, number in tally.items() if number) or "nothing compared"


def said(check: Check) -> str:
    """A check in a sentence."""
    return f"{check.name}: {check.verdict}: {_change(check)}, limit {_limit(check)}{_needed(check)}"


def _line(check: Check) -> tuple[str, ...]:
    return (
        f"{check.recipe} on {check.target}",
        check.device or NONE,
        check.figure,
        _figure(check, check.old),
        _figure(check, check.new),
        _change(check),
        _limit(check),
        check.verdict,
        formatting.one_line((check.reason + _needed(check)).removeprefix("; ")),
    )


def _needed(check: Check) -> str:
    if check.needed is None:
        return ""
    of = "samples" if check.figure == ACCURACY else "rounds"
    return f"; about {formatting.about(check.needed)} {of} would tell"


def _figure(check: Check, value: float | None) -> str:
    if value is None:
        return NONE
    if check.figure == ACCURACY:
        return f"{100 * value:.2f} %"
    if check.figure == SIZE:
        return f"{formatting.kilobytes(round(value))} kB"
    if check.figure == MEMORY:
        return f"{formatting.megabytes(round(value))} MB"
    if check.figure == INSTRUCTIONS:
        return f"{value:,.0f}"
    return f"{1000 * value:.3g} µs" if value < formatting.MICROSECONDS_BELOW_MS else f"{formatting.figure(value)} ms"


def _change(check: Check) -> str:
    if check.change is None:
        return NONE
    if check.figure != ACCURACY:
        return ratio(check.change, check.interval)
    interval = "" if check.interval is None else f" {formatting.interval(check.interval).rstrip('*')}"
    return f"drop {formatting.points(check.change)}{interval}"


def _limit(check: Check) -> str:
    return f"{check.limit:g} points" if check.figure == ACCURACY else f"{check.limit:g}"


def _plain(text: str) -> str:
    """The text on one line of characters that XML allows."""
    return formatting.one_line(text)
