"""Writing it: lines of the code that each framework needs here for the same thing."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

from pipeline.framework_comparison.parts import EXACT, Found, Row, Run, Side

ORDER = 1
TITLE = "Writing it"
ABOUT = (
    "Lines of this project's own code with something on them that is neither a comment nor a docstring. Both are "
    "formatted by the same tool to the same width. Training is with data, augmentation and resuming; what both share "
    "(the loop over epochs, TensorBoard) and what only exports, where both go one way, is left out."
)

HOME = Path(__file__).parent.parent.parent / "frameworks"
FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "training: data, step, evaluation": {"torch": ("_fit.py", "_deployable.py"), "keras": ("_keras_fit.py",)},
    "training by several workers": {"torch": ("_ddp.py",), "keras": ("_distribute.py", "_meeting.py")},
    "weights files: read, checked, carried over": {"torch": ("_weights.py",), "keras": ("_keras.py",)},
    "the plug-in around it": {"torch": ("torch.py",), "keras": ("keras.py",)},
}
"""What each framework needs of pipeline/frameworks/ for the same thing."""

SKIPPED = frozenset({
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
})  # fmt: skip
"""Tokens that make no line a line of code."""


def prepare(run: Run) -> object:
    """See `Comparison.prepare`: the files themselves are what it is of."""
    return [run.model.file(name).read_text() for name in run.jobs], [
        path.read_text() for files in FILES.values() for names in files.values() for path in _paths(names)
    ]


def measure(run: Run) -> Found:
    """See `Comparison.measure`."""
    network = {name: _side((run.model.file(name),)) for name in run.jobs}
    rows = [_row("the network", network["torch"], network["keras"])]
    for what, files in FILES.items():
        rows.append(_row(what, *(_side(_paths(files[name])) for name in ("torch", "keras"))))
    return Found(tuple(rows))


def code_lines(source: str) -> int:
    """Lines with a token on them that is no comment and no docstring."""
    quiet = set(_docstrings(ast.parse(source)))
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SKIPPED:
            found.update(range(token.start[0], token.end[0] + 1))
    return len(found - quiet)


def _docstrings(tree: ast.AST) -> Iterator[int]:
    """Numbers of the lines of strings that stand alone: docstrings, also those below a constant."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _paths(names: tuple[str, ...]) -> tuple[Path, ...]:
    return tuple(HOME / name for name in names)


def _side(paths: tuple[Path, ...]) -> Side:
    return Side(((float(sum(code_lines(path.read_text()) for path in paths)),),))


def _row(what: str, torch: Side, keras: Side) -> Row:
    return Row("Lines of code", what, "lines", "lower", EXACT, {"torch": torch, "keras": keras})
