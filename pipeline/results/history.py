"""The history of measurements: a folder with one JSON file for each.

A file is named after its time and its content and never rewritten. So branches and machines add files side by side, in
git or in a bucket, without conflicts, and a changed file is found. Files come from elsewhere: none is trusted.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline import formatting, stats
from pipeline.core import SCHEMA, from_json
from pipeline.errors import BadOption, Broken
from pipeline.results import measured
from pipeline.results.rows import Row
from pipeline.system import proc, store

LATENCY, INSTRUCTIONS, SIZE, ACCURACY = "latency_ms", "instructions", "size_bytes", "accuracy"

LARGEST_FILE, LARGEST_VALUE = 1_000_000, 1e18


@dataclass(frozen=True)
class Entry:
    """One measurement, as a file of the history.

    Attributes:
        at: when it began, in UTC: 2026-12-01T09:30:00+00:00.
        hardware: what tells this piece of hardware from others.
        runtime: with version and delegate: "litert 2.3.0 XNNPACK".
        method: number of processes and arguments of edge-bench; "unknown" for older measurements.
        figure: what the medians are: LATENCY, or INSTRUCTIONS of an emulated device.
        medians: one per process; empty if the device has neither figure.
        throttled: whether the device slowed its clock.
        commit: of the user's repository, with "-dirty" where files were changed; None without a repository.
    """

    at: str
    model: str
    framework: str
    recipe: str
    target: str
    device: str
    threads: int
    hardware: str
    runtime: str
    method: str
    figure: str
    medians: tuple[float, ...]
    size_bytes: int
    metric: str
    accuracy: float
    samples: int
    dataset_sha256: str
    artifact_sha256: str
    throttled: bool
    commit: str | None
    note: str
    schema: int = SCHEMA

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{_utc(self.at):%Y%m%dT%H%M%SZ}-{store.digest(self)[:16]}.json"

    @property
    def measurement(self) -> Entry:
        """The entry without what the user said about it."""
        return replace(self, commit=None, note="")


@dataclass(frozen=True)
class LeftOut:
    """A file of the folder that is not in the history, with the reason."""

    file: str
    reason: str


# -- adding ------------------------------------------------------------------------------------------------------------


def add(folder: Path, rows: Sequence[Row], commit: str | None = None, note: str = "") -> list[Path]:
    """Writes the valid measurements of these rows, except those that the folder has, and returns the new files.

    Raises:
        BadOption: there are no valid measurements.
        Broken: the folder has one of them, but its file was changed. Nothing is written then.
    """
    found = [
        entry(row, commit, formatting.one_line(note)) for row in rows if row.measurement and row.cell.status == "ok"
    ]
    if not found:
        raise BadOption("nothing is measured that could be added: inv bench")
    known = {one.measurement for one in read(folder)[0]} if folder.is_dir() else set()
    folder.mkdir(parents=True, exist_ok=True)
    new = [one for one in found if one.measurement not in known]
    for one in new:
        if os.path.lexists(folder / one.name):
            raise Broken(f"{folder / one.name} was changed: restore it (git checkout) or remove it")
    for one in new:
        store.write(folder / one.name, one)
    return [folder / one.name for one in new]


def not_added(rows: Sequence[Row]) -> list[str]:
    """A line for each file that a device has no valid measurement of, with the reason."""
    cells = [row.cell for row in rows if row.cell.device is not None and row.cell.status != "ok"]
    return [
        formatting.one_line(
            f"not added: {one.model} ({one.framework}) {one.recipe} on {one.target}, {one.device}: {one.reason}"
        )
        for one in cells
    ]


def entry(row: Row, commit: str | None = None, note: str = "") -> Entry:
    """The entry of a row with a valid measurement."""
    cell, noun = row.cell, row.measurement
    assert noun is not None and cell.device is not None and cell.accuracy is not None
    facts = [str(noun.runtime.get(name) or "") for name in ("name", "version", "delegate", "cpus")]
    scale = 1.0 if cell.latency_ms else 1e6  # an emulated clock advances one nanosecond per instruction
    counted = cell.latency_ms is not None or cell.instructions is not None
    return Entry(
        at=_utc(noun.processes[0].started_at).isoformat(timespec="seconds"),
        **{name: getattr(cell, name) for name in ("model", "framework", "recipe", "target", "device")},
        threads=int(noun.runtime["threads"]),
        hardware=cell.hardware or "unknown",
        runtime=" ".join(filter(None, facts)),
        method=noun.method or "unknown",
        figure=INSTRUCTIONS if cell.emulated else LATENCY,
        medians=tuple(scale * stats.median_ms(process.runs) for process in noun.processes) if counted else (),
        size_bytes=noun.size_bytes,
        metric=noun.accuracy.metric,
        accuracy=cell.accuracy,
        samples=noun.accuracy.samples,
        dataset_sha256=noun.accuracy.dataset_sha256,
        artifact_sha256=noun.artifact_sha256,
        throttled=bool(measured.throttled(noun)),
        commit=commit,
        note=note,
    )


# -- reading -----------------------------------------------------------------------------------------------------------


def read(folder: Path) -> tuple[list[Entry], list[LeftOut]]:
    """The entries of a folder by time, and the files that are none. Names that begin with a full stop are ignored. A
    measurement that two branches added is read once.

    Raises:
        BadOption: there is no such folder.
    """
    if not folder.is_dir():
        raise BadOption(f"{folder}: there is no such folder; inv history --add makes it")
    entries: dict[Entry, Entry] = {}
    left_out = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        try:
            found = _read(path)
            if found.name != path.name:
                raise Broken("it was changed or renamed: its name does not match its content")
            entries.setdefault(found.measurement, found)
        except OSError as error:
            left_out.append(LeftOut(formatting.one_line(path.name), error.strerror or "cannot be read"))
        except (Broken, ValueError, RecursionError) as error:
            left_out.append(LeftOut(formatting.one_line(path.name), formatting.one_line(str(error))[:200]))
    return sorted(entries.values(), key=lambda one: (one.at, one.name)), left_out


def _read(path: Path) -> Entry:
    """
    Raises:
        Broken, ValueError, RecursionError, OSError: the file is no entry.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise Broken("not a plain file")
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise Broken(f"larger than {LARGEST_FILE:,} bytes")
    found = from_json(Entry, json.loads(content.decode()), "entry")
    if _utc(found.at).isoformat(timespec="seconds") != found.at:
        raise Broken(f"entry.at: {found.at!r} is not in UTC with seconds")
    if found.figure not in (LATENCY, INSTRUCTIONS):
        raise Broken(f"entry.figure: unknown {found.figure!r}")
    positive = (*found.medians, found.size_bytes, found.samples, found.threads)
    if not all(0 < value <= LARGEST_VALUE for value in positive) or not abs(found.accuracy) <= LARGEST_VALUE:
        raise Broken("entry: a value is out of range")
    return found


def _utc(text: str) -> datetime:
    """
    Raises:
        Broken: the text is not a time with a time zone.
    """
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            raise ValueError("no time zone")
        return found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Broken(f"{text!r} is not a time: {error}") from error


def commit(folder: Path) -> str | None:
    """The commit of a folder's git repository, with "-dirty" where files were changed; None without a repository."""
    if shutil.which("git") is None:
        return None
    done = proc.run(("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"), cwd=folder)
    return done.out.strip() or None if done.code == 0 else None
