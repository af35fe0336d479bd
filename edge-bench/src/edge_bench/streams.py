"""Standard output carries one JSON object; what native code prints goes elsewhere.

Runtimes are C++ and print to file descriptors 1 and 2, so replacing sys.stdout would not hold them back.
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
    """The real standard output, for the result; from here on descriptor 1 is standard error.

    It is never given back: native destructors may still print while the process ends.
    """
    sys.stdout.flush()
    real = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)
    return os.fdopen(real, "w", encoding="utf-8")


class HeldBack:
    """What was printed while a block ran."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def text(self) -> str:
        """Everything printed so far."""
        sys.stderr.flush()
        self._file.seek(0)
        return self._file.read().decode("utf-8", "replace")

    def last_complaint(self) -> str:
        """The last line that is more than information, or nothing: native code says there why it refuses a file."""
        lines = [line.strip() for line in self.text().splitlines() if line.strip()]
        return lines[-1] if lines and not lines[-1].startswith(("INFO", "I0000")) else ""


@contextlib.contextmanager
def held_back(verbose: bool) -> Iterator[HeldBack]:
    """Keeps what is printed in the block off stderr, so that an error is the one line that the user sees.

    That line may quote HeldBack.last_complaint(). With `verbose` nothing is held back.
    """
    if verbose:
        yield HeldBack(io.BytesIO())
        return
    sys.stderr.flush()
    saved = os.dup(STDOUT), os.dup(STDERR)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), STDOUT)
        os.dup2(file.fileno(), STDERR)
        chatter = HeldBack(file)
        try:
            yield chatter
        finally:
            sys.stderr.flush()
            for target, descriptor in zip((STDOUT, STDERR), saved):
                os.dup2(descriptor, target)
                os.close(descriptor)
