"""MkDocs hooks: pages that lie outside docs/, and links between the two places.

On GitHub a link is relative to its file in the repository. The site has all pages in one folder, so such links are
rewritten here. A link to a file that is no page stays as it is, and the strict build reports it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "edge-bench/README.md": "edge-bench.md",
    **{f"edge-bench/schemas/{path.name}": f"schemas/{path.name}" for path in (ROOT / "edge-bench/schemas").iterdir()},
}
"""The pages and files outside docs/, by path in the repository, and their names on the site."""

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages outside docs/."""
    from mkdocs.structure.files import File

    for path, name in OUTSIDE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(text: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the links of a page."""
    paths = {name: path for path, name in OUTSIDE.items()}
    path = paths.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return LINK.sub(lambda link: _on_site(path, link[1]), text)


def _on_site(path: str, link: str) -> str:
    """A link of the file at `path` as it is on the site; any other than to a page or a file in docs/ unchanged."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    if target in OUTSIDE:
        return OUTSIDE[target]
    return target.removeprefix("docs/") if target.startswith("docs/") else link
