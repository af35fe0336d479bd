"""The documentation: the site builds without a warning, links resolve, commands exist, and the language is plain."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from edge_bench import cli as edge_bench
from invoke.parser import Parser, ParserContext

import tasks
from pipeline.core import ModelSpec
from tests.cli import ROOT, contexts

PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "benchmarks" / "README.md",
        ROOT / "edge-bench" / "README.md",
    ]
)
"""What people read."""

CODE = (
    "android-app",
    "benchmarks",
    "docs",
    "edge-bench",
    "models",
    "pipeline/__init__.py",
    "pipeline/android",
    "pipeline/core.py",
    "pipeline/datasets",
    "pipeline/devices",
    "pipeline/emulate",
    "pipeline/errors.py",
    "pipeline/formatting.py",
    "pipeline/framework_comparison",
    "pipeline/frameworks",
    "pipeline/recipes",
    "pipeline/registry.py",
    "pipeline/report",
    "pipeline/results",
    "pipeline/sources",
    "pipeline/stages",
    "pipeline/stats.py",
    "pipeline/system",
    "pipeline/targets",
    "tasks.py",
    "tests/datasets",
    "tests/devices",
    "tests/edge_bench",
    "tests/emulate",
    "tests/framework_comparison",
    "tests/frameworks",
    "tests/recipes",
    "tests/report",
    "tests/results",
    "tests/system",
    "tests/targets",
    "tests/test_stats.py",
)
"""Folders and files of code whose comments, docstrings and messages are held to the language too."""

INSTEAD = {
    r"pictures?": "image",
    r"mend(s|ed|ing)?": "fix",
    r"anew": "rebuild, measure again, …",
    r"thereby|hereby|whilst": "(leave it out)",
    r"neighbours?": "adjacent, the other plug-in",
    r"twins?": "counterpart, the other framework's version",
    r"(and|it) says so": "(say what is printed)",
    r"not whole( yet)?": "incomplete, partial",
    r"with commas between": "comma-separated",
    r"here and there": "on host and device",
    r"passed over": "skip",
    r"leaves? out": "omit, exclude",
    r"for a while": "temporary",
    r"given up after": "timeout",
    r"cells? that it concerns": "affected cells",
}
"""A regular expression of words that read as nobody writes, and what to write in their place."""

OTHER_TOOLS = {"--max-restarts": "torchrun", "--no-streaming": "adb"}
"""Options that the documentation names and that are not ours."""

CORE = {f"--{name}" for name in tasks.CORE}
"""Options that every task takes, or refuses."""

CONTEXTS = {name: task for task in contexts() for name in (task.name, *task.aliases)}
"""Every task with its options, by its names."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `inv docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def test_the_site_builds_without_a_warning(site: Path) -> None:
    assert (site / "index.html").is_file()


@pytest.mark.parametrize(
    "page", ["first-export", "own-model", "report", "raspberry-pi", "android", "plug-ins", "python-api"]
)
def test_the_site_has_a_page_for_each_first_step(site: Path, page: str) -> None:
    assert (site / f"{page}.html").is_file()


def test_the_site_fetches_nothing_from_outside(site: Path) -> None:
    loads = re.compile(
        r"<(?:script|img|iframe)[^>]*\ssrc=\"?(https?:[^\s\">]+)|<link[^>]*rel=\"?stylesheet[^>]*(https?:)"
    )
    found = {
        (path.name, *match.groups()) for path in site.rglob("*.html") for match in loads.finditer(path.read_text())
    }
    styles = {path.name for path in site.rglob("*.css") if re.search(r"url\([\"']?https?:", path.read_text())}
    assert (found, styles) == (set(), set())


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    text = _without_code(page.read_text())
    links = re.findall(r"\]\(([^)\s]+)\)|<img[^>]* src=\"([^\"]+)\"", text)
    wrong = []
    for link in (one or other for one, other in links):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            wrong.append(link)
    assert wrong == []


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", _without_code(page.read_text(), spans=False), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_command_exists_with_the_options_that_are_named(page: Path) -> None:
    wrong = []
    for line in (*_lines(page.read_text()), *_spans(page.read_text())):
        for name, rest in re.findall(r"(?<![\w-])(?:inv|(?:python|:\d+) tasks\.py) ([a-z][\w.]*)([^&|>#]*)", line):
            named = re.findall(r"(?<= )--[a-z][a-z-]*", rest)
            task = CONTEXTS.get(name)
            known = {*task.flags, *task.inverse_flags, *CORE} if task else set()
            wrong += [] if task else [f"there is no task {name}: {line}"]
            wrong += [f"{name} has no option {option}: {line}" for option in named if task and option not in known]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_command_line_can_be_parsed(page: Path) -> None:
    for line in _lines(page.read_text()):
        for command in re.findall(r"(?:^|/)(?:inv|tasks\.py) ([a-z][^&|>]*)", line):
            words = shlex.split(command, comments=True)
            Parser(contexts=tasks.namespace.to_contexts(), initial=ParserContext()).parse_argv(words)
        for command in re.findall(r"^edge-bench ([a-z][^>|]*)", line):
            edge_bench.parser().parse_args(shlex.split(command, comments=True))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_option_that_is_named_alone_exists(page: Path) -> None:
    known = {flag for task in CONTEXTS.values() for flag in (*task.flags, *task.inverse_flags)}
    for file in (ROOT / "edge-bench" / "src" / "edge_bench" / "cli.py", *(ROOT / "benchmarks").glob("*.py")):
        known |= set(re.findall(r'"(--[a-z][a-z-]+)"', file.read_text()))
    named = re.findall(r"(?<=`)--[a-z][a-z-]*", page.read_text())
    assert sorted({*named} - known - CORE - {*OTHER_TOOLS}) == []


