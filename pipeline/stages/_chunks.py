"""The evaluation split on a device in chunks: finished chunks are kept, and an interrupted measurement resumes.

<cell>/<device>/chunks/run-<round>.json          a finished latency run: one process
<cell>/<device>/chunks/<start>.npz, .json        outputs of the samples from <start>, and their cache key
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core import SCHEMA
from pipeline.errors import Broken
from pipeline.system import store
from pipeline.system.progress import bar, say

FOLDER = "chunks"
SMALL_REST = 0.1
"""A last chunk of up to this share of a chunk is merged with the one before: starting edge-bench takes seconds."""

Call = Callable[[Sequence[str | Path]], Mapping[str, Any]]


@dataclass(frozen=True)
class Kept:
    """A partial result of a measurement.

    Attributes:
        key: the measurement's cache key; a result with another key is ignored.
        value: edge-bench's JSON.
    """

    key: str
    value: Mapping[str, Any]
    schema: int = SCHEMA


def run(folder: Path, key: str, round: int, words: Sequence[str | Path], call: Call) -> Mapping[str, Any]:
    """The result of one `edge-bench run`, run once and kept until the measurement is complete.

    Args:
        round: which of the measurement's processes it is.
    """
    path = folder / FOLDER / f"run-{round}.json"
    kept = store.read_or_warn(Kept, path)
    if kept is not None and kept.key == key:
        return kept.value
    value = call(words)
    store.write(path, Kept(key, value))
    return value


def predict(folder: Path, key: str, words: Sequence[str | Path], spans: Sequence[range], call: Call) -> Iterator[Path]:
    """Every chunk's file, in order; existing chunks are not computed again.

    Args:
        words: edge-bench's arguments without --start, --count and --out.
        spans: the samples of each chunk.

    Raises:
        Broken: a file's hash differs from the one that the device reports.
    """
    missing = [span for span in spans if _kept(folder, key, span) is None]
    if missing and len(missing) < len(spans):
        say(f"  {len(spans) - len(missing)} of {len(spans)} chunks of samples exist; computing the others")
    for span in bar(missing, "evaluating", unit="chunk"):
        path = _path(folder, span)
        part = ["--start", str(span.start), "--count", str(len(span))]
        with store.atomic(path) as temporary:
            result = call([*words, *part, "--out", temporary])
            if store.sha256(temporary) != result["predictions_sha256"]:
                raise Broken(f"{temporary} was damaged on its way from the device: run the command again")
        store.write(path.with_suffix(".json"), Kept(key, result))
    yield from (_path(folder, span) for span in spans)


def join(paths: Sequence[Path], out: Path) -> None:
    """Joins chunks into the file that edge-bench would have written at once; memory stays bounded."""
    import numpy as np

    if len(paths) == 1:
        paths[0].replace(out)
        return
    with np.load(paths[0], allow_pickle=False) as first:
        names, shapes = list(first), {name: first[name].shape[1:] for name in first}
    counts = [_count(path, names[0]) for path in paths]
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as target:
                header = {"descr": "<f4", "fortran_order": False, "shape": (sum(counts), *shapes[name])}
                np.lib.format.write_array_header_1_0(target, header)
                for path, count in zip(paths, counts, strict=True):
                    with np.load(path, allow_pickle=False) as chunk:
                        rows = chunk[name]
                    if rows.shape != (count, *shapes[name]) or rows.dtype != np.float32:
                        raise Broken(f"{path}: {name} is {rows.dtype} {rows.shape}; remove it and run again")
                    target.write(np.ascontiguousarray(rows).tobytes())


def spans(samples: int, chunk: int | None) -> list[range]:
    """All samples in chunks; see SMALL_REST."""
    size = chunk or max(samples, 1)
    starts = list(range(0, samples, size))
    if len(starts) > 1 and samples - starts[-1] <= size * SMALL_REST:
        starts.pop()
    return [range(start, end) for start, end in zip(starts, [*starts[1:], samples], strict=True)]


def forget(folder: Path) -> None:
    """Removes the partial results of a measurement."""
    store.remove(folder / FOLDER)


def _kept(folder: Path, key: str, span: range) -> Path | None:
    """A chunk's file, if it exists and is intact."""
    path = _path(folder, span)
    kept = store.read_or_warn(Kept, path.with_suffix(".json"))
    if kept is None or kept.key != key or kept.value.get("samples") != len(span) or not path.is_file():
        return None
    return path if store.sha256(path) == kept.value.get("predictions_sha256") else None


def _path(folder: Path, span: range) -> Path:
    return folder / FOLDER / f"{span.start}.npz"


def _count(path: Path, name: str) -> int:
    """Number of rows of an output, read from its header."""
    import numpy as np

    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        np.lib.format.read_magic(member)
        shape: tuple[int, ...] = np.lib.format.read_array_header_1_0(member)[0]
    return shape[0]
