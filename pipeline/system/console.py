"""The consoles of the project: stdout for results, stderr for progress.

Colour, marks and live bars are for terminals. A pipe, NO_COLOR or TERM=dumb gets plain text; FORCE_COLOR gets colour
without a terminal. Only a terminal has a width: a piped line is never broken.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

UNLIMITED = 100_000
"""The width in columns where no terminal sets one."""


@cache
def console(stderr: bool = False) -> Console:
    """The console for results, or for progress. `is_terminal` says whether it shows colour and marks."""
    from rich.console import Console

    class Cursored(Console):
        """Never hides the cursor: a killed process could not bring it back."""

        def show_cursor(self, show: bool = True) -> bool:
            return False

    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "unknown")
    stream = sys.stderr if stderr else sys.stdout
    return Cursored(
        stderr=stderr,
        force_terminal=False if plain else None,
        width=None if stream.isatty() else UNLIMITED,
        markup=False,
        emoji=False,
        highlight=False,
    )
