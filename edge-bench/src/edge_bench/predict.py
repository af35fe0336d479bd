"""Every output of a model for every sample of a file."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from . import files, memory, model
from .errors import BadSamples, EdgeBenchError, first_line
from .runtimes import Session, TensorInfo
from .samples import Samples, to_real

FORGET_EVERY = 32
"""Samples between two hints that the pages read so far are not needed any more."""


@dataclass(frozen=True)
class Span:
    """Which samples, whether to say on stderr how far it is, and whether the inputs are written too."""

    start: int = 0
    count: int | None = None
    progress: bool = False
    keep_input: bool = False

    def indices(self, samples: Samples) -> range:
        """Raises BadSamples when the file does not hold them all."""
        total = len(samples)
        stop = total if self.count is None else self.start + self.count
        if self.start >= total or stop > total:
            raise BadSamples(
                f"{samples.path} holds {total} samples; --start and --count ask for {self.start} to {stop}"
            )
        return range(self.start, stop)


def predict(job: model.Job, samples: Samples, span: Span, out: Path) -> dict[str, Any]:
    """Runs a model over samples, one by one, and writes output_0, output_1, … of shape (N, …) in float32 to `out`; with
    `keep_input` also input_0: what the runtime was given, in the model's layout, as real numbers.

    Returns:
        What was done, ready for JSON.

    Raises:
        EdgeBenchError: in one line what is wrong; `out` then is as it was before.
    """
    files.check_writable(out)
    indices = span.indices(samples)
    loaded = model.load(job)
    info = samples.check(loaded.session.inputs)
    begin = time.perf_counter()
    with contextlib.ExitStack() as stack:
        rows = [stack.enter_context(_Rows(output, out)) for output in loaded.session.outputs]
        given = [stack.enter_context(_Rows(info, out))] if span.keep_input else []
        for done, index in enumerate(indices, 1):
            sample = samples.get(index, info)
            for row in given:
                row.append(sample)
            loaded.session.set([sample])
            _append(rows, loaded.session, f"{job.path}: {loaded.runtime['name']} failed at sample {index}")
            if done % FORGET_EVERY == 0:
                samples.forget()
            if span.progress:
                _show(done, len(indices))
        seconds = time.perf_counter() - begin
        named = [*((f"output_{i}", row) for i, row in enumerate(rows)), *(("input_0", row) for row in given)]
        _write(out, named, len(indices))
    return {
        "schema": 1,
        "artifact_sha256": loaded.artifact["artifact_sha256"],
        "runtime": loaded.runtime,
        "samples": len(indices),
        "start": span.start,
        "outputs": [asdict(output) for output in loaded.session.outputs],
        "predictions": str(out),
        "predictions_sha256": files.sha256(out),
        "peak_rss_bytes": memory.peak_rss_bytes(),
        "seconds": seconds,
        "tools": loaded.tools,
    }


class _Rows:
    """One output's rows, collected in a nameless file: memory stays small, and nothing is left behind."""

    def __init__(self, info: TensorInfo, out: Path) -> None:
        self._info, self._out = info, out
        self.shape: tuple[int, ...] | None = None
        with files.explained(out):
            self.file: IO[bytes] = tempfile.TemporaryFile(dir=out.parent)  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        # A full disk fails once more when the file's last bytes are flushed; the first failure has been told.
        with contextlib.suppress(OSError):
            self.file.close()

    def append(self, output: Any) -> None:
        row = to_real(output, self._info)
        row = row[0] if row.shape[:1] == (1,) else row
        if self.shape is None:
            self.shape = row.shape
        if row.shape != self.shape:
            raise BadSamples(f"output {self._info.name} changes shape from {self.shape} to {row.shape}")
        with files.explained(self._out):
            self.file.write(row.tobytes())


def _append(rows: Sequence[_Rows], session: Session, failure: str) -> None:
    try:
        session.invoke()
        outputs = session.get()
    except Exception as error:
        raise EdgeBenchError(f"{failure} ({first_line(error)})") from error
    for row, output in zip(rows, outputs):
        row.append(output)


def _write(out: Path, rows: Sequence[tuple[str, _Rows]], count: int) -> None:
    """An .npz archive, written in pieces; its dates are fixed, so the same outputs give the same bytes."""
    with files.writing(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, row in rows:
            entry = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(entry, "w", force_zip64=True) as target:
                header = {"descr": "<f4", "fortran_order": False, "shape": (count, *(row.shape or ()))}
                np.lib.format.write_array_header_1_0(target, header)
                row.file.seek(0)
                while chunk := row.file.read(files.CHUNK_BYTES):
                    target.write(chunk)


def _show(done: int, total: int) -> None:
    """About a hundred lines in all, however many samples there are."""
    if done == total or done % max(1, total // 100) == 0:
        sys.stderr.write(f"edge-bench: {done} of {total} samples\n")
        sys.stderr.flush()
