"""What changed between two releases, as Markdown for a pull request."""

from __future__ import annotations

from pipeline import formatting
from pipeline.formatting import NONE
from pipeline.report import page
from pipeline.report.page import Block, Section, Table, numbers, texts
from pipeline.results.release_diff import FileChange, ReleaseChange

LONGEST = 200
"""Characters of a value of the contract that are shown."""


def markdown(found: ReleaseChange) -> str:
    """The whole difference."""
    unchanged = () if found.contract else ("unchanged: an app needs no change",)
    blocks = [
        Block("Contract", points=unchanged, table=_facts(found.contract)),
        Block("Other facts", points=() if found.facts else ("unchanged",), table=_facts(found.facts)),
        Block("Files", table=_files(found.files), caption="Latencies are those that each release recorded; inv compare "
              "tells whether a difference is real."),
        Block("Accuracy by class", points=tuple(_classes(found.files)) or ("no class has changed",)),
        Block("Predictions that changed", points=tuple(_flips(found.files)) or ("none",)),
    ]  # fmt: skip
    gone = [f"removed: {name}" for name in found.removed] + [f"added: {name}" for name in found.added]
    blocks += [Block("Files of one release only", points=tuple(gone))] if gone else []
    return page.excerpt(Section("diff", f"{found.old} → {found.new}", "", tuple(blocks)))


def _facts(facts: tuple[tuple[str, str, str], ...]) -> Table | None:
    lines = tuple((name, _short(old), _short(new)) for name, old, new in facts)
    return Table(texts("what", "old", "new"), lines) if lines else None


def _short(text: str) -> str:
    line = formatting.one_line(text)
    return line if len(line) <= LONGEST else line[:LONGEST] + "…"


def _files(files: tuple[FileChange, ...]) -> Table:
    columns = (*texts("file", "device"), *numbers("kB", "p50, ms"), *texts("accuracy drop, points", "note"))
    return Table(columns, tuple(_line(file) for file in files))


def _line(file: FileChange) -> tuple[str, ...]:
    times = NONE
    if file.old_ms is not None and file.new_ms is not None:
        times = f"{file.old_ms:.4g} → {file.new_ms:.4g}"
    drop = NONE
    if file.drop_points is not None and file.drop_interval is not None:
        drop = f"{formatting.points(file.drop_points)} {formatting.interval(file.drop_interval)}"
    sizes = " → ".join(formatting.kilobytes(size) for size in (file.old_bytes, file.new_bytes))
    note = "the same file" if file.same_file else file.reason
    return f"{file.recipe} on {file.target}", file.device or NONE, sizes, times, drop, note


def _classes(files: tuple[FileChange, ...]) -> list[str]:
    return [
        f"{_name(file)}: " + ", ".join(f"{label} {formatting.points(-lost)}" for label, lost in file.classes)
        for file in files
        if file.classes
    ]


def _flips(files: tuple[FileChange, ...]) -> list[str]:
    return [
        f"{_name(file)}: {file.flips}, for example "
        + "; ".join(f"sample {one.sample} ({one.truth}): {one.old} → {one.new}" for one in file.examples)
        for file in files
        if file.flips
    ]


def _name(file: FileChange) -> str:
    return f"{file.recipe} on {file.target} on {file.device}"
