"""The import law: modules import from layers to their left, heavy packages only inside functions, and edge-bench
imports nothing of the host side."""

from __future__ import annotations

import ast
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).parent.parent

LAYERS = (
    ("core", "errors", "registry", "stats", "formatting"),
    ("system",),
    ("android", "emulate"),
    ("sources", "datasets", "tasks", "recipes", "targets"),
    ("frameworks", "devices", "packages"),
    ("results",),
    ("report",),
    ("stages",),
    ("framework_comparison", "pipeline"),
    ("tasks.py",),
)
"""A module may import from earlier layers, and from its own layer without cycles. "pipeline" is the public API in
pipeline/__init__.py."""

FOLDERS = ("datasets", "tasks", "recipes", "targets", "devices", "frameworks", "packages", "framework_comparison.parts")
FRAMEWORKS = {"torch": {"torch"}, "keras": {"keras", "tensorflow"}}


@dataclass(frozen=True)
class Import:
    """One name of an import statement.

    Attributes:
        module: full name of the import: "pipeline.system.store", "numpy".
        typing: whether it is under `if TYPE_CHECKING`.
        lazy: whether it is inside a function.
    """

    line: int
    module: str
    typing: bool
    lazy: bool
    path: Path = Path()

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]

    def at(self, root: Path) -> str:
        return f"{self.path.relative_to(root)}:{self.line}"


# -- reading -----------------------------------------------------------------------------------------------------------


def imports(path: Path, package: str = "") -> list[Import]:
    """Every import in a file; relative imports start from `package`."""
    return [replace(found, path=path) for found in _parsed(path.read_text(), package)]


@cache
def _parsed(text: str, package: str) -> tuple[Import, ...]:
    return tuple(_walk(ast.parse(text), package, typing=False, lazy=False))


