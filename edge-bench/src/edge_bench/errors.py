"""The errors a user can mend.

EdgeBenchError          one line on stderr, exit code 2
  UnknownName           no such runtime: lists the known ones and the nearest
  BadPlugIn             a runtime of another package that cannot be used, or whose name is taken
  NotInstalled          the runtime is not there: names the install line
  BadArtifact           the file is missing, or the runtime refuses it
  BadSamples            the samples are unreadable, or do not fit the model
  CannotWrite           the result could not be written
"""

from __future__ import annotations


class EdgeBenchError(Exception):
    """What is wrong, and what would be right, in one line."""


class UnknownName(EdgeBenchError):
    """A name that no file of a plug-in folder has."""


class BadPlugIn(EdgeBenchError):
    """A plug-in that cannot be imported, lacks a verb, or has a name that another one has."""


class NotInstalled(EdgeBenchError):
    """A runtime whose package is missing or cannot be imported."""


class BadArtifact(EdgeBenchError):
    """A model file that is missing, of an unknown kind, or refused by its runtime."""


class BadSamples(EdgeBenchError):
    """Samples that cannot be read, or do not fit the model's input."""


class CannotWrite(EdgeBenchError):
    """A result that could not be written; nothing half-written is left behind."""


def first_line(error: BaseException) -> str:
    """What an exception says, as one line: runtimes like to send whole paragraphs."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
