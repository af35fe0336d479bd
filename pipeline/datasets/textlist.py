"""Your own texts in CSV or TSV files: --data is a file, or a folder or a zip with files.

Each row of a file has a label and a text: in the columns "label" and "text" of a header (see LABELS and TEXTS), or
without a header the label first. CSV has commas and may quote fields; every other file has tabs and no quotes. UTF-8
only; empty lines are skipped. Files named train, test and optionally validation are the splits. Other texts are split
by content: 28 % are the test split, and a tenth of the rest is used for validation, of each class. Equal texts are in
one split.

A tokenizer is made of the training split, so that no test text has a part in its vocabulary:

    python -m pipeline.datasets.textlist sms.zip tokenizer.json
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from pipeline.core import Tokens
from pipeline.datasets import SPLITS, Split, _files, _splits, _text
from pipeline.errors import BadData, BadModel
from pipeline.system.progress import say
from pipeline.system.store import digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EMBEDDED = False
IMAGES = False
SUMMARY = "your texts with labels: --data is a CSV or TSV file, or a folder or a zip with such files"

EXPECTED = "a CSV or TSV file with the columns text and label, or a folder or a zip with such files"
SUFFIXES = (".csv", ".tsv", ".txt")
LABELS, TEXTS = ("label", "class", "category", "target"), ("text", "message", "sentence")
"""Names of the columns in a header, in any case."""


class Row(NamedTuple):
    """A text with its label.

    Attributes:
        file, line: where it ends.
    """

    text: str
    label: str
    file: str
    line: int

    @property
    def sha256(self) -> str:
        """The same for equal texts."""
        return hashlib.sha256(_text.same(self.text).encode()).hexdigest()


def classes(data: Path | None) -> tuple[str, ...]:
    """The different labels, sorted.

    Raises:
        BadData: no path is given, or a file is missing, has no or bad rows, or there is only one label.
    """
    rows = _rows(_given(data))
    names = tuple(sorted({row.label for row in rows}))
    if len(names) < 2:
        raise BadData(f"{data}: all {len(rows)} texts have the label {names[0]!r}; a classifier needs at least two")
    return names


def load(data: Path | None, split: str, preprocessing: Tokens) -> Split:
    """One of SPLITS; inputs are int32 (length,).

    Raises:
        BadData: as `classes`; or the source's splits lack one.
        BadModel: the model takes no tokens, or its tokenizer cannot be read.
        BadOption: unknown split.
    """
    import numpy as np

    _splits.check_split(split)
    names, rows = classes(data), _rows(_given(data))
    if not isinstance(preprocessing, Tokens):
        kind = type(preprocessing).__name__
        raise BadModel(f"textlist has texts, so SPEC.preprocessing must be Tokens, not {kind}")
    ids = _ids(_given(data), preprocessing)
    chosen = _chosen(rows, split, _given(data))
    samples = [_splits.Sample(f"{i:08}", names.index(rows[i].label), rows[i].sha256) for i in chosen]
    ordered = _splits.ranked(samples, "order")
    inputs = ids[[int(sample.name) for sample in ordered]]
    return Split(
        labels=np.array([sample.label for sample in ordered], dtype=np.int64),
        sha256=digest([[tuple(sample[1:]) for sample in ordered], hashlib.sha256(inputs.tobytes()).hexdigest()]),
        read=inputs.__getitem__,
        contents=tuple(sample.sha256 for sample in ordered),
    )


def texts(data: Path, split: str) -> list[str]:
    """The texts of one of SPLITS."""
    rows = _rows(data)
    return [rows[i].text for i in _chosen(rows, split, data)]


def _given(data: Path | None) -> Path:
    if data is None:
        raise BadData(f"textlist needs --data PATH: {EXPECTED}")
    return data


@cache
def _ids(data: Path, tokens: Tokens) -> NDArray[np.int32]:
    """The inputs of all rows. Prints how many texts were cut."""
    rows = _rows(data)
    ids, cut = _text.encode([row.text for row in rows], tokens)
    if cut:
        first = rows[cut[0]]
        say(
            f"{data}: {len(cut)} of {len(rows)} texts have more than {tokens.length} tokens; their ends are cut "
            f"(first: {first.file}, line {first.line})"
        )
    return ids


def _chosen(rows: Sequence[Row], split: str, data: Path) -> list[int]:
    """The indices of a split's rows."""
    places = [_place(row) for row in rows]
    if set(places).isdisjoint(SPLITS):
        groups = _groups(rows, range(len(rows)))
        test, rest = _splits.divide(groups, _splits.TEST_SHARE, "test")
        return _members(rows, range(len(rows)), test if split == "test" else _of_training(rest, split))
    missing = [name for name in ("train", "test") if name not in places]
    if missing or "" in places:
        odd = next((row.file for row in rows if not _place(row)), "")
        wrong = f"{odd} is none of train, validation and test" if odd else f"no file is named {missing[0]}"
        raise BadData(f"{data}: {wrong}; files named train, test and optionally validation are the splits")
    if split == "test" or "validation" in places:
        return [i for i, place in enumerate(places) if place == split]
    own = [i for i, place in enumerate(places) if place == "train"]
    return _members(rows, own, _of_training(_groups(rows, own), split))


