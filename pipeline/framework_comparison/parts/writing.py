"""Code size: the lines of code that this project needs for the same thing in each framework."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

from pipeline.framework_comparison.parts import EXACT, Found, Row, Run, Side

ORDER = 1
TITLE = "Code size"
ABOUT = (
    "Lines of this project's code without comments, docstrings and blank lines. Both are formatted by the same tool to "
    "the same width. Training includes data, augmentation and resuming. Not counted: code that both share (the loop "
    "over epochs, TensorBoard) and code for exports, which take the same route."
)

HOME = Path(__file__).parent.parent.parent / "frameworks"
FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "training: data, step, evaluation": {
        "torch": ("_torch_training.py", "_normalization.py"),
        "keras": ("_keras_tensorflow.py",),
    },
    "training with several workers": {"torch": ("_torch_ddp.py",), "keras": ("_tf_distribute.py", "_rendezvous.py")},
    "weights files: reading, checking, conversion": {"torch": ("_torch_weights.py",), "keras": ("_keras.py",)},
    "the framework plug-in": {"torch": ("torch.py",), "keras": ("keras.py",)},
}
"""The files of pipeline/frameworks/ that each framework needs for the same thing."""

SKIPPED = frozenset({
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
    tokenize.ENDMARKER,
})  # fmt: skip
"""Tokens that do not make a line a line of code."""


def prepare(run: Run) -> object:
    """See `Comparison.prepare`. The counted files identify the result."""
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
    """The number of lines with code on them, without comments, docstrings and blank lines."""
    docstrings = set(_docstrings(ast.parse(source)))
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SKIPPED:
            found.update(range(token.start[0], token.end[0] + 1))
    return len(found - docstrings)


def _docstrings(tree: ast.AST) -> Iterator[int]:
    """The line numbers of all docstrings, including those below constants."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _paths(names: tuple[str, ...]) -> tuple[Path, ...]:
    return tuple(HOME / name for name in names)


def _side(paths: tuple[Path, ...]) -> Side:
    return Side(((float(sum(code_lines(path.read_text()) for path in paths)),),))


def _row(what: str, torch: Side, keras: Side) -> Row:
    return Row("Lines of code", what, "lines", "lower", EXACT, {"torch": torch, "keras": keras})
