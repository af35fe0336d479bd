"""Runs a model on the samples of a file and writes all its outputs."""

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

RELEASE_EVERY = 32
"""How many samples to read before giving their pages back to the system."""


@dataclass(frozen=True)
class Span:
    """Options of `predict`.

    Attributes:
        start: the first sample.
        count: how many samples; None for all that follow.
        progress: print progress on stderr.
        keep_input: write the inputs too.
    """

    start: int = 0
    count: int | None = None
    progress: bool = False
    keep_input: bool = False

    def indices(self, samples: Samples) -> range:
        """The indices of the samples. Raises BadSamples if the file does not contain them all."""
        total = len(samples)
        stop = total if self.count is None else self.start + self.count
        if self.start >= total or stop > total:
            raise BadSamples(
                f"{samples.path} has {total} samples; --start and --count select samples {self.start} to {stop}"
            )
        return range(self.start, stop)


def predict(job: model.Job, samples: Samples, span: Span, out: Path) -> dict[str, Any]:
    """Runs a model on samples, one by one, and writes output_0, output_1, … of shape (N, …) in float32 to `out`. With
    `keep_input`, it also writes input_0: the runtime's input in the model's layout, as real numbers.

    Returns:
        A report (schema 1), ready for JSON.

    Raises:
        EdgeBenchError: the model could not be run, or the result not written; `out` is then unchanged.
    """
    files.check_writable(out)
    indices = span.indices(samples)
    loaded = model.load(job)
    info = samples.check(loaded.session.inputs)
    begin = time.perf_counter()
    with contextlib.ExitStack() as stack:
        rows = [stack.enter_context(_Rows(output, out)) for output in loaded.session.outputs]
        kept = [stack.enter_context(_Rows(info, out))] if span.keep_input else []
        for done, index in enumerate(indices, 1):
            sample = samples.get(index, info)
            for row in kept:
                row.append(sample)
            loaded.session.set([sample])
            _append(rows, loaded.session, f"{job.path}: {loaded.runtime['name']} failed at sample {index}")
            if done % RELEASE_EVERY == 0:
                samples.release()
            if span.progress:
                _show(done, len(indices))
        seconds = time.perf_counter() - begin
        named = [*((f"output_{i}", row) for i, row in enumerate(rows)), *(("input_0", row) for row in kept)]
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
    """The rows of one output, in an anonymous temporary file: it saves memory, and nothing is left behind."""

    def __init__(self, info: TensorInfo, out: Path) -> None:
        self._info, self._out = info, out
        self.shape: tuple[int, ...] | None = None
        with files.explained(out):
            self.file: IO[bytes] = tempfile.TemporaryFile(dir=out.parent)  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        # On a full disk, flushing the file's last bytes fails again; the first failure has been reported.
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
    """Writes an .npz archive in chunks. Its dates are fixed, so that the same outputs give the same bytes."""
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
    """Prints progress: about a hundred lines in total, for any number of samples."""
    if done == total or done % max(1, total // 100) == 0:
        sys.stderr.write(f"edge-bench: {done} of {total} samples\n")
        sys.stderr.flush()
