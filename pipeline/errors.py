"""Every error a user can cause or must know of, in one tree.

    PipelineError                 one line on stderr, exit code 2
    ├── UnknownName               a model, target, recipe, device … that does not exist: lists the known
    ├── BadPlugIn                 a plug-in that cannot be used, or whose name is taken: names its package
    ├── BadOption                 an option's value that cannot be
    ├── BadModel                  a model folder that cannot be used
    ├── BadData                   a dataset that is missing, empty or unreadable: names the file
    ├── BadWeights                weights that do not fit, or a file that wants to run code
    ├── Unsupported               a combination that a target cannot do, with the reason
    ├── MissingExtra              a package that is not installed: names the install line
    ├── NeedsTool                 a program or system facility that is not there
    ├── Broken                    a file in build/ that cannot be what its manifest says
    ├── StageFailed               a converter, runtime or measurement that failed: names the log
    │   ├── ParityFailed          an export whose outputs are not the model's
    │   └── Unreachable           a device that does not answer, or a connection that was lost
    └── DiskFull                  no space left: nothing half-written remains

A message is one sentence that says what is wrong, and what would be right.
"""

from __future__ import annotations

from collections.abc import Iterable


class PipelineError(Exception):
    """The root: what a door prints as one line."""


class UnknownName(PipelineError):
    """A name that is not known; suggests the nearest, never substitutes it."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        from difflib import get_close_matches

        self.kind, self.name, self.known = kind, name, sorted(known)
        near = get_close_matches(name, self.known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}{hint} (known: {', '.join(self.known) or 'none'})")


class BadPlugIn(PipelineError):
    """A plug-in that cannot be imported, lacks a verb, or has a name that another one has."""


class BadOption(PipelineError):
    """An option whose value cannot be."""


class BadModel(PipelineError):
    """A model folder that cannot be used."""


class BadData(PipelineError):
    """A dataset that is missing, empty or unreadable."""


class BadWeights(PipelineError):
    """Weights that do not fit the model, or a file that is not only weights."""


class Unsupported(PipelineError):
    """A combination of model, recipe and target that cannot be done."""


class MissingExtra(PipelineError):
    """A package that an extra would bring: an extra of pyproject.toml, or of another package ("acme-lastmile[npu]")."""

    def __init__(self, package: str, extra: str) -> None:
        line = f"uv pip install '{extra}'"
        if "[" not in extra:
            line = f"add {extra} to LASTMILE_EXTRAS, or run: uv pip install '.[{extra}]'"
        super().__init__(f"{package} is not installed; install it: {line}")


class NeedsTool(PipelineError):
    """A program or system facility that is not there."""


class Broken(PipelineError):
    """A file whose content is not what its manifest says."""


class StageFailed(PipelineError):
    """A step that failed in a tool of others; its log is named."""


class ParityFailed(StageFailed):
    """An exported file whose outputs are not the model's."""


class Unreachable(StageFailed):
    """A device that does not answer, does not let us in, or went away."""


class DiskFull(PipelineError):
    """No space left on the device that holds the build folder."""


def first_line(error: BaseException) -> str:
    """The beginning of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def again(kind: str, says: str) -> PipelineError | None:
    """The error that another process raised, of its class's name and its text; None where that is not of this tree."""
    found = globals().get(kind)
    if not (isinstance(found, type) and issubclass(found, PipelineError)):
        return None
    raised = PipelineError.__new__(found)  # an UnknownName is made of other things than its text
    raised.args = (says,)
    return raised
