"""What a person sees while work goes on: lines on stderr; bars only on a terminal."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from pipeline.errors import PipelineError

T = TypeVar("T")


def say(text: str) -> None:
    """One line on stderr, at once; stdout is for results."""
    print(text, file=sys.stderr, flush=True)


def bar(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Passes `items` on, behind a progress bar on a terminal and silently elsewhere."""
    if not sys.stderr.isatty():
        yield from items
        return
    from tqdm import tqdm

    yield from tqdm(items, desc=what, total=total, unit=unit, leave=False, dynamic_ncols=True)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Sends what this process prints, also from below Python, to the file `path`; so goes the traceback of an
    exception that is not one of ours, which say all there is in their message."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with path.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        except PipelineError:
            raise
        except Exception:
            traceback.print_exc()
            raise
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError):  # the log's disk may be full, and the streams must come back all the same
                    stream.flush()
            for saved, number in zip(kept, (1, 2), strict=True):
                os.dup2(saved, number)
                os.close(saved)