def _place(row: Row) -> str:
    """The split that a row's file is named for; "" for another name."""
    stem = PurePosixPath(row.file).stem.lower()
    return stem if stem in SPLITS else ""


def _groups(rows: Sequence[Row], indices: Sequence[int]) -> list[_splits.Sample]:
    """One sample for each different text, with the label that is first in the file."""
    found: dict[str, _splits.Sample] = {}
    numbers = {name: i for i, name in enumerate(sorted({row.label for row in rows}))}
    for i in sorted(indices, key=lambda i: (rows[i].sha256, rows[i].label)):
        sha256 = rows[i].sha256
        found.setdefault(sha256, _splits.Sample(sha256, numbers[rows[i].label], sha256))
    return list(found.values())


def _of_training(groups: list[_splits.Sample], split: str) -> list[_splits.Sample]:
    validation, train = _splits.divide(groups, _splits.VALIDATION_SHARE, "validation")
    return {"train": train, "validation": validation}[split]


def _members(rows: Sequence[Row], indices: Sequence[int], groups: Sequence[_splits.Sample]) -> list[int]:
    wanted = {group.sha256 for group in groups}
    return [i for i in indices if rows[i].sha256 in wanted]


# -- files -------------------------------------------------------------------------------------------------------------


@cache
def _rows(data: Path) -> tuple[Row, ...]:
    """All rows of all files, by name and line."""
    found = [row for name, content in _contents(data) for row in _parsed(name, content)]
    if not found:
        raise BadData(f"{data} has no texts: --data is {EXPECTED}")
    return tuple(found)


def _contents(data: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files."""
    if data.is_file() and not zipfile.is_zipfile(data):
        try:
            yield data.name, data.read_bytes()
        except OSError as error:
            raise BadData(f"{data}: {error.strerror}") from error
        return
    yield from _files.read(data, lambda name: name.lower().endswith(SUFFIXES))


def _parsed(name: str, content: bytes) -> Iterator[Row]:
    """The rows of a file.

    Raises:
        BadData: it is not UTF-8, or a row has another number of columns, or no text or label; names file and line.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        wrong = f"byte {content[error.start]:#x} is not UTF-8; save the file as UTF-8"
        raise BadData(f"{name}, line {line}: {wrong}") from error
    columns = _Columns(0, 1, 2)
    first = True
    for line, cells in _cells(name, text):
        header = [cell.strip().lower() for cell in cells]
        named = [next((header.index(each) for each in names if each in header), None) for names in (LABELS, TEXTS)]
        if first and named[0] is not None and named[1] is not None:
            columns = _Columns(named[0], named[1], len(header))
        else:
            yield columns.row(cells, name, line)
        first = False


@dataclass(frozen=True)
class _Columns:
    """Where a row has its label and its text, and how many columns it has."""

    label: int
    text: int
    count: int

    def row(self, cells: Sequence[str], name: str, line: int) -> Row:
        where = f"{name}, line {line}"
        if len(cells) == 1 and not name.lower().endswith(".csv"):
            raise BadData(f"{where}: there is no tab; a line is a label, a tab and a text")
        if len(cells) != self.count:
            named = f"{self.count} columns, as the header" if self.count > 2 else "a label and a text"
            raise BadData(f"{where}: {len(cells)} columns; it must have {named}")
        label, text = cells[self.label].strip(), cells[self.text].strip()
        if not label or not text:
            raise BadData(f"{where}: the {'text' if label else 'label'} is empty")
        return Row(text, label, name, line)


def _cells(name: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """The number of each line and its cells, without empty lines."""
    if not name.lower().endswith(".csv"):
        for i, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield i, line.removesuffix("\r").split("\t")
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise BadData(f"{name}, line {reader.line_num}: {error}") from error


if __name__ == "__main__":
    _text.make(texts(Path(sys.argv[1]), "train"), Path(sys.argv[2]))
