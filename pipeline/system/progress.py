"""What a user sees while work goes on: lines on stderr, and live bars at a terminal."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from pipeline.errors import PipelineError, StageFailed
from pipeline.system.console import console

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
Step = Callable[[], None]

SECONDS_BETWEEN_LINES = 30.0
"""Where there is no live bar, long work reports its progress this often."""

_LOCK = threading.Lock()
_own = threading.local()
"""For each thread, what its lines and bars begin with; see `named`."""
_live: Progress | None = None
"""The display of every bar that is shown now. rich keeps one live display per console."""


def say(text: str) -> None:
    """Prints a line on stderr, above the bars; stdout is for results."""
    live, text = _live, f"{_name()}{text}"
    if live is None:
        print(text, file=sys.stderr, flush=True)
    else:
        live.console.print(text, soft_wrap=True)


@contextmanager
def named(name: str) -> Iterator[None]:
    """Lets the lines and bars of this thread begin with a name, because other threads print as well."""
    _own.name = f"[{name}] "
    try:
        yield
    finally:
        del _own.name


def _name() -> str:
    return str(getattr(_own, "name", ""))


@cache
def say_once(text: str) -> None:
    """Prints a line that this process has not printed yet."""
    say(text)


def bar(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Yields `items` and counts them, as `counter` does."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with counter(what, total, unit) as step:
        for item in items:
            yield item
            step()


@contextmanager
def counter(what: str, total: int | None = None, unit: str = "it") -> Iterator[Step]:
    """Shows how far some work is: a live bar at a terminal; elsewhere a line every 30 seconds.

    Args:
        what: the work.
        total: how many steps it has, if that is known.
        unit: what one step is: a file, a batch.

    Yields:
        A function to call after each step, from any thread.
    """
    with (_bar if _at_terminal() else _lines)(what, total, unit) as step:
        yield step


@contextmanager
def working(what: str) -> Iterator[None]:
    """Shows that some work of unknown length goes on, such as an installation; a line records it."""
    started = time.monotonic()
    if not _at_terminal():
        say(what)
        yield
        return
    with _bar(what, None, ""):
        yield
    say(f"{what}: {time.monotonic() - started:.0f} s")


def _at_terminal() -> bool:
    """Whether stderr is a terminal that can redraw a line; FORCE_COLOR does not make a pipe one."""
    return sys.stderr.isatty() and console(stderr=True).is_terminal


@contextmanager
def _lines(what: str, total: int | None, unit: str) -> Iterator[Step]:
    count, last = 0, time.monotonic()

    def step() -> None:
        nonlocal count, last
        count += 1
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            say(f"{what}: {count:,}{'' if total is None else f'/{total:,}'} {unit}")

    yield step


@contextmanager
def _bar(what: str, total: int | None, unit: str) -> Iterator[Step]:
    global _live  # noqa: PLW0603  # the terminal is global too
    with _LOCK:
        if _live is None:
            _live = _display()
            _live.start()
        live = _live
        task = live.add_task(f"{_name()}{what}", total=total, unit=unit)
    try:
        yield lambda: live.advance(task)
    finally:
        with _LOCK:
            live.remove_task(task)
            if not live.tasks:
                live.stop()
                _live = None


def _display() -> Progress:
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Task) -> Text:
            if not task.fields["unit"]:
                return Text(f"{task.elapsed or 0:.0f} s")
            total = "" if task.total is None else f"/{task.total:,.0f}"
            return Text(f"{task.completed:,.0f}{total} {task.fields['unit']}")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        Count(),
        TimeRemainingColumn(compact=True),
        console=console(stderr=True),
        transient=True,
        refresh_per_second=4,
        redirect_stdout=sys.stdout.isatty(),  # then it is the same terminal; a pipe keeps what is meant for it
    )


def claim_stdout() -> TextIO:
    """The real standard output, for messages to the process that started this one.

    From now on, descriptor 1 is standard error, to which a model folder's code and native code may print.
    """
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(real, "w", encoding="utf-8")


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Sends everything that this process prints to the file `path`, also what code below Python prints.

    The traceback of an exception goes there too, unless it is a PipelineError: its message is complete.

    Raises:
        StageFailed: the block called sys.exit().
    """
    live = _live
    if live is not None:
        live.stop()  # it would draw into the log
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
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
        except SystemExit as error:  # a model's code or a converter may call sys.exit()
            traceback.print_exc()
            raise StageFailed(f"its code called sys.exit({'' if error.code is None else error.code})") from error
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError):  # the log's disk may be full; the streams must be restored all the same
                    stream.flush()
            for old, number in zip(saved, (1, 2), strict=True):
                os.dup2(old, number)
                os.close(old)
            if live is not None and live is _live:
                live.start()
