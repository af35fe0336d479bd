"""Installs distributions into a folder on Python's path, as an installer does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def distribution(
    folder: Path,
    name: str,
    entry_points: Mapping[str, Mapping[str, str]],
    files: Mapping[str, str],
    version: str = "1.0",
    requires: Sequence[str] = (),
) -> Path:
    """Installs a distribution into a folder.

    Args:
        entry_points: group → name → module.
        files: path → text.

    Returns:
        The folder.
    """
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    (info / "METADATA").write_text("\n".join([*lines, "", "A plug-in.", ""]))
    sections = [
        "\n".join([f"[{group}]", *(f"{key} = {value}" for key, value in offered.items())])
        for group, offered in entry_points.items()
    ]
    (info / "entry_points.txt").write_text("\n\n".join(sections) + "\n")
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder
