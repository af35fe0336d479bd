"""The errors that a user can fix.

EdgeBenchError          one line on stderr, exit code 2
  UnknownName           no such runtime: lists the known ones and the closest match
  BadPlugIn             a runtime of another package cannot be used, or its name is taken
  NotInstalled          the runtime is not installed: shows the command that installs it
  BadArtifact           the file is missing, or the runtime refuses it
  BadSamples            the samples are unreadable, or do not fit the model
  BadCpus               --cpus names CPUs that this process may not use
  BadBundle             a bundle cannot be read, or a file of it was changed
  CannotWrite           the result could not be written
"""

from __future__ import annotations


class EdgeBenchError(Exception):
    """An error message of one line: what is wrong, and what to do."""


class UnknownName(EdgeBenchError):
    """No file of a plug-in folder has this name."""


class BadPlugIn(EdgeBenchError):
    """A plug-in cannot be imported, lacks a function, or has the name of another one."""


class NotInstalled(EdgeBenchError):
    """The runtime's package is missing or cannot be imported."""


class BadArtifact(EdgeBenchError):
    """The model file is missing, its format is unknown, or its runtime refuses it."""


class BadSamples(EdgeBenchError):
    """The samples cannot be read, or do not fit the model's input."""


class BadBundle(EdgeBenchError):
    """A bundle cannot be read, or one of its files was changed."""


class BadCpus(EdgeBenchError):
    """The process cannot be pinned to these CPUs."""


class CannotWrite(EdgeBenchError):
    """The result could not be written. No partial file is left behind."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; runtimes often send paragraphs."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
