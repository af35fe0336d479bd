"""Keeps the output of native code away from standard output, which contains only one JSON object.

Runtimes are written in C++ and print to file descriptors 1 and 2, so replacing sys.stdout would not capture their
output.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, TextIO

STDOUT, STDERR = 1, 2


def claim_stdout() -> TextIO:
    """The real standard output, for the result. From now on, descriptor 1 is standard error.

    It is never restored, because native destructors may print while the process exits.
    """
    sys.stdout.flush()
    real = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)
    return os.fdopen(real, "w", encoding="utf-8")


class Captured:
    """The output of a block."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def text(self) -> str:
        """The output so far."""
        sys.stderr.flush()
        self._file.seek(0)
        return self._file.read().decode("utf-8", "replace")

    def last_error(self) -> str:
        """The last line, in which native code gives the reason for an error; empty if it is only information."""
        lines = [line.strip() for line in self.text().splitlines() if line.strip()]
        return lines[-1] if lines and not lines[-1].startswith(("INFO", "I0000")) else ""


@contextlib.contextmanager
def captured(verbose: bool) -> Iterator[Captured]:
    """Captures the output of the block, so that the user sees errors as one line.

    That line may quote Captured.last_error(). With `verbose`, nothing is captured.
    """
    if verbose:
        yield Captured(io.BytesIO())
        return
    sys.stderr.flush()
    saved = os.dup(STDOUT), os.dup(STDERR)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), STDOUT)
        os.dup2(file.fileno(), STDERR)
        try:
            yield Captured(file)
        finally:
            sys.stderr.flush()
            for target, descriptor in zip((STDOUT, STDERR), saved):
                os.dup2(descriptor, target)
                os.close(descriptor)