def _walk(node: ast.AST, package: str, typing: bool, lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(child.lineno, alias.name, typing, lazy)
        elif isinstance(child, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
            base = ".".join([*parts, *([child.module] if child.module else [])])
            for alias in child.names:
                yield Import(child.lineno, f"{base}.{alias.name}", typing, lazy)
        elif isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from _walk(ast.Module(child.body, []), package, True, lazy)
            yield from _walk(ast.Module(child.orelse, []), package, typing, lazy)
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, package, typing, lazy or function)


def modules(root: Path) -> dict[str, Path]:
    """The files of pipeline/ by module name, and tasks.py."""
    found = {"tasks.py": root / "tasks.py"}
    for path in sorted((root / "pipeline").rglob("*.py")):
        found[".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def own(known: dict[str, Path], name: str) -> str | None:
    """The module of this project that `from a import b` imports: a.b if that is a file, otherwise a."""
    if name.split(".", maxsplit=1)[0] == "tasks":
        return "tasks.py"
    for candidate in (name, name.rpartition(".")[0]):
        if candidate in known and candidate != "pipeline":
            return candidate
    return None


def layer(name: str) -> int:
    """The index of a module's layer."""
    word = name.split(".")[1] if name.startswith("pipeline.") else name
    return next(i for i, names in enumerate(LAYERS) if word in names)


# -- the law -----------------------------------------------------------------------------------------------------------


def violations(root: Path) -> list[str]:
    """Every import below `root` that breaks the law, as a sentence."""
    return [
        *_to_the_right(root), *_circles(root), *_siblings(root), *_heavy(root), *_of_models(root), *_of_edge_bench(root)
    ]  # fmt: skip


def _arrows(root: Path) -> Iterator[tuple[str, str, Import]]:
    """(importer, imported, where) inside the project, including imports for types and inside functions."""
    known = modules(root)
    for name, path in known.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for found in imports(path, package):
            target = own(known, found.module)
            if target and target != name:
                yield name, target, found


def _to_the_right(root: Path) -> Iterator[str]:
    for name, target, where in _arrows(root):
        if layer(target) > layer(name):
            yield f"{where.at(root)}: {name} imports {target}, which is to its right"


def _circles(root: Path) -> Iterator[str]:
    """Modules that import each other, directly or through others."""
    graph: dict[str, set[str]] = {}
    for name, target, where in _arrows(root):
        if not where.typing and not name.startswith(f"{target}."):  # modules of a folder may use its __init__
            graph.setdefault(name, set()).add(target)

    def reaches(start: str, end: str, seen: set[str]) -> bool:
        nexts = graph.get(start, set()) - seen
        return end in nexts or any(reaches(n, end, seen | nexts) for n in nexts)

    yield from (f"{name} imports itself in a circle" for name in sorted(graph) if reaches(name, name, set()))


def _siblings(root: Path) -> Iterator[str]:
    """A plug-in imports no other plug-in of its folder. Shared code is in a file that begins with an underscore."""
    for name, target, where in _arrows(root):
        (folder, _, _), (other, _, plug_in) = name.rpartition("."), target.rpartition(".")
        if folder == other and folder.removeprefix("pipeline.") in FOLDERS and not plug_in.startswith("_"):
            yield f"{where.at(root)}: {name} imports {target}, another plug-in of its folder"


def _heavy(root: Path) -> Iterator[str]:
    """Outside functions, pipeline/ and tasks.py import only the standard library and pipeline/; tasks.py also invoke.

    In a plug-in folder, a file that begins with an underscore may import a framework at its top. Other modules then
    import this file only inside functions.
    """
    known = modules(root)
    loaded = {}
    for name, path in known.items():
        for found in imports(path):
            allowed = {"pipeline", "invoke"} if name == "tasks.py" else {"pipeline"}
            where = found.at(root)
            if found.package in ("invoke", "edge_bench") and found.package not in allowed:
                yield f"{where}: {name} imports {found.package}"
            elif found.package not in sys.stdlib_module_names | allowed and not found.lazy and not found.typing:
                helper = name.rpartition(".")[0].removeprefix("pipeline.") in FOLDERS and path.name.startswith("_")
                if helper and path.name != "__init__.py":
                    loaded[name] = found.package
                else:
                    yield f"{where}: {name} imports {found.package} outside a function"
    for name, target, found in _arrows(root):
        if target in loaded and not found.lazy and not found.typing and name not in loaded:
            yield f"{found.at(root)}: {name} imports {target}, and with it {loaded[target]}, outside a function"


def _of_models(root: Path) -> Iterator[str]:
    """SPEC uses only the public API; the code of a network also its framework and its own folder, whose other files may
    use NumPy."""
    for path in sorted((root / "models").glob("*/*.py")):
        framework = FRAMEWORKS.get(path.stem, set() if path.stem == "__init__" else {"numpy"})
        for found in imports(path, f"models.{path.parent.name}"):
            inside = found.module.startswith(f"models.{path.parent.name}.")
            api = found.module.removeprefix("pipeline.").removeprefix("core.")
            if not (api in pipeline.__all__ or inside or found.package in sys.stdlib_module_names | framework):
                yield f"{found.at(root)}: a model imports {found.module}"


def _of_edge_bench(root: Path) -> Iterator[str]:
    """The device side imports nothing of the host side, only numpy and one runtime."""
    source = root / "edge-bench" / "src"
    for path in sorted(source.rglob("*.py")):
        package = ".".join(path.parent.relative_to(source).parts)
        runtime = path.parent.name == "runtimes" and path.name != "__init__.py"
        for found in imports(path, package):
            if found.package in ("pipeline", "models", "invoke", "tasks"):
                yield f"{found.at(root)}: edge_bench imports {found.package}"
            elif found.package not in sys.stdlib_module_names | {"edge_bench", "numpy"} and not runtime:
                yield f"{found.at(root)}: edge_bench imports {found.package} outside runtimes/"


# -- the tests ---------------------------------------------------------------------------------------------------------


def test_the_project_keeps_the_import_law() -> None:
    assert violations(ROOT) == []


def test_every_entry_of_the_layers_exists() -> None:
    existing = {"tasks.py", *(name.split(".")[-1] for name in modules(ROOT) if name.count(".") < 2)}
    assert [name for names in LAYERS for name in names if name not in existing] == []


PLANTED = {
    "a stage in a noun": ("pipeline/core.py", "import pipeline.stages.train", "core imports pipeline.stages.train"),
    "a noun's own helper": ("pipeline/errors.py", "from pipeline.system import store", "imports pipeline.system.store"),
    "a stage in a target": ("pipeline/targets/onnx.py", "def f():\n    from pipeline.stages import push", "its right"),
    "a stage in a target, for types": (
        "pipeline/targets/onnx.py", "if TYPE_CHECKING:\n    from pipeline.stages.export import Outcome", "to its right",
    ),
    "another plug-in": ("pipeline/targets/onnx.py", "from pipeline.targets import tflite", "another plug-in"),
    "tasks in a report": ("pipeline/report/page.py", "from tasks import ROOT", "tasks.py, which is to its right"),
    "a circle": ("pipeline/stages/train.py", "def f():\n    from pipeline.stages.export import export", "in a circle"),
    "invoke": ("pipeline/report/page.py", "def f():\n    from invoke import task", "imports invoke"),
    "edge_bench": ("pipeline/stages/measure.py", "def f():\n    import edge_bench.cli", "imports edge_bench"),
    "torch at the top": ("pipeline/stages/train.py", "import torch", "imports torch outside a function"),
    "torch at the top of a try": (
        "pipeline/stages/_parity.py", "try:\n    import torch\nexcept ImportError:\n    pass", "outside a function",
    ),
    "torch in a class body": ("pipeline/system/proc.py", "class A:\n    import torch", "torch outside a function"),
    "numpy in tasks.py": ("tasks.py", "import numpy as np", "tasks.py imports numpy outside a function"),
    "numpy in a plug-in's __init__": ("pipeline/targets/__init__.py", "import numpy", "numpy outside a function"),
    "a helper that brings torch": (
        "pipeline/frameworks/torch.py", "from pipeline.frameworks import _torch_training",
        "and with it torch, outside a function",
    ),
    "another framework in a model": ("models/digits_cnn/torch.py", "import tensorflow", "a model imports tensorflow"),
    "torch in a SPEC": ("models/digits_cnn/__init__.py", "import torch", "a model imports torch"),
    "a stage in a model": ("models/digits_cnn/torch.py", "from pipeline.system import store", "pipeline.system.store"),
    "pipeline on the device": ("edge-bench/src/edge_bench/facts.py", "import pipeline.core", "imports pipeline"),
    "torch on the device": ("edge-bench/src/edge_bench/facts.py", "def f():\n    import torch", "outside runtimes/"),
}  # fmt: skip


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_violation_is_caught(tmp_path: Path, what: str) -> None:
    file, line, sentence = PLANTED[what]
    for name in ("pipeline", "models", "edge-bench/src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tasks.py", tmp_path)
    with (tmp_path / file).open("a") as source:
        source.write(f"\n{line}\n")
    found = violations(tmp_path)
    assert any(sentence in each for each in found), found


def test_allowed_imports_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "pipeline" / "frameworks").mkdir(parents=True)
    (tmp_path / "pipeline" / "stages").mkdir()
    (tmp_path / "models" / "net").mkdir(parents=True)
    for file, text in {
        "tasks.py": "from invoke import task\ndef f():\n    import numpy\n    from pipeline.stages import train",
        "pipeline/core.py": "import json\nfrom pipeline import errors",
        "pipeline/errors.py": "",
        "pipeline/stages/train.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
        "pipeline/frameworks/__init__.py": "from pipeline.core import Spec",
        "pipeline/frameworks/_fit.py": "import torch\nfrom pipeline.frameworks import Settings",
        "pipeline/frameworks/torch.py": "def f():\n    from pipeline.frameworks import _fit",
        "models/net/torch.py": "import torch.nn\nfrom . import blocks\nfrom pipeline.core import ModelSpec",
    }.items():
        (tmp_path / file).write_text(text)
    assert violations(tmp_path) == []