def test_the_model_of_the_documentation_is_a_model() -> None:
    page = (ROOT / "docs" / "own-model.md").read_text()
    spec, network = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    read: dict[str, object] = {}
    exec(compile(spec, "__init__.py", "exec"), read)
    compile(network, "torch.py", "exec")
    assert isinstance(read["SPEC"], ModelSpec) and read["SPEC"].name == "my_model"


def test_the_report_has_the_sections_that_the_documentation_explains() -> None:
    page = (ROOT / "docs" / "report.md").read_text()
    explained = re.findall(r"^- \*\*(.+?)\*\*", page.split("## Other sections")[1].split("\n## ")[0], re.MULTILINE)
    written = "".join(path.read_text() for path in (ROOT / "pipeline" / "report").glob("*.py"))
    assert len(explained) > 4 and [name for name in explained if f'"{name}' not in written] == []


def test_the_kotlin_of_the_documentation_uses_names_of_the_library() -> None:
    (example,) = re.findall(r"```kotlin\n(.*?)```", (ROOT / "docs" / "android-app.md").read_text(), re.DOTALL)
    library = "".join(path.read_text() for path in (ROOT / "android-app" / "inference" / "src" / "main").rglob("*.kt"))
    used = {*re.findall(r"\b[A-Z]\w+\b|(?<=\.)[a-z]\w+\b", re.sub(r"//.*", "", example))} - {"use", "take", "forEach"}
    assert len(used) > 8 and sorted(name for name in used if not re.search(rf"\b{name}\b", library)) == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_pages_are_in_plain_language(page: Path) -> None:
    assert _unusual(_without_code(page.read_text())) == []


@pytest.mark.parametrize("place", CODE)
def test_code_is_in_plain_language(place: str) -> None:
    wrong = []
    for path in _sources(ROOT / place):
        wrong += [f"{_name(path)}: {line}" for text in _prose(path) for line in _unusual(text)]
    assert wrong == []


def _unusual(text: str) -> list[str]:
    """The phrases of INSTEAD in a text, each with its context and what to write."""
    text = " ".join(text.split())
    return [
        f"…{text[max(0, found.start() - 30) : found.end() + 30]}…: write {instead!r}"
        for phrase, instead in INSTEAD.items()
        for found in re.finditer(rf"(?<![\w.-]){phrase}(?!\w)", text, re.IGNORECASE)
    ]


def _sources(place: Path) -> list[Path]:
    """The Python and Kotlin files of a folder, or the file."""
    if place.is_file():
        return [place]
    found = [path for ending in ("py", "kt", "kts") for path in place.rglob(f"*.{ending}")]
    assert found, f"{place} has no code: correct CODE"
    return sorted(found)


def _prose(path: Path) -> Iterator[str]:
    """Comments and strings of a source file that have several words: a single one is a key or an option."""
    if path.suffix == ".py":
        with tokenize.open(path) as file:
            kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
            texts = [token.string for token in tokenize.generate_tokens(file.readline) if token.type in kinds]
    else:
        texts = KOTLIN_PROSE.findall(path.read_text())
    yield from (re.sub(r"\{[^{}]*\}|\$\w+", "", text) for text in texts if " " in text)


KOTLIN_PROSE = re.compile(r'/\*.*?\*/|//[^\n]*|""".*?"""|"(?:\\.|[^"\\\n])*"', re.DOTALL)
"""Comments and strings."""

BLOCK = re.compile(r"^```[\s\S]*?^```$|(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+", re.MULTILINE)
"""Fenced code, and paragraphs that are indented by four spaces."""


def _without_code(text: str, spans: bool = True) -> str:
    text = BLOCK.sub("", text)
    return re.sub(r"`[^`\n]+`", "`code`", text) if spans else text


def _lines(text: str) -> list[str]:
    """The lines of all blocks of code."""
    return [line.strip() for block in BLOCK.findall(text) for line in block.splitlines()]


def _spans(text: str) -> list[str]:
    """The spans of code in sentences."""
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
