"""The evaluation split on a device, chunk by chunk: what has come back is kept, and an interrupted run goes on.

<cell>/<device>/chunks/run.json                  the latency run that was finished
<cell>/<device>/chunks/<start>.npz, .json        outputs of the samples from <start>, and what they are of
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
"""Share of a chunk up to which the last samples go with the chunk before: a process of edge-bench costs seconds."""

Call = Callable[[Sequence[str | Path]], Mapping[str, Any]]


@dataclass(frozen=True)
class Kept:
    """Something of an unfinished measurement.

    Attributes:
        key: of all that it is of; another key's is of no use.
        value: what edge-bench said.
    """

    key: str
    value: Mapping[str, Any]
    schema: int = SCHEMA


def run(folder: Path, key: str, words: Sequence[str | Path], call: Call) -> Mapping[str, Any]:
    """What `edge-bench run` says; asked once, and kept until the measurement is whole."""
    path = folder / FOLDER / "run.json"
    kept = store.read_or_warn(Kept, path)
    if kept is not None and kept.key == key:
        return kept.value
    value = call(words)
    store.write(path, Kept(key, value))
    return value


def predict(folder: Path, key: str, words: Sequence[str | Path], spans: Sequence[range], call: Call) -> Iterator[Path]:
    """Every chunk's file, in order; those that are kept are not asked for again.

    Args:
        words: of the call, without --start, --count and --out.
        spans: the samples of each chunk.

    Raises:
        Broken: a file is not what the device says it sent.
    """
    missing = [span for span in spans if _kept(folder, key, span) is None]
    if missing and len(missing) < len(spans):
        say(f"  {len(spans) - len(missing)} of {len(spans)} chunks of samples are there; going on with the others")
    for span in bar(missing, "evaluating", unit="chunk"):
        path = _path(folder, span)
        place = ["--start", str(span.start), "--count", str(len(span))]
        with store.atomic(path) as temporary:
            told = call([*words, *place, "--out", temporary])
            if store.sha256(temporary) != told["predictions_sha256"]:
                raise Broken(f"{temporary} is not what the device sent")
        store.write(path.with_suffix(".json"), Kept(key, told))
    yield from (_path(folder, span) for span in spans)


def join(paths: Sequence[Path], out: Path) -> None:
    """Puts chunks together as edge-bench would have written them at once; memory stays bounded."""
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
    """All samples in chunks; a rest too small to be worth a process of its own goes with the last chunk."""
    size = chunk or max(samples, 1)
    starts = list(range(0, samples, size))
    if len(starts) > 1 and samples - starts[-1] <= size * SMALL_REST:
        starts.pop()
    return [range(start, end) for start, end in zip(starts, [*starts[1:], samples], strict=True)]


def forget(folder: Path) -> None:
    """Removes what is kept of an unfinished measurement."""
    store.remove(folder / FOLDER)


def _kept(folder: Path, key: str, span: range) -> Path | None:
    """A chunk's file, if it is there and whole."""
    path = _path(folder, span)
    kept = store.read_or_warn(Kept, path.with_suffix(".json"))
    if kept is None or kept.key != key or kept.value.get("samples") != len(span) or not path.is_file():
        return None
    return path if store.sha256(path) == kept.value.get("predictions_sha256") else None


def _path(folder: Path, span: range) -> Path:
    return folder / FOLDER / f"{span.start}.npz"


def _count(path: Path, name: str) -> int:
    """Rows of an output, from its header alone."""
    import numpy as np

    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        np.lib.format.read_magic(member)
        shape: tuple[int, ...] = np.lib.format.read_array_header_1_0(member)[0]
    return shape[0]
